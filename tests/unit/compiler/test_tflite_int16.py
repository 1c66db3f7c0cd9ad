"""Imported int16 operators (int8 weights, int64 biases) give the bytes of TensorFlow Lite Micro."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import ModelError
from tinyfleet_compiler.operators import OpCode
from unit.compiler.test_tflite_operators import activations, codes, extent, layer_scales, scale, seeds, windowed
from unit.compiler.tflite_models import Builder, compiled_image, oracle, traced

many = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SAMPLES = 6


def wide_codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random int16 codes of any magnitude, the extremes more often than by chance."""
    values = rng.integers(-32768, 32768, shape) >> rng.integers(0, 12, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([-32768, 32767], shape), values).astype(np.int16)


def compare(folder: Path, data: bytes, inputs: list[np.ndarray], code: OpCode, kind: Any = np.int16) -> None:
    """The last op of our image and TFLM's output are the same bytes."""
    image = compiled_image(folder, data)
    ours = traced(image, inputs)[-1].view(kind)
    assert image.ops[-1].code is code
    (wanted,) = oracle(data, inputs)
    np.testing.assert_array_equal(ours, wanted)


def wide_bias(rng: np.random.Generator, channels: int, depth: int) -> np.ndarray:
    small = rng.integers(-(1 << 20) * depth, (1 << 20) * depth + 1, channels)
    large = rng.integers(-(1 << 34), (1 << 34) + 1, channels)
    return np.where(rng.random(channels) < 0.2, large, small).astype(np.int64)


def wide_scales(rng: np.random.Generator, source: float, channels: int, depth: int, per_channel: bool) -> Any:
    weights, result = layer_scales(rng, source, channels, depth, per_channel)
    return weights, float(np.float32(result * 2.0 ** rng.uniform(0, 4)))


def test_an_average_of_more_values_than_int32_sums(tmp_path: Path) -> None:
    built = Builder()
    x, y = (built.tensor((1, size, size, 1), 0.01, kind="i2") for size in (182, 1))
    window = {"padding": 1, "strideH": 1, "strideW": 1, "filterHeight": 182, "filterWidth": 182}
    built.operator("AVERAGE_POOL_2D", [x], y, 2, kind="Pool2DOptions", **window)
    with pytest.raises(ModelError, match="at most 32768"):
        compiled_image(tmp_path, built.data([x], [y]))


