"""Reductions: imported as ONNX Runtime computes them, simulated within a step of real numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import load, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("opset", [12, 13, 20])
@pytest.mark.parametrize(
    ("shape", "axes", "keep"),
    [
        ((3, 4, 2), (2, 3), 1),
        ((3, 4, 2), (-1, -2), 0),
        ((3, 4, 2), (1,), 1),
        ((3, 4, 2), (1,), 0),
        ((3, 4, 2), (2,), 0),
        ((3, 4, 2), (3,), 1),
        ((3, 4, 2), (1, 2), 1),
        ((3, 4, 2), (1, 3), 0),
        ((3, 4, 2), (1, 2, 3), 1),
        ((5, 6), (1,), 0),
        ((5, 6), (2,), 1),
        ((7,), (1,), 1),
    ],
)
def test_reduction(
    tmp_path: Path, operator: str, opset: int, shape: tuple[int, ...], axes: tuple[int, ...], keep: int
) -> None:
    as_input = opset >= 18 or (opset >= 13 and operator == "ReduceSum")
    inputs, more = (["x", "a"], {}) if as_input else (["x"], {"axes": list(axes)})
    made = node(operator, inputs, keepdims=keep, **more)
    constants = {"a": np.array(axes)} if as_input else {}
    path = save_model(tmp_path / "m.onnx", [made], [1, *shape], constants, opset=opset)
    same_as_onnxruntime(path, shape)
    device = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    x = RNG.normal(0.3, 2.0, size=(60, *device)).astype(np.float32)
    compiled = build(path, x)
    codes = RNG.integers(-128, 128, size=(30, *device)).astype(np.int8)
    if axes == (1, 2):  # two reductions: two roundings, and a tensor between them that only holds what was calibrated
        source = compiled.image.inputs[0]
        assert steps_apart(compiled, quantize(x, source.scale, source.zero_point)) <= 3
    else:
        assert steps_apart(compiled, codes) <= 1


@pytest.mark.parametrize("made", [node("ReduceMean", ["x"]), node("ReduceMax", ["x"], axes=[0, 1, 2])])
def test_everything_is_reduced_in_one_sample(tmp_path: Path, made: Any) -> None:
    path = save_model(tmp_path / "m.onnx", [made], [1, 5, 6])
    assert load(path).shapes["y"] == (1, 1)


@pytest.mark.parametrize(
    ("shape", "axis", "keep"), [((10,), 1, 1), ((4, 5), -1, 0), ((3, 4, 2), 1, 0), ((3, 4, 2), 2, 1), ((256,), 1, 1)]
)
def test_arg_max(tmp_path: Path, shape: tuple[int, ...], axis: int, keep: int) -> None:
    path = save_model(tmp_path / "m.onnx", [node("ArgMax", ["x"], "i", axis=axis, keepdims=keep)], [1, *shape])
    # ONNX indices are int64; the test model declares its output as float.
    import onnx

    model = onnx.load(path)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, None))
    path.write_bytes(model.SerializeToString())
    same_as_onnxruntime(path, shape)
    device = (*shape[1:], shape[0]) if len(shape) == 3 else shape
    compiled = build(path, RNG.normal(size=(40, *device)).astype(np.float32))
    assert compiled.ops[0].code is OpCode.ARG_MAX
    assert steps_apart(compiled, RNG.integers(-128, 128, size=(30, *device)).astype(np.int8)) == 0


def test_a_mean_shares_the_arena_of_its_input(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("ReduceMean", ["x"], axes=[2, 3])], [1, 8, 4, 4])
    assert build(path, RNG.normal(size=(9, 4, 4, 8)).astype(np.float32)).image.arena_bytes == 128


@pytest.mark.parametrize(
    ("made", "shape", "reason"),
    [
        (node("ReduceMean", ["x"], axes=[0]), [1, 3], "batch"),
        (node("ReduceMean", ["x"], axes=[2]), [1, 3], "outside"),
        (node("ArgMax", ["x"], axis=0), [1, 3], "batch"),
        (node("ArgMax", ["x"], axis=1), [1, 257], "257 entries"),
        (node("ArgMax", ["x"], axis=1, select_last_index=1), [1, 7], "last"),
    ],
)
def test_what_is_refused(tmp_path: Path, made: Any, shape: list[int], reason: str) -> None:
    imported = import_onnx(save_model(tmp_path / "m.onnx", [made], shape))
    assert imported.graph is None
    assert reason in imported.problems[0].reason
