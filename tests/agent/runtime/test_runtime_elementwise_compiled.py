"""Whole models of element-wise operators and reductions: every op's output in C equals the simulator's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime.test_runtime_compiled import check_every_op, compiled
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model

SQUEEZE_AND_EXCITE = [
    node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
    node("HardSwish", ["c"], "h"),
    node("ReduceMean", ["h"], "m", axes=[2, 3]),
    node("Conv", ["m", "v"], "s"),
    node("HardSigmoid", ["s"], "g"),
    node("Mul", ["g", "h"], "e"),
    node("PRelu", ["e", "slopes"], "p"),
    node("ReduceMax", ["p"], "q", axes=[1], keepdims=0),
    node("Reshape", ["q", "flat"], "f"),
    node("LogSoftmax", ["f"], axis=-1),
]
NORMALISE = [
    node("ReduceMean", ["x"], "m", axes=[2, 3]),
    node("Sub", ["x", "m"], "d"),
    node("Pow", ["d", "two"], "sq"),
    node("ReduceMean", ["sq"], "mv", axes=[2, 3]),
    node("Add", ["mv", "one"], "ve"),
    node("Sqrt", ["ve"], "s"),
    node("Div", ["d", "s"], "n"),
    node("ReduceMin", ["n"], "low", axes=[1]),
    node("Max", ["n", "low"], "a"),
    node("Min", ["a", "limits"], "b"),
    node("Sub", ["limits", "b"], "r"),
    node("ReduceSum", ["r", "axes"], "t", keepdims=0),
    node("ArgMax", ["t"], axis=1),
]


@pytest.mark.parametrize(
    ("nodes", "codes"),
    [
        (SQUEEZE_AND_EXCITE, {"LUT_INT8", "REDUCE_SUM", "MUL", "PRELU", "REDUCE_MAX", "LOG_SOFTMAX"}),
        (NORMALISE, {"SUB", "NORMALIZE", "REDUCE_MIN", "MAXIMUM", "MINIMUM", "REDUCE_SUM", "ARG_MAX"}),
    ],
)
def test_compiled(nodes: list[Any], codes: set[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    constants: dict[str, Any] = {name: np.float32(value) for name, value in (("one", 1.0), ("two", 2.0))}
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 1, 1)), ("slopes", (4, 1, 1)), ("limits", (3, 1, 1))):
        constants[name] = rng.normal(size=shape).astype(np.float32)
    constants |= {"flat": np.array([1, 20]), "axes": np.array([2, 3])}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 3, 5, 4], constants)
    calibration = tmp_path / "calibration.npz"
    np.savez(calibration, x=rng.normal(size=(20, 3, 5, 4)).astype(np.float32))
    image = compiled(path, calibration)
    assert codes <= {OpCode(op.code).name for op in image.ops}
    check_every_op(image, samples=5, seed=3)
