"""Imported int8 operators give the bytes of TensorFlow Lite Micro: random shapes, strides, pads, scales, offsets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unit.compiler.tflite_models import Builder, codes, compiled_image, oracle, traced

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
activations = st.sampled_from([0, 1, 2, 3])  # NONE, RELU, RELU_N1_TO_1, RELU6
SAMPLES = 6


def compare(folder: Path, data: bytes, inputs: list[np.ndarray]) -> None:
    """The last op of our image and TFLM's output are the same bytes."""
    ours = traced(compiled_image(folder, data), inputs)[-1]
    (wanted,) = oracle(data, inputs)
    np.testing.assert_array_equal(ours, wanted.astype(np.int8))


def scale(rng: np.random.Generator, low: float = -12.0, high: float = 1.0) -> float:
    return float(np.float32(2.0 ** rng.uniform(low, high)))


def zero(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))


def layer_scales(rng: np.random.Generator, source: float, channels: int, depth: int, per_channel: bool) -> Any:
    """Weight scales, and an output scale that the sums reach."""
    weights = np.float32(2.0 ** rng.uniform(-9, -5, channels if per_channel else 1))
    return weights, float(np.float32(source * weights.mean() * 70.0 * np.sqrt(depth) * 2.0 ** rng.uniform(-2, 3)))


def bias_codes(rng: np.random.Generator, channels: int, depth: int) -> np.ndarray:
    return rng.integers(-4000 * depth, 4000 * depth + 1, channels).astype(np.int32)


@many
@given(seeds, activations, st.booleans(), st.booleans(), st.sampled_from([1, 1, 2]))
def test_convolution(tmp_path: Path, seed: int, activation: int, same: bool, per_channel: bool, groups: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    dilation = rng.integers(1, 3, 2) if rng.random() < 0.3 else np.array([1, 1])
    height, width = (int(v) for v in (kernel - 1) * dilation + rng.integers(1, 6, 2))
    inputs, outputs = int(rng.integers(1, 6)) * groups, int(rng.integers(1, 6)) * groups
    depth = int(kernel.prod()) * inputs // groups
    source = scale(rng)
    weights, result = layer_scales(rng, source, outputs, depth, per_channel)
    built = Builder()
    x = built.tensor((1, height, width, inputs), source, zero(rng))
    w = built.tensor((), weights, data=codes(rng, outputs, *kernel, inputs // groups))
    built.graph.tensors[w].shape = [outputs, *map(int, kernel), inputs // groups]
    b = built.tensor((outputs,), weights * source, data=bias_codes(rng, outputs, depth))
    rows, columns = extent((height, width), kernel, stride, dilation, same)
    y = built.tensor((1, rows, columns, outputs), result, zero(rng))
    options = windowed(stride, same, activation, dilation)
    built.operator("CONV_2D", [x, w, b], y, 3, kind="Conv2DOptions", **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, height, width, inputs)])


@many
@given(seeds, activations, st.booleans(), st.booleans())
def test_depthwise_convolution(tmp_path: Path, seed: int, activation: int, same: bool, with_bias: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), np.repeat(rng.integers(1, 4), 2)
    dilation = rng.integers(1, 3, 2) if rng.random() < 0.3 else np.array([1, 1])
    height, width = (int(v) for v in (kernel - 1) * dilation + rng.integers(1, 6, 2))
    channels, times = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    outputs, source = channels * times, scale(rng)
    weights, result = layer_scales(rng, source, outputs, int(kernel.prod()), True)
    built = Builder()
    x = built.tensor((1, height, width, channels), source, zero(rng))
    w = built.tensor((1, *map(int, kernel), outputs), weights, data=codes(rng, 1, *kernel, outputs), axis=3)
    b = built.tensor((outputs,), weights * source, data=bias_codes(rng, outputs, int(kernel.prod())))
    y = built.tensor((1, *extent((height, width), kernel, stride, dilation, same), outputs), result, zero(rng))
    options = windowed(stride, same, activation, dilation) | {"depthMultiplier": times}
    used = [x, w, b] if with_bias else [x, w]
    built.operator("DEPTHWISE_CONV_2D", used, y, 3, kind="DepthwiseConv2DOptions", **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, height, width, channels)])


