"""int16 operators, also those that no `.tflite` brings, held against real arithmetic on the codes they were given."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.numerics import dequantize
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.passes.mix_types import can_be_wide, mix_types
from tinyfleet_compiler.quantize.calibrate import calibrate
from unit.compiler.onnx_models import node, save_model
from unit.compiler.tflite_models import traced

CODES = np.random.default_rng(2).integers(-126, 127, (4, 3, 2, 3))
CODES[0, :, 0, 0] = 127  # the largest of each output channel, so that quantising the weights changes nothing
WEIGHTS = {"w": (CODES / 127).astype(np.float32)}
CASES: dict[str, tuple[onnx.NodeProto, dict[str, Any], OpCode, float]] = {
    "transposed": (node("ConvTranspose", ["x", "w"], strides=[2, 2]), WEIGHTS, OpCode.TRANSPOSE_CONV_2D_INT16, 0.5),
    "softplus": (node("Softplus", ["x"]), {}, OpCode.LUT_INT16, 1.5),
    "elu": (node("Elu", ["x"]), {}, OpCode.LUT_INT16, 1.5),
    "largest": (node("ReduceMax", ["x"], axes=[2], keepdims=1), {}, OpCode.REDUCE_MAX_INT16, 0.0),
    "smallest": (node("ReduceMin", ["x"], axes=[3], keepdims=1), {}, OpCode.REDUCE_MIN_INT16, 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_it_stays_near_real_arithmetic(tmp_path: Path, case: str) -> None:
    made, constants, code, bound = CASES[case]
    graph = load_graph(save_model(tmp_path / "m.onnx", [made], [1, 4, 5, 4], constants))
    x = np.random.default_rng(3).normal(size=(12, 5, 4, 4)).astype(np.float32)
    typed, copies = mix_types(graph, frozenset(n.output for n in graph.nodes if can_be_wide(n)))
    seen = calibrate(graph, {"x": x})
    compiled = compile_graph(
        typed, seen | {new: seen[old] for new, old in copies.items()}, "min-max", Identity("m", "v", "host")
    )
    place = next(i for i, op in enumerate(compiled.ops) if op.code is code)
    op, image = compiled.ops[place], compiled.image
    codes = traced(image, [np.random.default_rng(4).integers(-128, 128, (12, *image.inputs[0].shape), np.int8)])
    before = next(i for i, other in enumerate(compiled.ops) if other.output == op.inputs[0])
    source, result = (compiled.parameters[name] for name in (op.inputs[0], op.output))
    given = dequantize(codes[before].view(np.int16), source.scale, source.zero_point)
    wanted = next(iter(run_float(graph, {"x": given.reshape(x.shape).astype(np.float32)}).values()))
    steps = codes[place].view(np.int16) - np.clip(wanted.reshape(12, -1) / result.scale, -32768, 32767)
    assert np.abs(steps).max() <= 0.5 + bound, np.abs(steps).max()
