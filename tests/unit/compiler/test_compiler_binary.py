"""Operators over two operands: imported and broadcast as ONNX Runtime does, simulated within a step of real numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import check_model, load_device_class
from tinyfleet_compiler.broadcast import broadcast_walk
from tinyfleet_compiler.graph import Conv, Gemm
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, load, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

RNG = np.random.default_rng(9)
IMAGE = (3, 4, 2)
PER_CHANNEL = {"c": floats(3, 1, 1) + 0.1}
SCALAR = {"c": np.float32(0.7)}


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (4, 1), (3, 1, 1), (1, 4, 1), (3, 1, 2), (1, 3, 4, 2), (1, 1, 1, 2)])
@pytest.mark.parametrize("first", [False, True])
def test_constant_operand(tmp_path: Path, operator: str, shape: tuple[int, ...], first: bool) -> None:
    names = ["c", "x"] if first else ["x", "c"]
    constant = np.abs(RNG.normal(size=shape)).astype(np.float32) + np.float32(0.2)
    path = save_model(tmp_path / "m.onnx", [node(operator, names)], [1, *IMAGE], {"c": constant})
    same_as_onnxruntime(path, IMAGE, 1e-4)
    if operator == "Div" and first:
        return  # endless at zero; its integers are tested against real quotients in tests/agent/runtime
    compiled = build(path, RNG.normal(0.0, 2.0, size=(60, 4, 2, 3)).astype(np.float32))
    codes = RNG.integers(-128, 128, size=(30, 4, 2, 3)).astype(np.int8)
    # A constant is rounded to 8 bits of its own largest value: half a step more at the far end of a product.
    assert steps_apart(compiled, codes) <= (2 if operator in ("Mul", "Div") else 1)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("GlobalAveragePool", ["x"], "g"), node("Mul", ["x", "g"])], IMAGE),
        ([node("GlobalAveragePool", ["x"], "g"), node("Sub", ["g", "x"])], IMAGE),
        ([node("GlobalAveragePool", ["x"], "g"), node("Add", ["x", "g"], "r"), node("Relu", ["r"])], IMAGE),
        ([node("Tanh", ["x"], "t"), node("Max", ["x", "t"])], (7,)),
        ([node("Tanh", ["x"], "t"), node("Min", ["x", "t"])], (5, 6)),
        ([node("Sigmoid", ["x"], "s"), node("Mul", ["x", "s"])], IMAGE),
        ([node("Mul", ["x", "x"])], (9,)),
        ([node("Unsqueeze", ["x", "a"], "u"), node("Mul", ["x", "u"])], (4,)),  # outer product, (4,) with (1, 4)
        ([node("Unsqueeze", ["x", "b"], "u"), node("Sub", ["x", "u"])], (4,)),  # (4,) with (4, 1)
        ([node("Max", ["x"])], (4,)),
    ],
)
def test_two_activations(tmp_path: Path, nodes: list[Any], shape: tuple[int, ...]) -> None:
    axes = {"a": np.array([1]), "b": np.array([2])}
    nodes = [*nodes, node("Relu", ["y"], "z")] if len(nodes) == 1 and nodes[0].op_type == "Max" else nodes
    outputs = ("z",) if nodes[-1].op_type == "Relu" and nodes[-1].output[0] == "z" else ("y",)
    path = save_model(tmp_path / "m.onnx", nodes, [1, *shape], axes, outputs=outputs)
    same_as_onnxruntime(path, shape)
    device = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    compiled = build(path, RNG.normal(0.2, 2.0, size=(60, *device)).astype(np.float32))
    # Roundings in a row: an inner tensor is up to half a step off before the operator sees it, a product scales that.
    assert steps_apart(compiled, RNG.integers(-128, 128, size=(30, *device)).astype(np.int8)) <= 3


@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize(
    "names", [["x"], ["x", "t"], ["x", "t", "g"], ["c", "x", "t", "d"], ["g", "c", "d"], ["x"] * 5]
)
def test_any_number_of_operands(tmp_path: Path, operator: str, names: list[str]) -> None:
    """Activations are joined two by two, constants are one."""
    nodes = [node("Tanh", ["x"], "t"), node("GlobalAveragePool", ["x"], "g"), node(operator, names, "j")]
    constants = {"c": floats(3, 1, 1), "d": floats(1, 4, 1)}
    path = save_model(tmp_path / "m.onnx", [*nodes, node("Neg", ["j"])], [1, *IMAGE], constants)
    same_as_onnxruntime(path, IMAGE)
    compiled = build(path, RNG.normal(0.2, 2.0, size=(60, 4, 2, 3)).astype(np.float32))
    assert steps_apart(compiled, RNG.integers(-128, 128, size=(30, 4, 2, 3)).astype(np.int8)) <= 4
    assert sum(op.code is not OpCode.LUT_INT8 for op in compiled.ops) <= len(names) + 2


def test_quotient_of_two_activations(tmp_path: Path) -> None:
    nodes = [node("GlobalAveragePool", ["x"], "g"), node("Sigmoid", ["g"], "s"), node("Add", ["s", "one"], "d")]
    nodes.append(node("Div", ["x", "d"]))
    path = save_model(tmp_path / "m.onnx", nodes, [1, *IMAGE], {"one": np.float32(1.0)})
    same_as_onnxruntime(path, IMAGE)
    x = RNG.normal(0.0, 2.0, size=(60, 4, 2, 3)).astype(np.float32)
    compiled = build(path, x)
    assert compiled.ops[-1].code is OpCode.DIV
    source = compiled.image.inputs[0]
    # What was calibrated: the divisor holds no more. It is a pooled value's sigmoid, three roundings.
    assert steps_apart(compiled, quantize(x, source.scale, source.zero_point)) <= 3


@pytest.mark.parametrize("constant", [PER_CHANNEL, SCALAR])
def test_a_factor_goes_into_the_convolution(tmp_path: Path, constant: dict[str, Any]) -> None:
    nodes = [node("Conv", ["x", "w", "b"], "v"), node("Mul", ["c", "v"])]
    values = {"w": floats(3, 3, 1, 1), "b": floats(3), **constant}
    path = save_model(tmp_path / "m.onnx", nodes, [1, *IMAGE], values)
    graph = same_as_onnxruntime(path, IMAGE)
    assert [type(n) for n in graph.nodes] == [Conv]


def test_a_factor_goes_into_the_product(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w", "b"], "v"), node("Div", ["v", "c"])]
    values = {"w": floats(6, 4), "b": floats(4), "c": np.abs(floats(4)) + 0.5}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 6], values)
    assert [type(n) for n in same_as_onnxruntime(path, (6,)).nodes] == [Gemm]


def test_a_factor_that_varies_by_place_stays(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], "v"), node("Mul", ["v", "c"])]
    path = save_model(tmp_path / "m.onnx", nodes, [1, *IMAGE], {"w": floats(3, 3, 1, 1), "c": floats(1, 4, 1)})
    same_as_onnxruntime(path, IMAGE)
    assert len(load(path).nodes) == 2


def test_only_a_whole_operand_is_overwritten(tmp_path: Path) -> None:
    nodes = [node("Tanh", ["x"], "t"), node("GlobalAveragePool", ["t"], "g"), node("Mul", ["g", "t"])]
    compiled = build(save_model(tmp_path / "m.onnx", nodes, [1, 8, 4, 4]), floats(9, 4, 4, 8))
    assert compiled.ops[-1].overlapping_inputs == ("t",)
    assert compiled.image.arena_bytes == 128 + 8


def test_walk_joins_axes() -> None:
    walk = broadcast_walk((2, 3, 4), (1, 1, 4), (2, 3, 4))
    assert (walk.dims, walk.repeats, walk.repeats_b) == ((1, 6, 4), 0, 0b010)
    assert broadcast_walk((5, 6), (5, 6), (5, 6)).dims == (1, 1, 30)
    assert broadcast_walk((2, 1, 4), (1, 3, 1), (2, 3, 4)).repeats_b == 0b101


@pytest.mark.parametrize(
    ("made", "constants", "reason"),
    [
        (node("Div", ["x", "c"]), {"c": np.float32(0.0)}, "divides by zero"),
        (node("Mul", ["x", "c"]), {"c": np.ones(4, np.float32)}, "joins shapes"),
        (node("Mul", ["x", "c"]), {"c": np.ones((2, 3), np.float32)}, "has a constant"),
        (node("Mul", ["x", "c"]), {"c": np.ones(3, np.int64)}, "type int64"),
        (node("Max", ["x"] * 65), {}, "65 inputs"),
        (node("Sum", ["x", "", "x"]), {}, "leaves one of its inputs out"),
    ],
)
def test_what_is_refused(tmp_path: Path, made: Any, constants: dict[str, Any], reason: str) -> None:
    imported = import_onnx(save_model(tmp_path / "m.onnx", [made], [1, 3], constants))
    assert imported.graph is None
    assert reason in imported.problems[0].reason


@pytest.mark.parametrize("operator", ["Add", "Sub"])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_a_sum_that_leaves_int32_is_named(tmp_path: Path, operator: str, shape: tuple[int, ...]) -> None:
    """A mask of -1e9 beside numbers near 1, as attention has it: check lists it."""
    nodes = [node("Sigmoid", ["x"], "s"), node(operator, ["s", "m"])]
    mask = np.zeros(shape, np.float32)
    mask[..., 0] = -1e9
    report = check_model(save_model(tmp_path / "m.onnx", nodes, [1, 1, 4], {"m": mask}), load_device_class("cortex-m4"))
    (problem,) = report.problems
    assert "vanishing part" in str(problem)