def extent(size: Any, kernel: Any, stride: Any, dilation: Any, same: bool) -> tuple[int, int]:
    reach = np.zeros(2, int) if same else (np.asarray(kernel) - 1) * dilation
    rows, columns = -(-(np.asarray(size) - reach) // stride)
    return int(rows), int(columns)


def windowed(stride: Any, same: bool, activation: int, dilation: Any = None) -> dict[str, int]:
    found = {"strideH": int(stride[0]), "strideW": int(stride[1]), "padding": 0 if same else 1}
    if dilation is not None:
        found |= {"dilationHFactor": int(dilation[0]), "dilationWFactor": int(dilation[1])}
    return found | {"fusedActivationFunction": activation}


@many
@given(seeds, activations, st.booleans(), st.booleans(), st.booleans())
def test_fully_connected(
    tmp_path: Path, seed: int, activation: int, per_channel: bool, with_bias: bool, rows: bool
) -> None:
    rng = np.random.default_rng(seed)
    features, outputs = int(rng.integers(1, 70)), int(rng.integers(1, 12))
    count = int(rng.integers(2, 5)) if rows else 1
    source = scale(rng)
    weights, result = layer_scales(rng, source, outputs, features, per_channel)
    built = Builder()
    x = built.tensor((count, features), source, zero(rng))
    if count > 1:
        built.graph.tensors[x].shape = [1, count, features]
    w = built.tensor((outputs, features), weights, data=codes(rng, outputs, features))
    b = built.tensor((outputs,), weights * source, data=bias_codes(rng, outputs, features)) if with_bias else -1
    y = built.tensor((count, outputs), result, zero(rng))
    options = {"fusedActivationFunction": activation}
    built.operator("FULLY_CONNECTED", [x, w, b], y, 4, kind="FullyConnectedOptions", **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, count, features)])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_multipliers_agree_to_the_last_bit(tmp_path: Path, per_channel: bool, seed: int) -> None:
    """Biases sweep the sums around which the output steps: a multiplier off by 2^-26 of itself moves the step."""
    rng = np.random.default_rng(seed)
    source, weight = (float(np.float32(rng.uniform(0.5, 1.0))) for _ in range(2))
    result = float(np.float32(source * weight * rng.uniform(4e6, 1e7)))
    step = 100.5 * result / (source * weight)
    biases = np.unique(np.round(step + np.linspace(-150, 150, 301)).astype(np.int32))
    built = Builder()
    x = built.tensor((1, 1), source, 0)
    w = built.tensor(
        (len(biases), 1), [weight] * (len(biases) if per_channel else 1), data=np.ones((len(biases), 1), np.int8)
    )
    b = built.tensor((len(biases),), source * weight, data=biases)
    y = built.tensor((1, len(biases)), result, 0)
    built.operator("FULLY_CONNECTED", [x, w, b], y, 4, kind="FullyConnectedOptions")
    data = built.data([x], [y])
    (wanted,) = oracle(data, [np.zeros((1, 1), np.int8)])
    assert len(np.unique(wanted)) == 2
    compare(tmp_path, data, [np.zeros((1, 1), np.int8)])


def test_fully_connected_takes_off_the_weights_zero_point(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    built = Builder()
    x = built.tensor((1, 20), 0.05, 3)
    w = built.tensor((7, 20), 0.01, 20, data=rng.integers(-100, 128, (7, 20)).astype(np.int8))
    y = built.tensor((1, 7), 0.04, -9)
    built.operator("FULLY_CONNECTED", [x, w, -1], y, 4, kind="FullyConnectedOptions")
    compare(tmp_path, built.data([x], [y]), [codes(rng, 50, 20)])


@many
@given(seeds, activations, st.sampled_from(["same", "itself", "channels", "one", "first constant"]))
def test_add(tmp_path: Path, seed: int, activation: int, other: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(v) for v in rng.integers(1, 7, 3)))
    built = Builder()
    first = scale(rng, -8, 2)
    second = float(np.float32(first * 2.0 ** rng.uniform(-4, 4)))
    a = built.tensor(shape, first, zero(rng))
    if other == "same":
        b = built.tensor(shape, second, zero(rng))
    elif other == "itself":
        b = a
    else:
        size = {"channels": (shape[-1],), "one": (1,), "first constant": shape}[other]
        b = built.tensor(size, second, zero(rng), data=codes(rng, *size))
    y = built.tensor(shape, float(np.float32(max(first, second) * 2.0 ** rng.uniform(-2, 2))), zero(rng))
    pair = [b, a] if other == "first constant" else [a, b]
    built.operator("ADD", pair, y, 2, kind="AddOptions", fusedActivationFunction=activation)
    given_inputs = [a, b] if other == "same" else [a]
    data = built.data(given_inputs, [y])
    compare(tmp_path, data, [codes(rng, SAMPLES, *shape[1:]) for _ in given_inputs])


