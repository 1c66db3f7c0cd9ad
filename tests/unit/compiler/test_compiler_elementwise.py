"""Look-up tables and parametric Relu: as ONNX Runtime computes them, simulated within a step of real numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler.build_elementwise import lookup_table
from tinyfleet_compiler.graph import Lookup, Unary
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.importers.unary import MAKERS
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import Function, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

MORE: dict[str, dict[str, Any]] = {"LeakyRelu": {"alpha": 0.2}, "Elu": {"alpha": 0.7}, "HardSigmoid": {"alpha": 0.3}}


def unary(operator: str) -> tuple[Any, dict[str, Any]]:
    if operator == "Pow":
        return node("Pow", ["x", "e"]), {"e": np.float32(2.0)}
    return node(operator, ["x"], **MORE.get(operator, {})), {}


@pytest.mark.parametrize("operator", sorted(MAKERS))
def test_unary(tmp_path: Path, operator: str) -> None:
    made, constants = unary(operator)
    path = save_model(tmp_path / "m.onnx", [made], [1, 3, 4, 2], constants, opset=20)
    if operator not in ("Sqrt", "Log"):  # ONNX Runtime gives NaN below zero, we give 0
        same_as_onnxruntime(path, (3, 4, 2))
    rng = np.random.default_rng(1)
    compiled = build(path, rng.normal(0.0, 2.0, size=(40, 4, 2, 3)).astype(np.float32))
    assert [op.code for op in compiled.ops] == [OpCode.LUT_INT8]
    assert steps_apart(compiled, rng.integers(-128, 128, size=(30, 4, 2, 3)).astype(np.int8)) <= 1


def test_an_exponent_may_be_a_whole_number(tmp_path: Path) -> None:
    """ONNX Pow-12: base and exponent may differ in type."""
    path = save_model(tmp_path / "m.onnx", [node("Pow", ["x", "e"])], [1, 9], {"e": np.array(3, np.int64)})
    same_as_onnxruntime(path, (9,))
    assert load_graph(path, type="float32").nodes[0].unary == Unary(Function.WHOLE_POWER, 3.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_forms(tmp_path: Path, approximate: str) -> None:
    made = node("Gelu", ["x"], approximate=approximate)
    same_as_onnxruntime(save_model(tmp_path / "m.onnx", [made], [1, 40], opset=20), (40,))


@pytest.mark.parametrize(
    ("shape", "slopes", "code"),
    [
        ((4, 3, 2), (4, 1, 1), OpCode.PRELU),
        ((4, 3, 2), (1,), OpCode.LUT_INT8),
        ((6,), (6,), OpCode.PRELU),
        ((4, 3, 2), (4, 3, 2), OpCode.PRELU),
    ],
)
def test_prelu(tmp_path: Path, shape: tuple[int, ...], slopes: tuple[int, ...], code: OpCode) -> None:
    path = save_model(tmp_path / "m.onnx", [node("PRelu", ["x", "s"])], [1, *shape], {"s": floats(*slopes)})
    same_as_onnxruntime(path, shape)
    rng = np.random.default_rng(2)
    device = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    compiled = build(path, rng.normal(0.0, 2.0, size=(40, *device)).astype(np.float32))
    assert [op.code for op in compiled.ops] == [code]
    codes = rng.integers(-128, 128, size=(30, *device)).astype(np.int8)
    # The slopes themselves are rounded to 8 bits: half a step of the largest slope at the far end of the input.
    assert steps_apart(compiled, codes) <= 2


def test_bounded_functions_keep_their_whole_interval(tmp_path: Path) -> None:
    for operator, scale, zero in (("Sigmoid", 1 / 256, -128), ("Tanh", 1 / 128, 0)):
        path = save_model(tmp_path / "m.onnx", [node(operator, ["x"])], [1, 5])
        (output,) = build(path, np.full((4, 5), 0.1, np.float32)).image.outputs
        assert (output.scale, output.zero_point) == (scale, zero)


def test_a_table_is_computed_where_the_function_is_not() -> None:
    table = lookup_table(np.log, Quantization(0.1, 0), Quantization(0.01, 5))
    assert table[0] == 5  # NaN: the zero point
    assert table[128] == -128  # minus infinity
    assert table[138] == 5  # log(1)


@pytest.mark.parametrize(
    ("made", "constants", "reason"),
    [
        (node("Pow", ["x", "e"]), {"e": np.ones(3, np.float32)}, "several exponents"),
        (node("Pow", ["x", "x"]), {}, "not a constant"),
        (node("PRelu", ["x", "e"]), {"e": np.ones(2, np.float32)}, "do not fit"),
        (node("PRelu", ["x", "x"]), {}, "not a constant"),
    ],
)
def test_what_is_refused(tmp_path: Path, made: Any, constants: dict[str, Any], reason: str) -> None:
    imported = import_onnx(save_model(tmp_path / "m.onnx", [made], [1, 3], constants))
    assert imported.graph is None
    assert reason in imported.problems[0].reason


def test_a_lookup_runs_in_place(tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], "a"), node("Sigmoid", ["a"], "b"), node("Exp", ["b"])]
    compiled = build(save_model(tmp_path / "m.onnx", nodes, [1, 32]), np.random.default_rng(0).normal(size=(9, 32)))
    assert compiled.image.arena_bytes == 32
    assert all(isinstance(n, Lookup) for n in compiled.graph.nodes)
