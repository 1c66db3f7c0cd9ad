"""Arithmetic on constants and shapes is folded on import, to ONNX Runtime's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tinyfleet_compiler.graph import Add
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.importers.unary import MAKERS
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def real(output: str) -> onnx.NodeProto:
    made: onnx.NodeProto = node("Cast", [output], "c", to=TensorProto.FLOAT)
    return made


A, B = floats(4, 6), floats(4, 6)
POSITIVE = np.abs(A) + np.float32(0.1)
CASES: dict[str, tuple[list[Any], tuple[int, ...], dict[str, Any]]] = {
    "shape of a constant": ([node("Shape", ["a"], "s"), real("s")], (2,), {"a": A}),
    "size of an activation": ([node("Size", ["x"], "s"), real("s")], (3, 2), {}),
    "size of a constant": ([node("Size", ["a"], "s"), real("s")], (3, 2), {"a": A}),
    "reshape with a zero": ([node("Reshape", ["a", "s"], "c")], (4, 2, 3), {"a": A, "s": ints(0, 2, -1)}),
    "flatten": ([node("Flatten", ["a"], "c", axis=-1)], (6, 4), {"a": floats(2, 3, 4)}),
    "tile": ([node("Tile", ["a", "r"], "c")], (8, 6), {"a": A, "r": ints(2, 1)}),
    "clip": ([node("Clip", ["a", "", "h"], "c")], (4, 6), {"a": A, "h": np.float32(0.2)}),
    "matmul": ([node("MatMul", ["a", "b"], "c")], (2, 4, 5), {"a": floats(2, 4, 6), "b": floats(6, 5)}),
    "matmul of vectors": ([node("MatMul", ["a", "b"], "c")], (4,), {"a": A, "b": floats(6)}),
    "whole quotients": (
        [node("Div", ["a", "b"], "q"), real("q")],
        (4,),
        {"a": ints(-7, 7, 8, -8), "b": ints(2, -2, 3, 4)},
    ),
    "remainder": ([node("Mod", ["a", "b"], "q"), real("q")], (4,), {"a": ints(-7, 7, 8, -8), "b": ints(3, -3, 3, 4)}),
    "fmod": ([node("Mod", ["a", "b"], "c", fmod=1)], (4, 6), {"a": A, "b": B}),
    "power of a whole number": (
        [node("Pow", ["a", "b"], "q"), real("q")],
        (3,),
        {"a": ints(2, 3, 9), "b": np.full(3, 0.5, np.float32)},
    ),
    "axes given twice": ([node("ReduceSum", ["a", "i"], "c", keepdims=0)], (4,), {"a": A, "i": ints(-1)}),
    "no axes at all": ([node("ReduceSum", ["a"], "c", noop_with_empty_axes=1)], (4, 6), {"a": A}),
    "whole mean": (
        [node("ReduceMean", ["a"], "q"), real("q")],
        (1,),
        {"a": np.array([-3, -4], np.int32)},
    ),
}


def check(path: Path, nodes: list[Any], shape: tuple[int, ...], constants: dict[str, Any], opset: int = 17) -> None:
    """The constant `c`, added to the input: one Add is left, of ONNX Runtime's numbers."""
    graph = same_as_onnxruntime(
        save_model(path / "m.onnx", [*nodes, node("Add", ["x", "c"])], [1, *shape], constants, opset=opset), shape
    )
    assert [type(n) for n in graph.nodes] == [Add]


@pytest.mark.parametrize("name", CASES)
def test_folding(tmp_path: Path, name: str) -> None:
    check(tmp_path, *CASES[name])


@pytest.mark.parametrize("operator", [*sorted(MAKERS.keys() - {"Pow"}), "Relu"])
def test_functions_of_one_element(tmp_path: Path, operator: str) -> None:
    values = POSITIVE if operator in ("Log", "Sqrt") else A
    check(tmp_path, [node(operator, ["a"], "c")], (4, 6), {"a": values}, opset=20)


@pytest.mark.parametrize("kind", ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"])
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(tmp_path: Path, kind: str, keep: int) -> None:
    axes: dict[str, Any] = {"i": ints(1)} if kind == "Sum" else {}
    given: dict[str, Any] = {} if axes else {"axes": [1]}
    made = node(f"Reduce{kind}", ["a", *axes], "c", keepdims=keep, **given)
    check(tmp_path, [made], (4, 1 if keep else 6, 3), {"a": floats(4, 6, 3) if keep else floats(4, 6, 6, 3)} | axes)


def test_a_split_constant_has_all_its_parts(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["a", "s"], ["p", "q"], name="split", axis=1)
    nodes = [split, node("Concat", ["q", "p"], "c", axis=1)]
    check(tmp_path, nodes, (4, 6), {"a": A, "s": ints(2, 4)})


def test_the_logarithm_of_zero_is_no_number_to_add(tmp_path: Path) -> None:
    nodes = [node("Log", ["a"], "c"), node("Add", ["x", "c"])]
    imported = import_onnx(save_model(tmp_path / "m.onnx", nodes, [1, 2], {"a": np.zeros(2, np.float32)}))
    assert [p.reason for p in imported.problems] == ["has a constant that is not finite"]


HUGE = {"n": ints(1 << 24), "column": ints(-1, 1), "row": ints(1, -1)}
LONG = [node("ConstantOfShape", ["n"], "a"), node("Reshape", ["a", "column"], "l"), node("Reshape", ["a", "row"], "r")]


@pytest.mark.parametrize(
    ("last", "constants"),
    [
        (node("MatMul", ["l", "r"], "c"), {}),
        (node("Tile", ["r", "t"], "c"), {"t": ints(1 << 20, 1)}),
        (node("Gather", ["r", "i"], "c", axis=0), {"i": np.zeros(1 << 10, np.int64)}),
        (node("Concat", ["a"] * 5, "c", axis=0), {}),
    ],
)
def test_huge_constants_are_not_made(tmp_path: Path, last: onnx.NodeProto, constants: dict[str, Any]) -> None:
    path = save_model(tmp_path / "m.onnx", [*LONG, last, node("Add", ["x", "c"])], [1, 4], HUGE | constants)
    assert [(p.operator, p.reason) for p in import_onnx(path).problems] == [(last.op_type, "makes a huge constant")]


def test_whole_numbers_are_not_divided_by_zero(tmp_path: Path) -> None:
    nodes = [node("Div", ["a", "b"], "q"), real("q"), node("Add", ["x", "c"])]
    imported = import_onnx(save_model(tmp_path / "m.onnx", nodes, [1, 1], {"a": ints(3), "b": ints(0)}))
    assert [p.reason for p in imported.problems] == ["divides by zero"]