@many
@given(
    seeds,
    st.sampled_from(["ADD", "SUB", "MUL", "MINIMUM", "MAXIMUM"]),
    st.sampled_from(["same", "row", "pixel", "outer", "constant", "first constant"]),
    activations,
)
def test_two_operands(tmp_path: Path, seed: int, operator: str, other: str, activation: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, channels = (int(v) for v in rng.integers(1, 6, 3))
    shape = (1, height, width, channels)
    sizes = {"row": (1, 1, width, channels), "pixel": (1, height, width, 1), "outer": (1, height, 1, channels)}
    fixed = other.endswith("constant")
    size = (1, 1, 1, channels) if fixed else sizes.get(other, shape)
    compares = operator in ("MINIMUM", "MAXIMUM")
    first, second = (scale(rng, -7, 1), zero(rng)), (scale(rng, -7, 1), zero(rng))
    widest = first[0] * second[0] * 128 if operator == "MUL" else max(first[0], second[0])
    result = float(np.float32(widest * 2.0 ** rng.uniform(-2, 2))), zero(rng)
    if compares:
        second = result = first
    built = Builder()
    a = built.tensor(shape, *first)
    b = built.tensor(size, *second, data=codes(rng, *size) if fixed else None)
    y = built.tensor(shape, *result)
    pair = [b, a] if other == "first constant" else [a, b]
    kind = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}.get(operator, "")
    options: dict[str, Any] = {} if compares else {"kind": kind, "fusedActivationFunction": activation}
    built.operator(operator, pair, y, 2, **options)
    data = built.data([a] if fixed else [a, b], [y])
    sent = [codes(rng, SAMPLES, *shape[1:]), codes(rng, SAMPLES, *size[1:])][: 1 if fixed else 2]
    compare(tmp_path, data, sent)


@many
@given(seeds, st.booleans())
def test_pad(tmp_path: Path, seed: int, valued: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(1, 6, 3))
    pads = np.concatenate([[[0, 0]], rng.integers(0, 4, (3, 2))]).astype(np.int32)
    parameters = scale(rng), zero(rng)
    built = Builder()
    x = built.tensor((1, *shape), *parameters)
    y = built.tensor((1, *(int(d + p.sum()) for d, p in zip(shape, pads[1:], strict=True))), *parameters)
    used = [x, built.tensor((4, 2), data=pads)]
    if valued:
        used.append(built.tensor((1,), *parameters, data=codes(rng, 1)))
    built.operator("PADV2" if valued else "PAD", used, y, 2, kind="PadV2Options" if valued else "PadOptions")
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, *shape)])


@many
@given(seeds, st.integers(2, 9), st.integers(1, 3), st.integers(0, 1 << 9))
def test_concatenation(tmp_path: Path, seed: int, count: int, axis: int, constant: int) -> None:
    """Bit i of `constant` makes operand i one, except the last."""
    rng = np.random.default_rng(seed)
    shape = [1, *(int(v) for v in rng.integers(1, 5, 3))]
    parameters = scale(rng), zero(rng)
    built = Builder()
    shapes = [[*shape[:axis], int(rng.integers(1, 5)), *shape[axis + 1 :]] for _ in range(count)]
    tensors = [i for i in range(count) if i == count - 1 or not constant >> i & 1]
    parts = [
        built.tensor(s, *parameters, **({} if i in tensors else {"data": codes(rng, *s)})) for i, s in enumerate(shapes)
    ]
    y = built.tensor([*shape[:axis], sum(s[axis] for s in shapes), *shape[axis + 1 :]], *parameters)
    built.operator("CONCATENATION", parts, y, 2, kind="ConcatenationOptions", axis=axis - 4 if seed % 2 else axis)
    inputs = [codes(rng, SAMPLES, *shapes[i][1:]) for i in tensors]
    compare(tmp_path, built.data([parts[i] for i in tensors], [y]), inputs)


