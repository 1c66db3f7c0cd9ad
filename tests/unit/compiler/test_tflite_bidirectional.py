"""BIDIRECTIONAL_SEQUENCE_LSTM over real numbers against ONNX Runtime; forms that are not taken are named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tinyfleet_compiler import CompileOptions, check_model, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.recurrent_models import FEATURES, HOST, STEPS, UNITS, constants, layer
from unit.compiler.test_tflite_lstm import reshape
from unit.compiler.tflite_models import Builder

_TANH = 4
_ONNX_GATES = [0, 2, 3, 1]
"""Where the file's input, forget, cell and output gate are in ONNX."""
LEAST_SNR_DB = 32.0


def both_ways(
    *,
    steps: int = STEPS,
    merged: bool = True,
    time_major: bool = False,
    extra: dict[int, np.ndarray] | None = None,
    missing: tuple[int, ...] = (),
    island: bool = False,
    **changes: Any,
) -> bytes:
    """A model; `extra` gives inputs an array, `missing` takes them away, `island` puts it between int8 tensors."""
    built, arrays = Builder(), constants("LSTM", 0, ways=2)
    inputs: list[int] = []
    for way in (0, 1):
        parts = [arrays[name][way].reshape(4, UNITS, -1)[_ONNX_GATES] for name in ("w", "r")]
        bias = arrays["b"][way].reshape(2, 4, UNITS).sum(axis=0)[_ONNX_GATES]
        rows = [array for part in (*parts, bias) for array in part]
        made = [built.tensor(array.shape, data=array) for array in rows]
        inputs += [*made[:8], -1, -1, -1, *made[8:], -1, -1]
    for _ in range(4):
        inputs.append(built.tensor((1, UNITS), kind="f4"))
        built.graph.tensors[inputs[-1]].isVariable = True
    sizes = (steps, 1) if time_major else (1, steps)
    given = x = built.tensor((1, steps, FEATURES), *((0.03, 1) if island else ()), kind="i1" if island else "f4")
    if time_major:
        x = reshape(built, given, built.tensor((steps, 1, FEATURES), kind="f4"))
    if island:
        x = built.operator("DEQUANTIZE", [given], built.tensor((*sizes, FEATURES), kind="f4"))
    inputs = [x, *inputs, *[-1] * 9]
    for index, array in (extra or {}).items():
        inputs[index] = built.tensor(array.shape, data=array)
    inputs = [-1 if index in missing else tensor for index, tensor in enumerate(inputs)]
    widths = (changes.get("width", 2 * UNITS),) if merged else (UNITS, UNITS)
    outputs = [built.tensor((*sizes, width), kind="f4") for width in widths]
    options = {"fusedActivationFunction": changes.get("activation", _TANH), "timeMajor": time_major}
    options |= {"mergeOutputs": merged, "cellClip": changes.get("clip", 0.0)}
    kind = "BidirectionalSequenceLSTMOptions"
    built.operator("BIDIRECTIONAL_SEQUENCE_LSTM", inputs, outputs[0], 1, kind=kind, **options)
    built.graph.operators[-1].outputs = outputs
    if island:
        outputs = [built.operator("QUANTIZE", outputs, built.tensor((*sizes, widths[0]), 1 / 128, 0))]
    if time_major:
        turned = [built.tensor((1, steps, width), kind="f4") for width in widths]
        outputs = [reshape(built, one, other) for one, other in zip(outputs, turned, strict=True)]
    return built.data([given], outputs)


def in_onnxruntime(tmp_path: Path, x: np.ndarray) -> np.ndarray:
    """(N, steps, 2, U) of the same layers."""
    nodes = [layer("LSTM", ("rows",), "x w r b", direction="bidirectional"), node("Identity", ["rows"], "y")]
    path = save_model(tmp_path / "o.onnx", nodes, (x.shape[1], 1, FEATURES), constants("LSTM", 0, ways=2))
    session = onnxruntime.InferenceSession(path)
    return np.stack([session.run(None, {"x": row[:, None]})[0] for row in x])[:, :, :, 0]


