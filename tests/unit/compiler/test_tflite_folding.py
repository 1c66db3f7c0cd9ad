"""What converters write around a layer: moves to the batch for a dilation, shapes computed at run time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler.importers.tflite_graph import import_tflite
from tinyfleet_compiler.operators import OpCode
from unit.compiler.test_tflite_more import integers
from unit.compiler.test_tflite_operators import bias_codes, compare, layer_scales, scale, seeds, zero
from unit.compiler.tflite_models import Builder, codes, compiled_image, oracle, traced

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Layer:
    """A dilated convolution of (H, W, C), written with moves to the batch and back or with a dilation."""

    block: np.ndarray
    kernel: np.ndarray
    size: np.ndarray
    before: np.ndarray
    after: np.ndarray
    """Padding that TensorFlow asked for; moves pad more where the whole is not divisible by the block."""
    depthwise: bool
    seed: int

    def numbers(self) -> tuple[np.random.Generator, int, int, tuple[float, int], tuple[float, int], np.ndarray]:
        rng = np.random.default_rng(self.seed)
        inputs = int(rng.integers(1, 4))
        outputs = inputs * int(rng.integers(1, 3)) if self.depthwise else int(rng.integers(1, 5))
        source = scale(rng), zero(rng)
        depth = int(self.kernel.prod()) * (1 if self.depthwise else inputs)
        weights, result = layer_scales(rng, source[0], outputs, depth, True)
        return rng, inputs, outputs, source, (result, zero(rng)), weights

    def convolve(self, built: Builder, source: int, result: int, dilation: np.ndarray) -> None:
        rng, inputs, outputs, (step, _), _, weights = self.numbers()
        dims = (1, *map(int, self.kernel), outputs) if self.depthwise else (outputs, *map(int, self.kernel), inputs)
        w = built.tensor(dims, weights, data=codes(rng, *dims), axis=3 if self.depthwise else 0)
        b = built.tensor((outputs,), weights * step, data=bias_codes(rng, outputs, inputs))
        options: dict[str, Any] = {"strideH": 1, "strideW": 1, "padding": 1}
        options |= {"dilationHFactor": int(dilation[0]), "dilationWFactor": int(dilation[1])}
        if self.depthwise:
            options |= {"depthMultiplier": outputs // inputs, "kind": "DepthwiseConv2DOptions"}
            built.operator("DEPTHWISE_CONV_2D", [source, w, b], result, 3, **options)
        else:
            built.operator("CONV_2D", [source, w, b], result, 3, kind="Conv2DOptions", **options)

    def with_moves(self) -> bytes:
        _, inputs, outputs, source, grid, _ = self.numbers()
        built, wanted = Builder(), self.size + self.before + self.after - (self.kernel - 1) * self.block
        more = -(self.size + self.before + self.after) % self.block
        inner = (self.size + self.before + self.after + more) // self.block
        shown, batch = inner - (self.kernel - 1), int(self.block.prod())
        x, moved = (built.tensor((n, *map(int, s), inputs), *source) for n, s in ((1, self.size), (batch, inner)))
        made, y = (built.tensor((n, *map(int, s), outputs), *grid) for n, s in ((batch, shown), (1, wanted)))
        sizes = integers(built, *map(int, self.block))
        built.operator("SPACE_TO_BATCH_ND", [x, sizes, pairs(built, self.before, self.after + more)], moved, 1)
        self.convolve(built, moved, made, np.array([1, 1]))
        crops = pairs(built, 0 * wanted, shown * self.block - wanted)
        built.operator("BATCH_TO_SPACE_ND", [made, sizes, crops], y, 1)
        return built.data([x], [y])

    def with_dilation(self) -> bytes:
        _, inputs, outputs, source, grid, _ = self.numbers()
        built, padded = Builder(), self.size + self.before + self.after
        x, wide = (built.tensor((1, *map(int, s), inputs), *source) for s in (self.size, padded))
        y = built.tensor((1, *map(int, padded - (self.kernel - 1) * self.block), outputs), *grid)
        pads = pairs(built, np.array([0, *self.before, 0]), np.array([0, *self.after, 0]))
        built.operator("PAD", [x, pads], wide, 1, kind="PadOptions")
        self.convolve(built, wide, y, self.block)
        return built.data([x], [y])


def pairs(built: Builder, before: np.ndarray, after: np.ndarray) -> int:
    made = integers(built, *(int(v) for pair in zip(before, after, strict=True) for v in pair))
    built.graph.tensors[made].shape = [len(before), 2]
    return made


@few
@given(seeds, st.booleans(), st.booleans())
def test_a_dilated_convolution_of_an_image(tmp_path: Path, seed: int, depthwise: bool, same: bool) -> None:
    """SPACE_TO_BATCH_ND, CONV_2D, BATCH_TO_SPACE_ND become one operator. TFLM never says what its moves pad with, so
    that the oracle of padded ones is its own dilated convolution."""
    rng = np.random.default_rng(seed)
    block, kernel = rng.integers(1, 4, 2), rng.integers(1, 4, 2)
    reach = (kernel - 1) * block
    before = reach // 2 if same else 0 * reach
    size, after = reach + rng.integers(1, 6, 2), reach - before if same else 0 * reach
    layer = Layer(block, kernel, size, before, after, depthwise, seed)
    image = compiled_image(tmp_path, layer.with_moves())
    assert [op.code for op in image.ops] in ([OpCode.CONV_2D], [OpCode.DEPTHWISE_CONV_2D])
    sent = codes(rng, 5, *size, layer.numbers()[1])
    ours = traced(image, [sent])[-1]
    np.testing.assert_array_equal(ours, oracle(layer.with_dilation(), [sent])[0])
    if not same:
        np.testing.assert_array_equal(ours, oracle(layer.with_moves(), [sent])[0])


@pytest.mark.parametrize(("block", "across"), [(1, True), (2, True), (4, True), (3, False)])
def test_a_dilated_convolution_of_a_sequence(tmp_path: Path, block: int, across: bool) -> None:
    """A causal Conv1D as Keras is converted: an axis more around the convolution; as (H, W, C) it is the same."""
    axes = (0, 1) if across else (1, 0)

    def turned(first: int, second: int) -> np.ndarray:
        return np.array([first, second])[list(axes)]

    layer = Layer(turned(1, block), turned(1, 3), turned(1, 12), turned(0, 2 * block), turned(0, 0), False, block)
    _, inputs, outputs, source, grid, _ = layer.numbers()
    more = -(12 + 2 * block) % block
    inner = (12 + 2 * block + more) // block
    built = Builder()
    x, moved = built.tensor((1, 12, inputs), *source), built.tensor((block, inner, inputs), *source)
    size = integers(built, block)
    built.operator("SPACE_TO_BATCH_ND", [x, size, pairs(built, np.array([2 * block]), np.array([more]))], moved, 1)
    raised = built.tensor((block, *map(int, turned(1, inner)), inputs), *source)
    built.operator("EXPAND_DIMS", [moved, integers(built, 1 if across else 2)], raised, 1, kind="ExpandDimsOptions")
    made = built.tensor((block, *map(int, turned(1, inner - 2)), outputs), *grid)
    layer.convolve(built, raised, made, np.array([1, 1]))
    flat, y = built.tensor((block, inner - 2, outputs), *grid), built.tensor((1, 12, outputs), *grid)
    built.operator("RESHAPE", [made, integers(built, block, inner - 2, outputs)], flat, 1, kind="ReshapeOptions")
    built.operator("BATCH_TO_SPACE_ND", [flat, size, pairs(built, np.array([0]), np.array([more]))], y, 1)
    image = compiled_image(tmp_path, built.data([x], [y]))
    assert [op.code for op in image.ops] == [OpCode.CONV_2D]
    sent = codes(np.random.default_rng(block), 5, 12, inputs)
    wanted = oracle(layer.with_dilation(), [sent.reshape(5, *map(int, layer.size), inputs)])[0]
    np.testing.assert_array_equal(traced(image, [sent])[-1], wanted)


def test_moves_to_the_batch_without_a_convolution_are_named(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4, 3), 0.1, 0), built.tensor((2, 2, 3), 0.1, 0)
    pads = integers(built, 0, 0)
    built.graph.tensors[pads].shape = [1, 2]
    built.operator("SPACE_TO_BATCH_ND", [x, integers(built, 2), pads], y, 1)
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    problems = import_tflite(path).problems
    assert problems[0].operator == "SPACE_TO_BATCH_ND"
    assert "dilation" in problems[0].help


def test_a_shape_computed_at_run_time_is_a_constant(tmp_path: Path) -> None:
    """Keras' Reshape and Flatten: SHAPE, STRIDED_SLICE of the batch, PACK, RESHAPE."""
    built = Builder()
    x, y = built.tensor((1, 4, 6), 0.1, 5), built.tensor((1, 3, 8), 0.1, 5)
    whole, batch, wanted = built.tensor((3,), kind="i4"), built.tensor((), kind="i4"), built.tensor((3,), kind="i4")
    built.operator("SHAPE", [x], whole, 1, kind="ShapeOptions", outType=2)
    cut = [integers(built, v) for v in (0, 1, 1)]
    built.operator("STRIDED_SLICE", [whole, *cut], batch, 1, kind="StridedSliceOptions", shrinkAxisMask=1)
    sizes = [built.tensor((), data=np.array(v, np.int32)) for v in (3, 8)]
    built.operator("PACK", [batch, *sizes], wanted, 1, kind="PackOptions", valuesCount=3)
    built.operator("RESHAPE", [x, wanted], y, 1, kind="ReshapeOptions")
    z = built.tensor((1, 3, 8), 0.1, 5)
    built.operator("RELU6", [y], z, 1)
    data = built.data([x], [z])
    assert [op.code for op in compiled_image(tmp_path, data).ops] == [OpCode.RESCALE]
    compare(tmp_path, data, [codes(np.random.default_rng(1), 5, 4, 6)])