@many
@given(seeds, st.booleans())
def test_slices(tmp_path: Path, seed: int, strided: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 7, 3)
    starts = rng.integers(0, shape)
    steps = rng.integers(1, 3, 3) if strided else np.ones(3, int)
    ends = rng.integers(starts + 1, shape + 1)
    sizes = -(-(ends - starts) // steps)
    parameters = scale(rng), zero(rng)
    built = Builder()
    x = built.tensor((1, *map(int, shape)), *parameters)
    y = built.tensor((1, *map(int, sizes)), *parameters)

    def four(first: int, values: np.ndarray) -> int:
        return built.tensor((4,), data=np.array([first, *values], np.int32))

    if strided:
        used = [x, four(0, starts - shape if seed % 2 else starts), four(1, ends), four(1, steps)]
        built.operator("STRIDED_SLICE", used, y, 2, kind="StridedSliceOptions")
    else:
        built.operator("SLICE", [x, four(0, starts), four(1, sizes)], y, 2, kind="SliceOptions")
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, *map(int, shape))])


@many
@given(seeds, activations, st.booleans(), st.sampled_from(["AVERAGE_POOL_2D", "MAX_POOL_2D"]))
def test_pool(tmp_path: Path, seed: int, activation: int, same: bool, operator: str) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 6, 2), rng.integers(1, 4, 2)
    height, width = (int(v) for v in kernel - 1 + rng.integers(1, 6, 2))
    channels = int(rng.integers(1, 9))
    parameters = scale(rng), zero(rng)
    built = Builder()
    x = built.tensor((1, height, width, channels), *parameters)
    y = built.tensor((1, *extent((height, width), kernel, stride, 1, same), channels), *parameters)
    options = windowed(stride, same, activation) | {"filterHeight": int(kernel[0]), "filterWidth": int(kernel[1])}
    built.operator(operator, [x], y, 2, kind="Pool2DOptions", **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, height, width, channels)])


@pytest.mark.parametrize("operator", ["RELU", "QUANTIZE", "LEAKY_RELU", "MUL", "ADD"])
def test_ratios_of_scales_agree_at_ties(tmp_path: Path, operator: str) -> None:
    """Scales p : q put many results half-way between two codes, where the last bit of a multiplier decides."""
    kinds = {"QUANTIZE": "QuantizeOptions", "LEAKY_RELU": "LeakyReluOptions", "MUL": "MulOptions", "ADD": "AddOptions"}
    options: dict[str, Any] = {"kind": kinds[operator]} if operator in kinds else {}
    if operator == "LEAKY_RELU":
        options["alpha"] = 0.3
    for p, q in ((5, 6), (7, 12), (11, 14), (3, 10), (13, 24), (9, 22), (25, 28), (1, 6), (35, 6)):
        built = Builder()
        x = built.tensor((1, 256), p, -20)
        other = [built.tensor((1, 1), 1.0, 0, data=np.array([[3]], np.int8))] if operator in ("MUL", "ADD") else []
        y = built.tensor((1, 256), q, 5)
        built.operator(operator, [x, *other], y, 2, **options)
        compare(tmp_path, built.data([x], [y]), [np.arange(-128, 128, dtype=np.int8)[None, :]])


