"""The TFLite cells of docs/operators.md: one small file an operator, of codes or of real numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unit.compiler.test_tflite_bidirectional import both_ways
from unit.compiler.test_tflite_lstm import lstm
from unit.compiler.tflite_models import Builder

GRID = (0.05, 3)
_FIXED = {
    "LOGISTIC": (1 / 256, -128),
    "SOFTMAX": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "L2_NORMALIZATION": (1 / 128, 0),
}
_FIXED["LOG_SOFTMAX"] = (16 / 256, 127)
IMAGE, SEQUENCE, VECTOR = (1, 6, 6, 4), (1, 12, 4), (1, 12)


class Cell:
    """One model: tensors are int8 codes, or float32."""

    def __init__(self, *, quantized: bool) -> None:
        self.quantized, self.built, self.rng = quantized, Builder(), np.random.default_rng(3)
        self.inputs: list[int] = []

    def made(self, *shape: int, grid: tuple[float, int] = GRID) -> int:
        """A tensor that an operator writes."""
        return self.built.tensor(shape, *grid) if self.quantized else self.built.tensor(shape, kind="f4")

    def given(self, *shape: int) -> int:
        """An input of the model."""
        self.inputs.append(self.made(*shape))
        return self.inputs[-1]

    def constant(self, *shape: int, grid: tuple[float, int] = (0.01, 0)) -> int:
        """Weights, or another constant operand."""
        values = self.rng.integers(-100, 101, shape)
        if self.quantized:
            return self.built.tensor(shape, *grid, data=values.astype(np.int8))
        return self.built.tensor(shape, data=(values * 0.01).astype(np.float32))

    def bias(self, count: int) -> int:
        """Biases of a layer behind `constant` weights."""
        values = self.rng.integers(-500, 501, count)
        if self.quantized:
            return self.built.tensor((count,), GRID[0] * 0.01, data=values.astype(np.int32))
        return self.built.tensor((count,), data=(values * GRID[0] * 0.01).astype(np.float32))

    def integers(self, values: Any) -> int:
        """A constant of int32."""
        data = np.array(values, np.int32)
        return self.built.tensor(data.shape, data=data)

    def run(self, operator: str, inputs: list[int], output: int | list[int], kind: str = "", **options: Any) -> bytes:
        """The file of the operator, its outputs those of the model."""
        outputs = output if isinstance(output, list) else [output]
        self.built.operator(operator, inputs, outputs[0], 1, **({"kind": kind} if kind else {}), **options)
        self.built.graph.operators[-1].outputs = outputs
        return self.built.data(self.inputs, outputs)


Maker = Callable[[Cell], bytes]
Shape = tuple[int, ...]


def _convolution(weights: Shape, source: Shape, result: Shape, **more: int) -> Maker:
    options = {"strideH": 1, "strideW": 1, "padding": 1, "dilationHFactor": 1, "dilationWFactor": 1} | more
    deep = "depthMultiplier" in more
    operator, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if deep else ("CONV_2D", "Conv2DOptions")
    return lambda c: c.run(
        operator, [c.given(*source), c.constant(*weights), c.bias(result[-1])], c.made(*result), kind, **options
    )


def _over(
    operator: str, sources: Shape | tuple[Shape, ...], result: Shape, integers: Any = (), kind: str = "", **options: Any
) -> Maker:
    """An operator over inputs of the model, then constant integers."""
    shapes = sources if isinstance(sources[0], tuple) else (sources,)

    def make(c: Cell) -> bytes:
        inputs = [c.given(*shape) for shape in shapes] + [c.integers(values) for values in integers]
        return c.run(operator, inputs, c.made(*result, grid=_FIXED.get(operator, GRID)), kind, **options)

    return make


def _picked(operator: str, shape: Shape) -> Maker:
    """ARG_MAX, ARG_MIN: the result is an index."""
    kind = "ArgMaxOptions" if operator == "ARG_MAX" else "ArgMinOptions"

    def make(c: Cell) -> bytes:
        result = c.built.tensor(shape[:-1], kind="i4")
        return c.run(operator, [c.given(*shape), c.integers(1)], result, kind, outputType=2)

    return make


def _top_k(c: Cell) -> bytes:
    outputs = [c.made(1, 3), c.built.tensor((1, 3), kind="i4")]
    return c.run("TOPK_V2", [c.given(*VECTOR), c.integers(3)], outputs, "TopKV2Options")


def _joined(c: Cell) -> bytes:
    parts = [c.constant(1, 2, 6, grid=GRID), c.given(1, 4, 6)]
    return c.run("CONCATENATION", parts, c.made(1, 6, 6), "ConcatenationOptions", axis=1)


def _split(c: Cell) -> bytes:
    outputs = [c.made(1, 6, 6, 2), c.made(1, 6, 6, 2)]
    return c.run("SPLIT", [c.integers(3), c.given(*IMAGE)], outputs, "SplitOptions", numSplits=2)


def _transposed(c: Cell) -> bytes:
    size, weights = c.integers([1, 13, 13, 3]), c.constant(3, 3, 3, 4)
    options = {"padding": 1, "strideH": 2, "strideW": 2}
    return c.run(
        "TRANSPOSE_CONV", [size, weights, c.given(*IMAGE)], c.made(1, 13, 13, 3), "TransposeConvOptions", **options
    )


def _product(source: Shape, result: Shape) -> Maker:
    """FULLY_CONNECTED over the last axis."""
    kind, kept = "FullyConnectedOptions", len(result) > 2
    return lambda c: c.run(
        "FULLY_CONNECTED",
        [c.given(*source), c.constant(result[-1], source[-1]), c.bias(result[-1])],
        c.made(*result),
        kind,
        keepNumDims=kept,
    )


def _prelu(c: Cell) -> bytes:
    return c.run("PRELU", [c.given(*IMAGE), c.constant(1, 1, 4)], c.made(*IMAGE))


def _lstm(c: Cell) -> bytes:
    return lstm(5)[0]


def _both_ways(c: Cell) -> bytes:
    return lstm(5, ways=(False, True))[0] if c.quantized else both_ways()


def _renamed(operator: str, source: Shape, result: Shape, integers: Any, kind: str, **options: Any) -> Maker:
    """A new shape costs no operator: one behind it makes an output of the model."""

    def make(c: Cell) -> bytes:
        named = c.made(*result)
        c.run(operator, [c.given(*source), *map(c.integers, integers)], named, kind, **options)
        return c.run("RELU", [named], c.made(*result))

    return make


_POOL = {"padding": 1, "strideH": 2, "strideW": 2, "filterWidth": 2, "filterHeight": 2}
_PADS = [[0, 0], [1, 1], [1, 1], [0, 0]]
_PIXEL, _SQUARE = (1, 1, 1, 4), (1, 3, 5, 5)
CELLS: dict[str, Maker] = {
    "convolution, 1-D": _convolution((5, 1, 3, 4), (1, 1, 12, 4), (1, 1, 10, 5)),
    "convolution, 2-D": _convolution((5, 3, 3, 4), IMAGE, (1, 4, 4, 5)),
    "convolution, depthwise": _convolution((1, 3, 3, 4), IMAGE, (1, 4, 4, 4), depthMultiplier=1),
    "convolution, grouped": _convolution((6, 3, 3, 2), IMAGE, (1, 4, 4, 6)),
    "convolution, dilated": _convolution((5, 3, 3, 4), IMAGE, (1, 2, 2, 5), dilationHFactor=2, dilationWFactor=2),
    "convolution, transposed": _transposed,
    "fully connected": _product(VECTOR, (1, 5)),
    "product with a matrix": _product((1, 4, 12), (1, 4, 5)),
    "product of two tensors": _over(
        "BATCH_MATMUL", ((1, 3, 5, 5), (1, 3, 5, 5)), (1, 3, 5, 5), (), "BatchMatMulOptions"
    ),
    "add, two tensors": _over("ADD", (IMAGE, IMAGE), IMAGE, (), "AddOptions"),
    "subtract, two tensors": _over("SUB", (IMAGE, IMAGE), IMAGE, (), "SubOptions"),
    "multiply, two tensors": _over("MUL", (IMAGE, IMAGE), IMAGE, (), "MulOptions"),
    "divide, two tensors": _over("DIV", (IMAGE, IMAGE), IMAGE, (), "DivOptions"),
    "minimum, two tensors": _over("MINIMUM", (IMAGE, IMAGE), IMAGE),
    "maximum, two tensors": _over("MAXIMUM", (IMAGE, IMAGE), IMAGE),
    "broadcasting": _over("MUL", (IMAGE, _PIXEL), IMAGE, (), "MulOptions"),
    "relu": _over("RELU", VECTOR, VECTOR),
    "leaky relu": _over("LEAKY_RELU", VECTOR, VECTOR, (), "LeakyReluOptions", alpha=0.1),
    "elu": _over("ELU", VECTOR, VECTOR),
    "sigmoid": _over("LOGISTIC", VECTOR, VECTOR),
    "tanh": _over("TANH", VECTOR, VECTOR),
    "hard swish": _over("HARD_SWISH", VECTOR, VECTOR),
    "gelu": _over("GELU", VECTOR, VECTOR, (), "GeluOptions"),
    "softmax": _over("SOFTMAX", VECTOR, VECTOR, (), "SoftmaxOptions", beta=1.0),
    "log softmax": _over("LOG_SOFTMAX", VECTOR, VECTOR, (), "LogSoftmaxOptions"),
    "relu6": _over("RELU6", VECTOR, VECTOR),
    "clip": _over("RELU_N1_TO_1", VECTOR, VECTOR),
    "prelu": _prelu,
    "maximum pooling": _over("MAX_POOL_2D", IMAGE, (1, 3, 3, 4), (), "Pool2DOptions", **_POOL),
    "average pooling": _over("AVERAGE_POOL_2D", IMAGE, (1, 3, 3, 4), (), "Pool2DOptions", **_POOL),
    "global average pooling": _over("MEAN", IMAGE, _PIXEL, ([1, 2],), "ReducerOptions", keepDims=True),
    "global maximum pooling": _over("REDUCE_MAX", IMAGE, _PIXEL, ([1, 2],), "ReducerOptions", keepDims=True),
    "mean": _over("MEAN", IMAGE, (1, 4), ([1, 2],), "ReducerOptions"),
    "sum": _over("SUM", IMAGE, (1, 6, 4), ([1],), "ReducerOptions"),
    "largest": _over("REDUCE_MAX", IMAGE, (1, 6, 4), ([1],), "ReducerOptions"),
    "smallest": _over("REDUCE_MIN", IMAGE, (1, 6, 4), ([1],), "ReducerOptions"),
    "pad": _over("PAD", IMAGE, (1, 8, 8, 4), (_PADS,), "PadOptions"),
    "pad, mirrored": _over("MIRROR_PAD", IMAGE, (1, 8, 8, 4), (_PADS,), "MirrorPadOptions"),
    "concatenation": _over("CONCATENATION", (IMAGE, IMAGE), (1, 6, 6, 8), (), "ConcatenationOptions", axis=3),
    "concatenation with a constant": _joined,
    "split": _split,
    "slice": _over(
        "STRIDED_SLICE",
        IMAGE,
        (1, 3, 6, 4),
        ([0, 1, 0, 0], [1, 4, 6, 4], [1, 1, 1, 1]),
        "StridedSliceOptions",
    ),
    "gather": _over("GATHER", IMAGE, (1, 3, 6, 4), ([2, 0, 3],), "GatherOptions", axis=1),
    "transpose": _over("TRANSPOSE", SEQUENCE, (1, 4, 12), ([0, 2, 1],), "TransposeOptions"),
    "reshape, flatten": _renamed("RESHAPE", IMAGE, (1, 144), ([1, 144],), "ReshapeOptions"),
    "squeeze, unsqueeze": _renamed("SQUEEZE", (1, 12, 1, 4), SEQUENCE, (), "SqueezeOptions", squeezeDims=[2]),
    "resize, nearest": _over(
        "RESIZE_NEAREST_NEIGHBOR", IMAGE, (1, 12, 12, 4), ([12, 12],), "ResizeNearestNeighborOptions"
    ),
    "resize, bilinear": _over("RESIZE_BILINEAR", IMAGE, (1, 12, 12, 4), ([12, 12],), "ResizeBilinearOptions"),
    "depth to space": _over("DEPTH_TO_SPACE", IMAGE, (1, 12, 12, 1), (), "DepthToSpaceOptions", blockSize=2),
    "space to depth": _over("SPACE_TO_DEPTH", IMAGE, (1, 3, 3, 16), (), "SpaceToDepthOptions", blockSize=2),
    "argmax": _picked("ARG_MAX", VECTOR),
    "argmin": _picked("ARG_MIN", VECTOR),
    "top-k": _top_k,
    "L2 normalisation": _over("L2_NORMALIZATION", SEQUENCE, SEQUENCE, (), "L2NormOptions"),
    "LSTM": _lstm,
    "LSTM, both ways": _both_ways,
}
"""By name of the row."""


def tflite_model(name: str, *, quantized: bool) -> bytes:
    """The file of a row's TFLite cell."""
    return CELLS[name](Cell(quantized=quantized))