@pytest.mark.parametrize("operator", ["FILL", "ZEROS_LIKE"])
def test_a_tensor_filled_with_one_value_is_a_constant(tmp_path: Path, operator: str) -> None:
    """TFLM fills at run time; the sum with what it filled is that with a constant."""
    built = Builder()
    x, filled, y = (built.tensor((1, 3, 4), *grid) for grid in ((0.1, 5), (0.2, -7), (0.15, 3)))
    value = [built.tensor((), 0.2, -7, data=np.array(60, np.int8))]
    sources = [integers(built, 1, 3, 4), *value] if operator == "FILL" else [x]
    built.operator(operator, sources, filled, 1)
    built.operator("ADD", [x, filled], y, 2, kind="AddOptions")
    data = built.data([x], [y])
    assert [op.code for op in compiled_image(tmp_path, data).ops] == [OpCode.ADD]
    compare(tmp_path, data, [codes(np.random.default_rng(1), 5, 3, 4)])


@pytest.mark.parametrize("sizes", [(1, 1 << 15, 64), (1, 0, 4), (1, -1, 4)])
def test_a_filling_that_no_device_holds_is_named(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    built = Builder()
    x, filled, y = (built.tensor((1, 3, 4), 0.1, 5) for _ in range(3))
    value = built.tensor((), 0.1, 5, data=np.array(60, np.int8))
    built.operator("FILL", [integers(built, *sizes), value], filled, 1)
    built.operator("ADD", [x, filled], y, 2, kind="AddOptions")
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    (problem,) = import_tflite(path).problems
    assert (problem.operator, "constants" in problem.help) == ("FILL", True)


def test_a_shape_given_out_is_named(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4, 6), 0.1, 5), built.tensor((3,), kind="i4")
    built.operator("SHAPE", [x], y, 1, kind="ShapeOptions", outType=2)
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    assert import_tflite(path).problems


def test_reverse(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 3, 5, 2), 0.1, 5), built.tensor((1, 3, 5, 2), 0.1, 5)
    built.operator("REVERSE_V2", [x, integers(built, 2)], y, 1)
    sent = codes(np.random.default_rng(2), 4, 3, 5, 2)
    image = compiled_image(tmp_path, built.data([x], [y]))
    np.testing.assert_array_equal(traced(image, [sent])[-1].reshape(sent.shape), sent[:, :, ::-1])