@many
@given(seeds, st.sampled_from(["LOGISTIC", "TANH", "LEAKY_RELU"]))
def test_functions_of_one_element(tmp_path: Path, seed: int, operator: str) -> None:
    """All 256 codes."""
    rng = np.random.default_rng(seed)
    source = scale(rng, -12, 3), zero(rng)
    free = float(np.float32(source[0] * 2.0 ** rng.uniform(-3, 3))), zero(rng)
    result = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(operator, free)
    built = Builder()
    x, y = built.tensor((1, 256), *source), built.tensor((1, 256), *result)
    options: dict[str, Any] = {"kind": "LeakyReluOptions", "alpha": float(rng.uniform(-1, 2))}
    built.operator(operator, [x], y, 2, **(options if operator == "LEAKY_RELU" else {}))
    compare(tmp_path, built.data([x], [y]), [np.arange(-128, 128, dtype=np.int8)[None, :]])


@many
@given(
    seeds,
    st.sampled_from(["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"]),
    st.sampled_from([(1, 2), (2, 1), (3,), (1,), (-2, -1), (1, 2, 3)]),
    st.booleans(),
    st.booleans(),
)
def test_reductions(tmp_path: Path, seed: int, operator: str, axes: tuple[int, ...], kept: bool, same: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(v) for v in rng.integers(1, 8, 3)))
    reduced = {axis % 4 for axis in axes}
    whole = [1 if axis in reduced else size for axis, size in enumerate(shape)]
    result = whole if kept else [size for axis, size in enumerate(whole) if axis not in reduced]
    source = scale(rng, -8, 1), zero(rng)
    count = np.prod(shape) / np.prod(whole) if operator == "SUM" else 1.0
    other = float(np.float32(source[0] * count * 2.0 ** rng.uniform(-1, 1))), zero(rng)
    built = Builder()
    x = built.tensor(shape, *source)
    y = built.tensor(result, *(source if same or operator in ("REDUCE_MAX", "REDUCE_MIN") else other))
    axis = built.tensor((len(axes),), data=np.array(axes, np.int32))
    built.operator(operator, [x, axis], y, 2, kind="ReducerOptions", keepDims=kept)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, *shape[1:])])


@many
@given(seeds, st.sampled_from([1.0, 1.0, 0.5, 3.0]))
def test_softmax(tmp_path: Path, seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 40))
    built = Builder()
    x = built.tensor((1, rows, columns), scale(rng, -9, 3), zero(rng))
    y = built.tensor((1, rows, columns), 1 / 256, -128)
    built.operator("SOFTMAX", [x], y, 2, kind="SoftmaxOptions", beta=beta)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, rows, columns)])


@many
@given(seeds, st.sampled_from(["RELU", "RELU6", "QUANTIZE"]))
def test_rescaling_operators(tmp_path: Path, seed: int, operator: str) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    source, point = scale(rng, -8, 1), zero(rng)
    result = (
        (float(np.float32(source * 2.0 ** rng.uniform(-3, 3))), zero(rng)) if operator != "RELU6" else (source, point)
    )
    built = Builder()
    x = built.tensor((1, count), source, point)
    y = built.tensor((1, count), *result)
    built.operator(operator, [x], y, 2, **({"kind": "QuantizeOptions"} if operator == "QUANTIZE" else {}))
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, count)])


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 1, 3), (0, 1, 3, 2)])
def test_transpose_and_reshapes(tmp_path: Path, perm: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shape = (1, 3, 4, 5)
    turned = [shape[a] for a in perm]
    built = Builder()
    x = built.tensor(shape, 0.1, 4)
    t = built.tensor(turned, 0.1, 4)
    built.operator("TRANSPOSE", [x, built.tensor((4,), data=np.array(perm, np.int32))], t, kind="TransposeOptions")
    flat = built.tensor((1, 60), 0.1, 4)
    built.operator("RESHAPE", [t, built.tensor((2,), data=np.array([1, 60], np.int32))], flat, kind="ReshapeOptions")
    grown = built.tensor((1, 1, 60), 0.1, 4)
    built.operator("EXPAND_DIMS", [flat, built.tensor((1,), data=np.array([1], np.int32))], grown)
    y = built.tensor((1, 60), 0.1, 4)
    built.operator("SQUEEZE", [grown], y, kind="SqueezeOptions", squeezeDims=[1])
    compare(tmp_path, built.data([x], [y]), [codes(rng, 3, *shape[1:])])
