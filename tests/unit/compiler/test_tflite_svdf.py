"""SVDF gives TensorFlow Lite Micro's bytes over streams, with int8 and int16 state; wrong ones are named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import check_model, simulate
from unit.compiler.tflite_models import HOST, Builder, codes, compiled_image, oracle

many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STEPS = 12


def svdf(seed: int, wide: bool, *, rank: int = 0, state_type: str = "") -> tuple[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    units, memory, features = int(rng.integers(1, 7)), int(rng.integers(1, 9)), int(rng.integers(1, 12))
    factor = int(rng.integers(1, 4))
    filters, kind = units * factor, np.int16 if wide else np.int8
    source, weight = (float(np.float32(2.0 ** rng.uniform(-8, -2))) for _ in range(2))
    time = float(np.float32(2.0 ** rng.uniform(-14, -9) if wide else 2.0 ** rng.uniform(-9, -5)))
    # Sums over the input reach what the state holds, sums over the time the output.
    kept = float(np.float32(source * weight * 4000.0 * np.sqrt(features) / (32000 if wide else 120)))
    most = 2000 if wide else 127
    over_time = rng.integers(-most, most + 1, (filters, memory)).astype(kind)
    result = float(np.float32(kept * time * most * (9000.0 if wide else 50.0) * np.sqrt(memory * factor) / 100.0))
    built = Builder()
    x = built.tensor((1, features), source, int(rng.integers(-128, 128)))
    first = built.tensor((filters, features), weight, data=codes(rng, filters, features))
    second = built.tensor((filters, memory), time, data=over_time)
    bias = built.tensor((units,), kept * time, data=rng.integers(-9999, 9999, units).astype(np.int32))
    zero = 0 if wide else int(rng.integers(-20, 21))
    state = built.tensor((1, filters * memory), kept, zero, kind=state_type or ("i2" if wide else "i1"))
    built.graph.tensors[state].isVariable = True
    y = built.tensor((1, units), result, int(rng.integers(-128, 128)))
    built.operator("SVDF", [x, first, second, bias, state], y, 3, kind="SVDFOptions", rank=rank or factor)
    return built.data([x], [y]), codes(rng, STEPS, features)


@many
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_stream_through_svdf_is_tflms(tmp_path: Path, seed: int, wide: bool) -> None:
    data, x = svdf(seed, wide)
    (wanted,) = oracle(data, [x])
    image = compiled_image(tmp_path, data)
    np.testing.assert_array_equal(simulate(image, x)[image.outputs[0].name].reshape(STEPS, -1), wanted)


@pytest.mark.parametrize(("rank", "state"), [(97, ""), (-1, ""), (0, "i4")])
def test_a_wrong_svdf_is_named(tmp_path: Path, rank: int, state: str) -> None:
    (tmp_path / "m.tflite").write_bytes(svdf(3, True, rank=rank, state_type=state)[0])
    (problem,) = check_model(tmp_path / "m.tflite", HOST).problems
    assert problem.operator == "SVDF"
    assert "has rank" in problem.reason or "keeps a state" in problem.reason