def samples(steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(9).normal(0.0, 1.0, (24, steps, FEATURES)).astype(np.float32)


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("steps", [1, STEPS])
def test_over_float32_it_is_onnxruntimes_layer(tmp_path: Path, steps: int, merged: bool, time_major: bool) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(both_ways(steps=steps, merged=merged, time_major=time_major))
    options = CompileOptions(type="float32")
    image = read_image(compile_model(path, HOST, name="m", version="1", calibration=None, options=options).image)
    assert image.state_bytes == 0
    x = samples(steps)
    made, wanted = simulate(image, x), in_onnxruntime(tmp_path, x)
    ways = [wanted] if merged else [wanted[:, :, 0], wanted[:, :, 1]]
    for out, want in zip(image.outputs, ways, strict=True):
        np.testing.assert_allclose(made[out.name].reshape(len(x), -1), want.reshape(len(x), -1), rtol=0, atol=2e-6)


def test_it_becomes_int8_like_any_float_model(tmp_path: Path) -> None:
    path, x = tmp_path / "m.tflite", samples()
    path.write_bytes(both_ways())
    np.savez(tmp_path / "c.npz", x=x)
    image = read_image(compile_model(path, HOST, name="m", version="1", calibration=tmp_path / "c.npz").image)
    out, wanted = image.outputs[0], in_onnxruntime(tmp_path, x)
    real = (simulate(image, x)[out.name].astype(np.float64) - out.zero_point) * out.scale
    error = real.reshape(-1) - wanted.reshape(-1)
    assert 10.0 * np.log10((wanted.astype(np.float64) ** 2).sum() / (error**2).sum()) >= LEAST_SNR_DB


def test_between_codes_it_runs_over_float32(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(both_ways(island=True))
    (problem,) = (
        p
        for p in check_model(path, load_device_class("cortex-m0plus")).problems
        if p.operator.startswith("BIDIRECTIONAL")
    )
    assert "real numbers" in problem.reason
    image = read_image(compile_model(path, HOST, name="m", version="1", calibration=None).image)
    assert [op.code for op in image.ops].count(OpCode.LSTM_F32) == 2
    x = np.random.default_rng(1).integers(-128, 128, (8, STEPS, FEATURES)).astype(np.int8)
    wanted = in_onnxruntime(tmp_path, ((x.astype(np.float64) - 1) * np.float32(0.03)).astype(np.float32))
    made = simulate(image, x)[image.outputs[0].name].reshape(len(x), -1)
    assert np.abs(made - np.clip(wanted.reshape(len(x), -1) * 128.0, -128, 127)).max() <= 0.51


VECTOR = np.ones(UNITS, np.float32)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": {9: VECTOR}}, "has peepholes"),
        ({"extra": {28: VECTOR}}, "has peepholes"),
        ({"extra": {33: np.ones((UNITS, UNITS), np.float32)}}, "has a projection"),
        ({"extra": {39: np.ones((1, STEPS, FEATURES), np.float32)}}, "has an auxiliary input"),
        ({"missing": (18, 22, 29)}, "couples input and forget gate"),
        ({"missing": (3,)}, "is missing"),
        ({"missing": (36,)}, "is missing"),
        ({"extra": {20: np.ones((UNITS, FEATURES + 1), np.float32)}}, "has weights"),
        ({"extra": {2: np.ones((UNITS, FEATURES), np.int8)}}, "has weights"),
        ({"extra": {25: np.ones((UNITS, UNITS + 1), np.float32)}}, "has weights"),
        ({"extra": {14: np.ones(UNITS + 1, np.float32)}}, "has weights"),
        ({"extra": {1: np.ones((), np.float32)}}, "begins with"),
        ({"extra": {37: VECTOR}}, "begins with"),
        ({"activation": 1}, "activation other than tanh"),
        ({"clip": 3.0}, "clips its cell"),
        ({"clip": float("nan")}, "clips its cell"),
        ({"width": UNITS}, "gives"),
    ],
)
def test_other_forms_are_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "m.tflite").write_bytes(both_ways(**changes))
    (problem,) = check_model(tmp_path / "m.tflite", HOST).problems
    assert problem.operator == "BIDIRECTIONAL_SEQUENCE_LSTM"
    assert reason in problem.reason
    assert problem.help
