"""Int16 tensors and int4 weights: every op in C gives the simulator's bytes; bad records are refused or harmless."""

from pathlib import Path

import numpy as np
import pytest

from agent.runtime.bend import assert_safe
from agent.runtime.test_runtime_compiled import check_every_op
from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.passes.mix_types import can_be_wide, mix_types
from tinyfleet_compiler.quantize.calibrate import calibrate
from unit.compiler.onnx_models import node, save_model
from unit.compiler.tflite_models import Builder, codes, compiled_image

S = 0.0005
KERNELS = (
    OpCode.CONV_2D_INT16,
    OpCode.DEPTHWISE_CONV_2D_INT16,
    OpCode.FULLY_CONNECTED_INT16,
    OpCode.TRANSPOSE_CONV_2D_INT16,
    OpCode.ADD_INT16,
    OpCode.SUB_INT16,
    OpCode.MUL_INT16,
    OpCode.MINIMUM_INT16,
    OpCode.MAXIMUM_INT16,
    OpCode.MAX_POOL_2D_INT16,
    OpCode.AVERAGE_POOL_2D_INT16,
    OpCode.SOFTMAX_INT16,
    OpCode.LOGISTIC_INT16,
    OpCode.TANH_INT16,
    OpCode.LUT_INT16,
    OpCode.LEAKY_RELU_INT16,
    OpCode.RESCALE_INT16,
    OpCode.REDUCE_SUM_INT16,
    OpCode.REDUCE_MAX_INT16,
    OpCode.REDUCE_MIN_INT16,
    OpCode.CONV_2D_INT4,
    OpCode.DEPTHWISE_CONV_2D_INT4,
    OpCode.FULLY_CONNECTED_INT4,
)


def layers(rng: np.random.Generator) -> tuple[Builder, int, int]:
    built = Builder()
    x = built.tensor((1, 9, 7, 3), S, kind="i2")

    def layer(name: str, source: int, shape: list[int], out: list[int], axis: int, stride: int = 1, **more: int) -> int:
        weights = np.float32(2.0 ** rng.uniform(-9, -7, shape[axis]))
        w = built.tensor(shape, weights, data=codes(rng, *shape), axis=axis)
        wild = rng.integers(-(1 << 34), 1 << 34, shape[axis])
        bias = np.where(rng.random(shape[axis]) < 0.3, wild, rng.integers(-(1 << 20), 1 << 20, shape[axis]))
        b = built.tensor((shape[axis],), weights * S, data=bias.astype(np.int64))
        y = built.tensor((1, *out), S, kind="i2")
        kind = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions"}[name]
        options = {"strideH": stride, "strideW": stride, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0}
        return built.operator(name, [source, w, b], y, 3, kind=kind, **options, **more)

    c = layer("CONV_2D", x, [6, 3, 3, 3], [9, 7, 6], 0, fusedActivationFunction=1)
    d = layer("DEPTHWISE_CONV_2D", c, [1, 3, 2, 6], [9, 7, 6], 3, depthMultiplier=1)
    g = layer("CONV_2D", d, [6, 2, 1, 3], [9, 7, 6], 0)
    a = built.operator("ADD", [g, c], built.tensor((1, 9, 7, 6), S * 1.7, kind="i2"), kind="AddOptions")
    pool = {"strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 2, "padding": 0, "kind": "Pool2DOptions"}
    p = built.operator("MAX_POOL_2D", [a], built.tensor((1, 5, 4, 6), S * 1.7, kind="i2"), 2, **pool)
    q = built.operator("AVERAGE_POOL_2D", [p], built.tensor((1, 3, 2, 6), S * 1.7, kind="i2"), 2, **pool)
    gains = built.tensor((1, 1, 1, 6), 0.0001, data=rng.integers(-9000, 9000, (1, 1, 1, 6)).astype(np.int16))
    m = built.operator("MUL", [q, gains], built.tensor((1, 3, 2, 6), S, kind="i2"), kind="MulOptions")
    axes = built.tensor((1,), data=np.array([1], np.int32))
    r = built.operator(
        "MEAN", [m, axes], built.tensor((1, 2, 6), S, kind="i2"), 2, kind="ReducerOptions", keepDims=False
    )
    w = built.tensor((5, 12), 0.003, data=codes(rng, 5, 12))
    f = built.operator(
        "FULLY_CONNECTED", [r, w, -1], built.tensor((1, 5), S, kind="i2"), 4, kind="FullyConnectedOptions"
    )
    return (
        built,
        x,
        built.operator("SOFTMAX", [f], built.tensor((1, 5), 2.0**-15, kind="i2"), 2, kind="SoftmaxOptions", beta=1.0),
    )


def elements(rng: np.random.Generator) -> tuple[Builder, int, int]:
    built = Builder()
    x = built.tensor((1, 4, 5, 6), 0.05, -20)
    shape = (1, 4, 5, 6)

    def wide(scale: float, dims: tuple[int, ...] = shape) -> int:
        return built.tensor(dims, scale, kind="i2")

    q = built.operator("QUANTIZE", [x], wide(0.0007))
    s = built.operator("LOGISTIC", [q], wide(2.0**-15))
    t = built.operator("TANH", [q], wide(2.0**-15))
    d = built.operator("SUB", [s, t], wide(0.0001), kind="SubOptions")
    low = built.operator("MINIMUM", [d, d], wide(0.0001), kind="MaximumMinimumOptions")
    high = built.operator("MAXIMUM", [low, d], wide(0.0001), kind="MaximumMinimumOptions")
    leaky = built.operator("LEAKY_RELU", [high], wide(0.00013), 2, kind="LeakyReluOptions", alpha=0.3)
    relu = built.operator("RELU", [leaky], wide(0.0002))
    order = built.tensor((4,), data=np.array([0, 3, 1, 2], np.int32))
    turned = built.operator("TRANSPOSE", [relu, order], wide(0.0002, (1, 6, 4, 5)), 2, kind="TransposeOptions")
    pads = built.tensor((4, 2), data=np.array([[0, 0], [1, 0], [0, 2], [1, 1]], np.int32))
    padded = built.operator("PAD", [turned, pads], wide(0.0002, (1, 7, 6, 7)), 2, kind="PadOptions")
    both = wide(0.0002, (1, 7, 12, 7))
    built.operator("CONCATENATION", [padded, padded], both, 2, kind="ConcatenationOptions", axis=2)
    return built, x, built.operator("QUANTIZE", [both], built.tensor((1, 7, 12, 7), 0.02, 3))


def halves(rng: np.random.Generator) -> tuple[Builder, int, int]:
    """Int4 layers with odd rows, so that the last half of each is padding."""
    built = Builder()
    x = built.tensor((1, 6, 5, 3), 0.05, 7)

    def packed(shape: tuple[int, ...], axis: int, scales: int) -> int:
        values = rng.integers(-7, 8, shape).astype(np.int8)
        return built.int4(values, np.float32(2.0 ** rng.uniform(-6, -4, scales)), axis)

    window = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0}
    c = built.tensor((1, 6, 5, 4), 0.06, -3)
    built.operator("CONV_2D", [x, packed((4, 3, 3, 3), 0, 4), -1], c, 3, kind="Conv2DOptions", **window)
    d = built.tensor((1, 6, 5, 4), 0.03, 5)
    weights = packed((1, 3, 3, 4), 3, 4)
    built.operator(
        "DEPTHWISE_CONV_2D", [c, weights, -1], d, 3, kind="DepthwiseConv2DOptions", depthMultiplier=1, **window
    )
    y = built.tensor((1, 5), 0.5, 0)
    flat = built.tensor((1, 120), 0.03, 5)
    built.operator("RESHAPE", [d], flat, kind="ReshapeOptions", newShape=[1, 120])
    built.operator("FULLY_CONNECTED", [flat, packed((5, 120), 0, 1), -1], y, 4, kind="FullyConnectedOptions")
    return built, x, y


