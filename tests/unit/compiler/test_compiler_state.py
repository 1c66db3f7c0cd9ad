"""Models that keep state: declared links, what the device keeps, streams against ONNX Runtime, errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tinyfleet_compiler import CompileOptions, check_model, compile_model, layout, load_device_class, simulate
from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.errors import ImageError, ModelError, VerifyError
from tinyfleet_compiler.float_run import run_float, with_states
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.quantize.calibrate import calibrate
from tinyfleet_compiler.verify_plan import verify_plan
from unit.compiler.onnx_models import node, save_model
from unit.compiler.streaming_models import BANDS, HISTORY, compiled, stream, streaming_cnn

HOST = load_device_class("host")


def reference(model: Path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives when the caller keeps the state."""
    session = ort.InferenceSession(model.read_bytes())
    history, mean = np.zeros((1, 1, HISTORY, BANDS), np.float32), np.zeros((1, 6), np.float32)
    found = []
    for sample in x:
        y, history, mean = session.run(None, {"x": sample[None], "history": history, "mean": mean})
        found.append(y)
    return np.concatenate(found)


def test_a_stream_is_what_onnx_runtime_computes_with_the_state_carried_by_hand(tmp_path: Path) -> None:
    model = streaming_cnn(tmp_path / "m.onnx")
    image, x = compiled(tmp_path, model), stream(40, 5)
    wanted, output = reference(model, x), image.outputs[0]
    real = run_float(load_graph(model), {"x": np.moveaxis(x, 1, -1)})["y"]
    np.testing.assert_allclose(real, wanted, atol=1e-5)
    got = (simulate(image, np.moveaxis(x, 1, -1))["y"].astype(float) - output.zero_point) * output.scale
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


def test_the_device_keeps_what_is_declared(tmp_path: Path) -> None:
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    assert [t.name for t in (*image.inputs, *image.outputs)] == ["x", "y"]
    assert [(s.name, s.offset, s.size_bytes) for s in image.states] == [("history", 0, 48), ("mean", 48, 6)]
    assert image.state_bytes == 56  # the last one rounded up to four
    # Real zero, whatever code that is.
    zeros = {s.name: image.initial_state[s.offset] for s in image.states}
    read = {op.state: op.output_zero_point for op in image.ops if op.code is OpCode.STATE_READ}
    assert zeros == {"history": read[0], "mean": read[48]}


def test_the_smallest_arena_gives_the_same_stream(tmp_path: Path) -> None:
    model, x = streaming_cnn(tmp_path / "m.onnx"), stream(12, 6)
    np.savez(tmp_path / "c.npz", x=stream(24, 5))
    images = [
        read_image(compile_model(model, HOST, name="m", version="v", calibration=tmp_path / "c.npz", options=o).image)
        for o in (CompileOptions(), CompileOptions(optimize="ram"))
    ]
    first, second = (simulate(image, np.moveaxis(x, 1, -1))["y"] for image in images)
    np.testing.assert_array_equal(first, second)
    assert images[1].arena_bytes <= images[0].arena_bytes


def test_samples_are_one_stream_unless_the_state_is_reset(tmp_path: Path) -> None:
    image, x = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx")), np.moveaxis(stream(12, 6), 1, -1)
    whole = simulate(image, x)["y"]
    apart = simulate(image, x, reset_state=True)["y"]
    assert (whole[0] == apart[0]).all()
    assert (whole[1:] != apart[1:]).any(axis=1).all()
    singly = np.concatenate([simulate(image, x[i : i + 1])["y"] for i in range(12)])
    assert (singly == apart).all()


def test_pairs_of_the_command_line_and_of_the_metadata_are_the_same(tmp_path: Path) -> None:
    pairs = (("history_next", "history"), ("mean_next", "mean"))
    named = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    given = compiled(tmp_path, streaming_cnn(tmp_path / "n.onnx", metadata=False), states=pairs)
    assert named.data == given.data


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ((("nothing", "history"),), "no output 'nothing'; there are y, history_next, mean_next"),
        ((("history_next", "nothing"),), "no input 'nothing'; there are x, history, mean"),
        ((("history_next", "mean"),), "joins shapes"),
        ((("mean_next", "mean"), ("mean_next", "mean")), ""),
        ((("history_next", "history"), ("history_next", "history"), ("y", "history")), "another output feeds"),
        ((("history_next", ""),), "no input ''"),
    ],
)
def test_wrong_pairs_are_named(tmp_path: Path, pairs: tuple[tuple[str, str], ...], reason: str) -> None:
    report = check_model(streaming_cnn(tmp_path / "m.onnx", metadata=False), HOST, states=pairs)
    assert report.fits == (not reason)
    assert any(reason in problem.reason for problem in report.problems) or not reason


def test_a_model_needs_an_input_and_an_output_of_the_callers(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], (1, 4))
    (first, second) = check_model(path, HOST, states=(("y", "x"),)).problems
    assert "every output" in first.reason
    assert "every input" in second.reason


def test_a_delay_line_moves_bytes_only(tmp_path: Path) -> None:
    """y = what x was one inference ago: a state that is an output, and an input that becomes a state."""
    nodes = [node("Identity", ["held"], "y"), node("Relu", ["x"], "next")]
    path = save_model(tmp_path / "m.onnx", nodes, (), inputs={"x": (1, 4), "held": (1, 4)}, outputs=("y", "next"))
    x = np.abs(np.random.default_rng(3).normal(size=(9, 4))).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    options = CompileOptions(states=(("next", "held"),))
    image = read_image(
        compile_model(path, HOST, name="d", version="v1", calibration=tmp_path / "c.npz", options=options).image
    )
    y = simulate(image, x)["y"]
    step = image.outputs[0].scale
    real = (y.astype(float) - image.outputs[0].zero_point) * step
    assert not real[0].any()
    assert np.abs(real[1:] - x[:-1]).max() <= step


def test_the_plan_verifier_sees_a_state_that_is_read_too_late(tmp_path: Path) -> None:
    graph = load_graph(streaming_cnn(tmp_path / "m.onnx"))
    inputs = with_states(graph, {"x": np.moveaxis(stream(8), 1, -1)})
    made = compile_graph(graph, calibrate(graph, inputs), "min-max", Identity("m", "v1", "host"))
    sizes = made.plan.sizes | {"history#kept": 0, "mean#kept": 0}
    order = sorted(range(len(made.ops)), key=lambda i: made.ops[i].code is OpCode.STATE_READ)
    late = replace(made.image, ops=tuple(made.image.ops[i] for i in order))
    with pytest.raises(VerifyError, match="too late"):
        verify_plan(late, [made.ops[i] for i in order], sizes, ["x"], ["y"])


def test_states_that_share_bytes_or_leave_the_buffer_are_refused(tmp_path: Path) -> None:
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    at = image.header["golden_offset"] + image.header["golden_bytes"] + layout.STATES.size
    for name, value in (("state_offset", 56), ("state_offset", 2), ("size_bytes", 0), ("element", 4), ("fill", 128)):
        bent = bytearray(image.data)
        entry = layout.STATE.unpack(image.data, at) | {name: value}
        bent[at : at + layout.STATE.size] = layout.STATE.pack(entry)
        with pytest.raises(ImageError, match="state 0"):
            read_image(bytes(bent), check_crc=False)


def test_bad_text_in_the_metadata_is_a_problem_of_the_model(tmp_path: Path) -> None:
    path = streaming_cnn(tmp_path / "m.onnx", metadata=False)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "states", "history_next"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="no input ''"):
        load_graph(path)
