"""Options of a version's builds: what a push may ask for, and that a build does it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import Budgets, device_class_text, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_service.builds.compile import CompileJob, compile_job
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.models import BuildState
from tinyfleet_service.errors import InvalidInputError, ModelInvalidError
from tinyfleet_service.registry.build_options import BuildOptions, read_build_options
from tinyfleet_service.registry.uploads import Uploads, check_uploads
from unit.compiler.onnx_models import save_samples, small_cnn
from unit.compiler.streaming_models import stream, streaming_cnn


def test_every_option_reaches_the_compiler() -> None:
    sent = {
        "metric": "mse", "type": "int8", "optimize": "ram", "dims": {"time": 49}, "states": [["a", "b"]],
        "front_end": "rate_hz = 8000", "prune_channels": 0.3, "prune_weights": "auto", "accuracy_budget": 0.5,
        "search": True, "flash_budget": 9000, "arena_budget": 8000, "search_seconds": 30.0,
    }  # fmt: skip
    assert set(sent) == set(BuildOptions.model_fields)
    options = read_build_options(sent).compile_options()
    assert (options.optimize, options.dims, options.states) == ("ram", {"time": 49}, (("a", "b"),))
    assert (options.prune.channels, options.prune.weights, options.prune.budget_points) == (0.3, "auto", 0.5)
    assert options.search == Budgets(9000, 8000, 0.5, 30.0)
    assert options.front_end == "rate_hz = 8000"


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"metric": "evil.py:run"}, "metric"),
        ({"base": "x"}, "base"),
        ({"optimize": "best"}, "optimize"),
        ({"prune_channels": 1.5}, "use a share"),
        ({"flash_budget": 100}, "without search"),
        ({"accuracy_budget": 1.0}, "without search or pruning"),
        ({"search": True, "type": "float32"}, "integer types"),
        ({"search": True, "search_seconds": 1e9}, "search_seconds"),
        ({"dims": {"time": "many"}}, "dims.time"),
        ({"states": [["a"]]}, "states"),
        ({"front_end": "x" * 100_000}, "front_end"),
    ],
)
def test_what_a_build_cannot_do_is_named(sent: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        read_build_options(sent)


def job(model: Path, calibration: Path | None, **options: Any) -> CompileJob:
    store = BlobStore(model.parent / "blobs")
    samples = store.put(calibration.read_bytes()) if calibration else None
    digest, toml = store.put(model.read_bytes()), device_class_text("cortex-m4")
    return CompileJob(1, store, digest, model.name, toml, "m", "v1", samples, options=options)


def test_a_build_keeps_the_states_it_was_pushed_with(tmp_path: Path) -> None:
    model = streaming_cnn(tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=stream(24, 5))
    options = {"optimize": "ram"}
    check_uploads(Uploads(model, tmp_path / "c.npz"), read_build_options(options), 1 << 20)
    done = compile_job(job(model, tmp_path / "c.npz", **options))
    assert done.state is BuildState.AWAITING_SIGNATURE, done.error
    assert done.report["memory_plan"]["optimize"] == "ram"
    assert done.report["state_bytes"] > 0


def test_a_build_prunes_and_searches(tmp_path: Path) -> None:
    model, data = small_cnn(tmp_path / "m.onnx"), save_samples(tmp_path / "c.npz", (2, 8, 6), 64)
    done = compile_job(job(model, data, prune_channels=0.2, search=True, flash_budget=1))
    assert done.state is BuildState.AWAITING_SIGNATURE, done.error
    assert done.report["pruning"]["channels"]
    assert done.report["quantization"]["search"]["int4_layers"]


def test_a_float32_version_needs_no_calibration(tmp_path: Path) -> None:
    model = small_cnn(tmp_path / "m.onnx")
    with pytest.raises(InvalidInputError, match="calibration"):
        check_uploads(Uploads(model), BuildOptions(), 1 << 20)
    check_uploads(Uploads(model), BuildOptions(type="float32"), 1 << 20)
    done = compile_job(job(model, None, type="float32"))
    assert OpCode.CONV_2D_F32 in {op.code for op in read_image(done.image).ops}


def test_wrong_states_are_a_problem_of_the_push(tmp_path: Path) -> None:
    model = small_cnn(tmp_path / "m.onnx")
    with pytest.raises(ModelInvalidError, match="cannot be compiled"):
        check_uploads(Uploads(model), BuildOptions(states=[("y", "nothing")]), 1 << 20)


def test_options_that_no_longer_hold_fail_the_build_with_their_name(tmp_path: Path) -> None:
    done = compile_job(job(small_cnn(tmp_path / "m.onnx"), None, colour="red"))
    assert (done.state, "colour" in done.error) == (BuildState.FAILED, True)