MODELS = {"layers": layers, "elements": elements, "halves": halves}


def image_of(folder: Path, name: str) -> Image:
    built, x, y = MODELS[name](np.random.default_rng(5))
    return compiled_image(folder, built.data([x], [y]))


@pytest.mark.parametrize("name", MODELS)
def test_c_equals_the_simulator(tmp_path: Path, name: str) -> None:
    image = image_of(tmp_path, name)
    check_every_op(image, samples=4, seed=3)


def mixed_image(folder: Path) -> Image:
    """Of an ONNX model whose every node that can works on int16: the operators that TFLite files do not bring."""
    rng = np.random.default_rng(2)
    constants = {"w": rng.normal(size=(4, 3, 2, 3)), "v": rng.normal(size=(6, 6, 1, 1))}
    nodes = [
        node("ConvTranspose", ["x", "w"], "c", strides=[2, 2], group=2),
        node("Softplus", ["c"], "s"),
        node("Conv", ["s", "v"], "d"),
        node("ReduceMax", ["d"], "m", axes=[2, 3]),
        node("ReduceMin", ["s"], "n", axes=[2, 3]),
        node("Add", ["m", "n"]),
    ]
    path = save_model(folder / "m.onnx", nodes, [1, 4, 5, 4], {k: v.astype(np.float32) for k, v in constants.items()})
    graph = load_graph(path)
    typed, copies = mix_types(graph, frozenset(n.output for n in graph.nodes if can_be_wide(n)))
    seen = calibrate(graph, {"x": rng.normal(size=(9, 5, 4, 4)).astype(np.float32)})
    seen |= {new: seen[old] for new, old in copies.items()}
    return compile_graph(typed, seen, "min-max", Identity("m", "v", "host")).image


def test_mixed_types_in_c_equal_the_simulator(tmp_path: Path) -> None:
    check_every_op(mixed_image(tmp_path), samples=4, seed=4)


def test_every_kernel_is_covered(tmp_path: Path) -> None:
    images = [*(image_of(tmp_path, name) for name in MODELS), mixed_image(tmp_path)]
    seen = {op.code for image in images for op in image.ops}
    assert set(KERNELS) == {c for c in OpCode if c.name.endswith(("_INT16", "_INT4"))}
    assert set(KERNELS) <= seen


@pytest.mark.parametrize("name", MODELS)
def test_wild_records_are_refused_or_harmless(tmp_path: Path, name: str) -> None:
    """Bytes of the records replaced: refused, or run inside image and arena."""
    image = image_of(tmp_path, name)
    rng = np.random.default_rng(1)
    for _ in range(60):
        assert_safe(
            image.data, [(int(rng.integers(1 << 16)), int(rng.integers(256))) for _ in range(rng.integers(1, 4))]
        )