@many
@given(seeds, activations, st.booleans(), st.booleans(), st.sampled_from([1, 1, 2]))
def test_convolution(tmp_path: Path, seed: int, activation: int, same: bool, per_channel: bool, groups: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    dilation = rng.integers(1, 3, 2) if rng.random() < 0.3 else np.array([1, 1])
    height, width = (int(v) for v in (kernel - 1) * dilation + rng.integers(1, 6, 2))
    inputs, outputs = int(rng.integers(1, 6)) * groups, int(rng.integers(1, 6)) * groups
    depth = int(kernel.prod()) * inputs // groups
    source = scale(rng, -20.0, -5.0)
    weights, result = wide_scales(rng, source, outputs, depth, per_channel)
    built = Builder()
    x = built.tensor((1, height, width, inputs), source, kind="i2")
    w = built.tensor(
        (outputs, *map(int, kernel), inputs // groups), weights, data=codes(rng, outputs, *kernel, inputs // groups)
    )
    b = built.tensor((outputs,), weights * source, data=wide_bias(rng, outputs, depth))
    rows, columns = extent((height, width), kernel, stride, dilation, same)
    y = built.tensor((1, rows, columns, outputs), result, kind="i2")
    built.operator("CONV_2D", [x, w, b], y, 3, kind="Conv2DOptions", **windowed(stride, same, activation, dilation))
    data = built.data([x], [y])
    # One channel a group is a depthwise convolution.
    code = OpCode.DEPTHWISE_CONV_2D_INT16 if inputs == groups > 1 else OpCode.CONV_2D_INT16
    compare(tmp_path, data, [wide_codes(rng, SAMPLES, height, width, inputs)], code)


@many
@given(seeds, activations, st.booleans())
def test_depthwise_convolution(tmp_path: Path, seed: int, activation: int, same: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), np.repeat(rng.integers(1, 4), 2)
    height, width = (int(v) for v in kernel - 1 + rng.integers(1, 6, 2))
    channels, times = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    outputs, source = channels * times, scale(rng, -20.0, -5.0)
    weights, result = wide_scales(rng, source, outputs, int(kernel.prod()), True)
    built = Builder()
    x = built.tensor((1, height, width, channels), source, kind="i2")
    w = built.tensor((1, *map(int, kernel), outputs), weights, data=codes(rng, 1, *kernel, outputs), axis=3)
    b = built.tensor((outputs,), weights * source, data=wide_bias(rng, outputs, int(kernel.prod())))
    shape = (1, *extent((height, width), kernel, stride, np.array([1, 1]), same), outputs)
    y = built.tensor(shape, result, kind="i2")
    options = windowed(stride, same, activation, np.array([1, 1])) | {"depthMultiplier": times}
    built.operator("DEPTHWISE_CONV_2D", [x, w, b], y, 3, kind="DepthwiseConv2DOptions", **options)
    data = built.data([x], [y])
    compare(tmp_path, data, [wide_codes(rng, SAMPLES, height, width, channels)], OpCode.DEPTHWISE_CONV_2D_INT16)


@many
@given(seeds, activations, st.booleans(), st.booleans(), st.booleans())
def test_fully_connected(
    tmp_path: Path, seed: int, activation: int, per_channel: bool, with_bias: bool, rows: bool
) -> None:
    rng = np.random.default_rng(seed)
    features, outputs = int(rng.integers(1, 70)), int(rng.integers(1, 12))
    count = int(rng.integers(2, 5)) if rows else 1
    source = scale(rng, -20.0, -5.0)
    weights, result = wide_scales(rng, source, outputs, features, per_channel)
    built = Builder()
    x = built.tensor((1, count, features) if rows else (1, features), source, kind="i2")
    w = built.tensor((outputs, features), weights, data=codes(rng, outputs, features))
    b = built.tensor((outputs,), weights * source, data=wide_bias(rng, outputs, features)) if with_bias else -1
    y = built.tensor((count, outputs), result, kind="i2")
    options = {"fusedActivationFunction": activation}
    built.operator("FULLY_CONNECTED", [x, w, b], y, 4, kind="FullyConnectedOptions", **options)
    shape = (count, features) if rows else (features,)
    compare(tmp_path, built.data([x], [y]), [wide_codes(rng, SAMPLES, *shape)], OpCode.FULLY_CONNECTED_INT16)


@pytest.mark.parametrize("operator", ["ADD", "SUB", "MUL"])
@many
@given(seeds, activations, st.booleans(), st.sampled_from(["none", "a", "b"]))
def test_arithmetic(tmp_path: Path, operator: str, seed: int, activation: int, broadcast: bool, constant: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(1, 5, 3))
    other = tuple(1 if broadcast and rng.random() < 0.5 else s for s in shape)
    if operator == "SUB" and constant == "a" and other != shape:
        other = shape
    scales = [scale(rng, -16.0, -8.0), scale(rng, -16.0, -8.0)]
    result = max(scales) if operator != "MUL" else scales[0] * scales[1] * 32768.0
    result = float(np.float32(result * 2.0 ** rng.uniform(-1, 1)))
    built = Builder()
    operands, inputs = [], []
    for name, dims, s in zip("ab", (shape, other), scales, strict=True):
        values = wide_codes(rng, 1 if name == constant else SAMPLES, *dims)
        if name == constant:
            operands.append(built.tensor((1, *dims), s, data=values))
        else:
            operands.append(built.tensor((1, *dims), s, kind="i2"))
            inputs.append(values)
    y = built.tensor((1, *np.broadcast_shapes(shape, other)), result, kind="i2")
    kind = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[operator]
    built.operator(operator, operands, y, 1, kind=kind, fusedActivationFunction=activation)
    data = built.data([t for t, name in zip(operands, "ab", strict=True) if name != constant], [y])
    compare(tmp_path, data, inputs, OpCode[f"{operator}_INT16"])


@pytest.mark.parametrize("operator", ["SUB", "RELU", "LEAKY_RELU"])
def test_multipliers_agree_to_the_last_bit(tmp_path: Path, operator: str) -> None:
    """Every code at once: a ratio of scales taken in float32 would move some of 65,536 results."""
    rng = np.random.default_rng(4)
    every = np.arange(-32768, 32768).astype(np.int16)
    built = Builder()
    x, other, y = (built.tensor((1, 65536), scale(rng, -12.0, -10.0), kind="i2") for _ in range(3))
    if operator == "RELU":
        built.operator(operator, [x], y)
        compare(tmp_path, built.data([x], [y]), [every[None]], OpCode.RESCALE_INT16)
    elif operator == "LEAKY_RELU":
        built.operator(operator, [x], y, 2, kind="LeakyReluOptions", alpha=0.625)
        compare(tmp_path, built.data([x], [y]), [every[None]], OpCode.LEAKY_RELU_INT16)
    else:
        built.operator(operator, [x, other], y, kind="SubOptions")
        compare(tmp_path, built.data([x, other], [y]), [every[None], rng.permutation(every)[None]], OpCode.SUB_INT16)


@pytest.mark.parametrize("operator", ["MINIMUM", "MAXIMUM"])
@pytest.mark.parametrize("seed", range(4))
def test_minimum_and_maximum(tmp_path: Path, operator: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    built, s = Builder(), scale(rng, -16.0, -8.0)
    a, b, y = (built.tensor((1, 3, 4, 2), s, kind="i2") for _ in range(3))
    built.operator(operator, [a, b], y, kind="MaximumMinimumOptions")
    inputs = [wide_codes(rng, SAMPLES, 3, 4, 2) for _ in range(2)]
    compare(tmp_path, built.data([a, b], [y]), inputs, OpCode[f"{operator}_INT16"])


@pytest.mark.parametrize("operator", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
@many
@given(seeds, activations, st.booleans())
def test_pools(tmp_path: Path, operator: str, seed: int, activation: int, same: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    height, width = (int(v) for v in kernel + rng.integers(0, 5, 2))
    channels, s = int(rng.integers(1, 5)), scale(rng, -16.0, -8.0)
    built = Builder()
    x = built.tensor((1, height, width, channels), s, kind="i2")
    shape = (1, *extent((height, width), kernel, stride, np.array([1, 1]), same), channels)
    y = built.tensor(shape, s, kind="i2")
    options = windowed(stride, same, activation) | {"filterHeight": int(kernel[0]), "filterWidth": int(kernel[1])}
    built.operator(operator, [x], y, 2, kind="Pool2DOptions", **options)
    data = built.data([x], [y])
    compare(tmp_path, data, [wide_codes(rng, SAMPLES, height, width, channels)], OpCode[f"{operator}_INT16"])


@many
@given(seeds, st.sampled_from([1.0, 0.5, 2.0]))
def test_softmax(tmp_path: Path, seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 40))
    built = Builder()
    x = built.tensor((1, rows, columns), scale(rng, -16.0, -6.0), kind="i2")
    y = built.tensor((1, rows, columns), 2.0**-15, kind="i2")
    built.operator("SOFTMAX", [x], y, 2, kind="SoftmaxOptions", beta=beta)
    compare(tmp_path, built.data([x], [y]), [wide_codes(rng, 12, rows, columns)], OpCode.SOFTMAX_INT16)


@pytest.mark.parametrize("operator", ["LOGISTIC", "TANH"])
@pytest.mark.parametrize("exponent", [-12.0, -11.0, -15.0, -9.5, -13.3])
def test_sigmoids_for_every_input(tmp_path: Path, operator: str, exponent: float) -> None:
    built = Builder()
    x = built.tensor((1, 65536), float(np.float32(2.0**exponent)), kind="i2")
    y = built.tensor((1, 65536), 2.0**-15, kind="i2")
    built.operator(operator, [x], y)
    every = np.arange(-32768, 32768).astype(np.int16)[None]
    compare(tmp_path, built.data([x], [y]), [every], OpCode[f"{operator}_INT16"])


@pytest.mark.parametrize("operator", ["RELU", "RELU6"])
@pytest.mark.parametrize("seed", range(3))
def test_activations(tmp_path: Path, operator: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = scale(rng, -14.0, -10.0)
    built = Builder()
    x = built.tensor((1, 500), s, kind="i2")
    y = built.tensor((1, 500), s if operator == "RELU6" else s * 0.77, kind="i2")
    built.operator(operator, [x], y)
    compare(tmp_path, built.data([x], [y]), [wide_codes(rng, SAMPLES, 500)], OpCode.RESCALE_INT16)


@pytest.mark.parametrize("kinds", [("i1", "i2"), ("i2", "i1"), ("i2", "i2")])
@many
@given(seeds)
def test_changes_of_type(tmp_path: Path, kinds: tuple[str, str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = (scale(rng, -14.0, -4.0) for _ in kinds)
    zeros = [int(rng.integers(-128, 128)) if kind == "i1" else 0 for kind in kinds]
    built = Builder()
    x = built.tensor((1, 400), before, zeros[0], kind=kinds[0])
    y = built.tensor((1, 400), after, zeros[1], kind=kinds[1])
    built.operator("QUANTIZE", [x], y)
    given_codes = wide_codes(rng, SAMPLES, 400) if kinds[0] == "i2" else codes(rng, SAMPLES, 400)
    compare(tmp_path, built.data([x], [y]), [given_codes], OpCode.RESCALE_INT16, np.dtype(kinds[1]))


@many
@given(seeds, st.booleans())
def test_mean(tmp_path: Path, seed: int, keep: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(1, 7, 3))
    before = scale(rng, -14.0, -8.0)
    built = Builder()
    x = built.tensor((1, *shape), before, kind="i2")
    axes = built.tensor((2,), data=np.array([1, 2], np.int32))
    y = built.tensor(
        (1, 1, 1, shape[2]) if keep else (1, shape[2]), before * float(np.float32(rng.uniform(0.4, 1.5))), kind="i2"
    )
    built.operator("MEAN", [x, axes], y, 2, kind="ReducerOptions", keepDims=keep)
    compare(tmp_path, built.data([x], [y]), [wide_codes(rng, SAMPLES, *shape)], OpCode.REDUCE_SUM_INT16)


def test_movers(tmp_path: Path) -> None:
    """Transpose, pad, slice, concatenation and reshape move int16 whole."""
    rng = np.random.default_rng(3)
    built, s = Builder(), 0.001
    x = built.tensor((1, 4, 5, 3), s, kind="i2")
    order = built.tensor((4,), data=np.array([0, 3, 1, 2], np.int32))
    turned = built.tensor((1, 3, 4, 5), s, kind="i2")
    built.operator("TRANSPOSE", [x, order], turned, 2, kind="TransposeOptions")
    pads = built.tensor((4, 2), data=np.array([[0, 0], [1, 0], [0, 2], [1, 1]], np.int32))
    padded = built.tensor((1, 4, 6, 7), s, kind="i2")
    built.operator("PAD", [turned, pads], padded, 2, kind="PadOptions")
    begin, size = (built.tensor((4,), data=np.array(v, np.int32)) for v in ([0, 1, 2, 0], [1, 2, 4, 7]))
    part = built.tensor((1, 2, 4, 7), s, kind="i2")
    built.operator("SLICE", [padded, begin, size], part, 2, kind="SliceOptions")
    both = built.tensor((1, 2, 4, 14), s, kind="i2")
    fixed = built.tensor((1, 2, 4, 7), s, data=rng.integers(-32768, 32768, (1, 2, 4, 7)).astype(np.int16))
    built.operator("CONCATENATION", [fixed, part], both, 2, kind="ConcatenationOptions", axis=3)
    starts, ends, steps = (
        built.tensor((4,), data=np.array(v, np.int32)) for v in ([0, 0, 1, 0], [1, 2, 4, 14], [1, 1, 2, 3])
    )
    y = built.tensor((1, 2, 2, 5), s, kind="i2")
    built.operator("STRIDED_SLICE", [both, starts, ends, steps], y, 2, kind="StridedSliceOptions")
    data = built.data([x], [y])
    compare(tmp_path, data, [wide_codes(rng, SAMPLES, 4, 5, 3)], OpCode.STRIDED_COPY)


@pytest.mark.parametrize("operator", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
@many
@given(seeds, st.booleans())
def test_int4_weights(tmp_path: Path, operator: str, seed: int, per_channel: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, channels, outputs = rng.integers(1, 4, 2), int(rng.integers(2, 6)), int(rng.integers(1, 6))
    shape, axis = {
        "CONV_2D": ((outputs, *map(int, kernel), channels), 0),
        "DEPTHWISE_CONV_2D": ((1, *map(int, kernel), channels), 3),
        "FULLY_CONNECTED": ((outputs, 30 * channels), 0),
    }[operator]
    many_scales = shape[axis] if per_channel and operator != "FULLY_CONNECTED" else 1  # TFLM wants one there
    weights = np.float32(2.0 ** rng.uniform(-6, -2, many_scales))
    built, source = Builder(), scale(rng, -8.0, -2.0)
    dims = (1, 5, 6, channels) if operator != "FULLY_CONNECTED" else (1, 30 * channels)
    x = built.tensor(dims, source, int(rng.integers(-128, 128)))
    w = built.int4(rng.integers(-8, 8, shape).astype(np.int8), weights, axis)
    bias = rng.integers(-3000, 3000, shape[axis]).astype(np.int32)
    b = built.tensor((shape[axis],), weights * source, data=bias)
    out = (1, 5, 6, shape[axis]) if operator != "FULLY_CONNECTED" else (1, outputs)
    y = built.tensor(out, source * float(weights.mean()) * 9.0 * 2.0 ** rng.uniform(0, 3), int(rng.integers(-128, 128)))
    kind = {"CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions"}.get(
        operator, "FullyConnectedOptions"
    )
    options = {} if operator == "FULLY_CONNECTED" else windowed([1, 1], True, 0, np.array([1, 1]))
    if operator == "DEPTHWISE_CONV_2D":
        options |= {"depthMultiplier": 1}
    built.operator(operator, [x, w, b], y, 4, kind=kind, **options)
    data = built.data([x], [y])
    compare(tmp_path, data, [codes(rng, SAMPLES, *dims[1:])], OpCode[f"{operator}_INT4"], np.int8)


@many
@given(seeds, st.floats(0.0, 1.5))
def test_leaky_relu(tmp_path: Path, seed: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    built = Builder()
    x, y = (built.tensor((1, 500), scale(rng, -14.0, -12.0), kind="i2") for _ in range(2))
    built.operator("LEAKY_RELU", [x], y, 2, kind="LeakyReluOptions", alpha=float(np.float32(slope)))
    compare(tmp_path, built.data([x], [y]), [wide_codes(rng, SAMPLES, 500)], OpCode.LEAKY_RELU_INT16)


@many
@given(seeds, st.booleans(), st.booleans())
def test_transposed_convolution(tmp_path: Path, seed: int, same: bool, with_bias: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    height, width, inputs, outputs = (int(v) for v in rng.integers(1, 5, 4))
    source = scale(rng, -20.0, -5.0)
    weights, result = wide_scales(rng, source, outputs, inputs * int(kernel.prod()), True)
    size = np.array([height, width])
    shape = size * stride if same else (size - 1) * stride + kernel
    built = Builder()
    x = built.tensor((1, height, width, inputs), source, kind="i2")
    w = built.tensor((outputs, *map(int, kernel), inputs), weights, data=codes(rng, outputs, *kernel, inputs))
    used = [built.tensor((4,), data=np.array([1, *shape, outputs], np.int32)), w, x]
    if with_bias:
        used.append(built.tensor((outputs,), weights * source, data=wide_bias(rng, outputs, inputs)))
    y = built.tensor((1, *map(int, shape), outputs), result, kind="i2")
    options = {"padding": 0 if same else 1, "strideH": int(stride[0]), "strideW": int(stride[1])}
    built.operator("TRANSPOSE_CONV", used, y, 3, kind="TransposeConvOptions", **options)
    data = built.data([x], [y])
    compare(tmp_path, data, [wide_codes(rng, SAMPLES, height, width, inputs)], OpCode.TRANSPOSE_CONV_2D_INT16)
