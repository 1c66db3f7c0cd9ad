"""Every kernel against NUMERICS.md, over random shapes, apart and at the smallest legal overlap."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime import reference
from agent.runtime.images import Channels, ImageBuilder, Io, Op
from agent.runtime.rig import Model
from tinyfleet_compiler import numerics
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.simulate import simulate

SEEDS = st.integers(0, 2**32 - 1)
ZERO_POINT = st.integers(-128, 127)
EXAMPLES = settings(max_examples=60, deadline=None)


def random_int8(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def random_channels(seed: int, count: int, taps: int) -> Channels:
    """Parameters that use the whole output range, with a few that saturate."""
    rng = np.random.default_rng(seed)
    scales = [numerics.quantize_multiplier(float(s)) for s in 2.0 ** rng.uniform(-6, 1, count) / math.sqrt(taps) / 60]
    multipliers, shifts = (np.array(column) for column in zip(*scales, strict=True))
    return Channels(multipliers, shifts, rng.integers(-(2**14), 2**14, count))


@st.composite
def activation(draw: Any) -> dict[str, int]:
    low = draw(st.sampled_from([-128, -128, -5, 0]))
    high = draw(st.sampled_from([127, 127, 3, 90]))
    return {"activation_min": low, "activation_max": high}


@st.composite
def windows(draw: Any, *, dilation: bool, channels: int = 5) -> dict[str, int]:
    """Window fields whose windows all reach the input."""
    op: dict[str, int] = {"in_c": draw(st.integers(1, channels))}
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        size = op[f"in_{axis}"] = draw(st.integers(1, 7))
        step = op[f"dilation_{axis}"] = draw(st.integers(1, 2)) if dilation else 1
        kernel = op[f"kernel_{axis}"] = draw(st.integers(1, 4))
        extent = (kernel - 1) * step + 1
        stride = op[f"stride_{axis}"] = draw(st.integers(1, 3))
        op[pad] = draw(st.integers(0, min(extent - 1, size - 1) if step == 1 else 0))
        most = (size - 1 + op[pad]) // stride + 1
        op[f"out_{axis}"] = draw(st.integers(1, most))
    return op | {"input_zero_point": draw(ZERO_POINT), "output_zero_point": draw(ZERO_POINT)} | draw(activation())


def check(op: Op, x: np.ndarray, expected: np.ndarray, distance: int | None, extra_arena: int = 0) -> None:
    """Run apart, then with the output at its smallest legal distance below the input (REVERSED: above it)."""
    size_in, size_out = x.size, expected.size
    places = [(0, size_in + extra_arena)]
    if op.values.get("flags", 0) & OpFlag.REVERSED:
        if distance is not None and distance < size_in:
            places.append((max(-distance, 0), max(-distance, 0) + distance))
    elif distance is not None and distance < size_out:
        places.append((max(distance, 0) + extra_arena, max(distance, 0) - distance + extra_arena))
    for at_in, at_out in places:
        op.values |= {"input": at_in, "output": at_out}
        if distance is not None:
            op.values["overlap_bytes"] = distance
        arena = max(at_in + size_in, at_out + size_out)
        image = ImageBuilder(arena, [Io(at_in, (size_in,))], [Io(at_out, (size_out,))], [op]).build()
        model = Model(image)
        assert model.status == "OK"
        np.testing.assert_array_equal(model.step_outputs(x)[0], expected.ravel())
        np.testing.assert_array_equal(model.run(x), expected.ravel())
        np.testing.assert_array_equal(simulated(image, x), expected.ravel())


def simulated(image: bytes, x: np.ndarray) -> np.ndarray:
    """What the compiler's numpy engine makes of it."""
    parsed = read_image(image)
    (output,) = simulate(parsed, x.reshape(1, *parsed.inputs[0].shape)).values()
    return output.ravel()


@EXAMPLES
@given(windows(dilation=True), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), SEEDS)
def test_conv_2d(op: dict[str, int], groups: int, group_in: int, group_out: int, seed: int) -> None:
    op |= {"groups": groups, "in_c": groups * group_in, "out_c": groups * group_out}
    _check_conv(OpCode.CONV_2D, op, seed)


@EXAMPLES
@given(windows(dilation=True), st.integers(1, 3), SEEDS)
def test_depthwise_conv_2d(op: dict[str, int], multiplier: int, seed: int) -> None:
    _check_conv(OpCode.DEPTHWISE_CONV_2D, op | {"groups": op["in_c"], "out_c": op["in_c"] * multiplier}, seed)


def _check_conv(code: OpCode, op: dict[str, int], seed: int) -> None:
    x = random_int8(seed, op["in_h"], op["in_w"], op["in_c"])
    weights = random_int8(seed + 1, op["out_c"], op["kernel_h"], op["kernel_w"], op["in_c"] // op["groups"])
    channels = random_channels(seed, op["out_c"], weights[0].size)
    expected = reference.conv(op, x, weights, channels)
    check(Op(code, op, weights, channels), x, expected, reference.window_distance(op))
    backwards = op | {"flags": int(OpFlag.REVERSED)}
    check(Op(code, backwards, weights, channels), x, expected, reference.reversed_window_distance(op))


@EXAMPLES
@given(windows(dilation=True), SEEDS)
def test_max_pool_2d(op: dict[str, int], seed: int) -> None:
    op |= {"groups": 1, "out_c": op["in_c"]}
    if any(
        not any(reference.inside(op, iy, ix) for _, _, iy, ix in reference.taps(op, oy, ox))
        for oy, ox in np.ndindex(op["out_h"], op["out_w"])
    ):
        return
    x = random_int8(seed, op["in_h"], op["in_w"], op["in_c"])
    check(Op(OpCode.MAX_POOL_2D, op), x, reference.max_pool(op, x), reference.window_distance(op))


@EXAMPLES
@given(windows(dilation=False), st.booleans(), SEEDS)
def test_average_pool_2d(op: dict[str, int], include_pad: bool, seed: int) -> None:
    op |= {"groups": 1, "out_c": op["in_c"], "flags": OpFlag.COUNT_INCLUDE_PAD if include_pad else 0}
    x = random_int8(seed, op["in_h"], op["in_w"], op["in_c"])
    expected = reference.average_pool(op, x, include_pad)
    check(Op(OpCode.AVERAGE_POOL_2D, op), x, expected, reference.window_distance(op))


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), ZERO_POINT, activation(), SEEDS)
def test_fully_connected(rows: int, features: int, outputs: int, zero: int, limits: dict[str, int], seed: int) -> None:
    op = {"rows": rows, "in_features": features, "out_features": outputs, "output_zero_point": zero, **limits}
    x, weights = random_int8(seed, rows, features), random_int8(seed + 1, outputs, features)
    channels = random_channels(seed, outputs, features)
    distance = max((r + 1) * outputs - r * features for r in range(rows))
    expected = reference.fully_connected(op, x, weights, channels)
    check(Op(OpCode.FULLY_CONNECTED, op, weights, channels), x, expected, distance)


@st.composite
def additions(draw: Any) -> dict[str, int]:
    scales = [draw(st.floats(0.001, 1.0)) for _ in range(3)]
    t = 2 * max(scales[:2])
    op: dict[str, int] = draw(activation())
    for name, real in (("input", scales[0] / t), ("input_b", scales[1] / t), ("output", t / (2**20 * scales[2]))):
        op[f"{name}_multiplier"], op[f"{name}_shift"] = numerics.quantize_multiplier(real)
        op[f"{name}_zero_point"] = draw(ZERO_POINT)
    return op


@EXAMPLES
@given(additions(), st.integers(1, 50), st.integers(0, 2), SEEDS)
def test_add_constant(op: dict[str, int], size: int, kind: int, seed: int) -> None:
    size_b = (size, 1, size)[kind]
    size *= 3 if kind == 2 else 1
    op |= {"size": size, "size_b": size_b, "flags": OpFlag.CONSTANT_B}
    x, b = random_int8(seed, size), random_int8(seed + 1, size_b)
    check(Op(OpCode.ADD, op, constant=b), x, reference.add(op, x, b), 0)


@EXAMPLES
@given(additions(), st.integers(1, 50), st.booleans(), SEEDS)
def test_add_two_tensors(op: dict[str, int], size: int, in_place: bool, seed: int) -> None:
    """Both operands are the model's inputs; in place the output takes the second one's bytes."""
    a, b = random_int8(seed, size), random_int8(seed + 1, size)
    output = size if in_place else 2 * size
    op |= {"input": 0, "input_b": size, "output": output, "size": size, "size_b": size, "overlap_bytes": 0}
    builder = ImageBuilder(3 * size, [Io(0, (2 * size,))], [Io(output, (size,))], [Op(OpCode.ADD, op)])
    model = Model(builder.build())
    assert model.status == "OK"
    both = np.concatenate([a, b])
    np.testing.assert_array_equal(model.run(both), reference.add(op, a, b))
    np.testing.assert_array_equal(simulated(model.image, both), reference.add(op, a, b))


@EXAMPLES
@given(st.floats(0.01, 8.0), st.integers(1, 50), ZERO_POINT, ZERO_POINT, activation(), SEEDS)
def test_rescale(real: float, size: int, zero_in: int, zero_out: int, limits: dict[str, int], seed: int) -> None:
    multiplier, shift = numerics.quantize_multiplier(real)
    op = {"size": size, "multiplier": multiplier, "shift": shift, **limits}
    op |= {"input_zero_point": zero_in, "output_zero_point": zero_out}
    x = random_int8(seed, size)
    check(Op(OpCode.RESCALE, op), x, reference.rescale_op(op, x), 0)


def softmax_values(scale: float, rows: int, columns: int) -> dict[str, int]:
    multiplier, left_shift = numerics.quantize_multiplier(min(scale * 2**26, 2**31 - 1))
    diff_min = -math.floor(31 * 2**26 / 2**left_shift)
    return {"rows": rows, "columns": columns, "multiplier": multiplier, "left_shift": left_shift, "diff_min": diff_min}


@EXAMPLES
@given(st.floats(1e-4, 2.0), st.integers(1, 3), st.integers(1, 30), SEEDS)
def test_softmax(scale: float, rows: int, columns: int, seed: int) -> None:
    """Within one step of the real softmax, and byte for byte as the compiler's arithmetic."""
    op = softmax_values(scale, rows, columns)
    x = random_int8(seed, rows, columns)
    expected = numerics.softmax_int8(x, op["multiplier"], op["left_shift"], op["diff_min"])
    real = np.exp((x.astype(float) - x.max(axis=1, keepdims=True)) * scale)
    real /= real.sum(axis=1, keepdims=True)
    assert np.abs(expected - np.clip(real * 256 - 128, -128, 127)).max() <= 1.01
    check(Op(OpCode.SOFTMAX, op), x, expected, 0)


@pytest.mark.parametrize("columns", [1, 2, 511, 512, 513, 1000, 4095, 4096])
def test_softmax_of_many_equal_classes(columns: int) -> None:
    op = softmax_values(0.1, 1, columns)
    x = np.full(columns, 7, np.int8)
    expected = numerics.softmax_int8(x, op["multiplier"], op["left_shift"], op["diff_min"])
    check(Op(OpCode.SOFTMAX, op), x, expected, 0)


@EXAMPLES
@given(st.permutations([0, 1, 2, 3]), st.tuples(*[st.integers(1, 4)] * 4), SEEDS)
def test_transpose(order: list[int], shape: tuple[int, ...], seed: int) -> None:
    x = random_int8(seed, *shape)
    strides = [int(np.prod(shape[axis + 1 :])) for axis in order]
    op = {"dims": [shape[axis] for axis in order], "strides": strides}
    check(Op(OpCode.TRANSPOSE, op), x, x.transpose(order), None)
    np.testing.assert_array_equal(reference.transpose(op, x.ravel()), x.transpose(order).ravel())


def test_one_pixel_nearer_than_legal_gives_other_bytes() -> None:
    """The smallest distance is the smallest: an image that lies about it computes something else. (Pools and depthwise
    read a channel before they write it, so they would bear one pixel more than SPEC gives them.)"""
    op = {"in_h": 6, "in_w": 6, "in_c": 2, "out_h": 6, "out_w": 6, "out_c": 2, "kernel_h": 3, "kernel_w": 3}
    op |= {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1, "pad_top": 1, "pad_left": 1}
    op |= {"groups": 1, "input_zero_point": 0, "output_zero_point": 0, "activation_min": -128, "activation_max": 127}
    weights, channels, x = random_int8(2, 2, 3, 3, 2), random_channels(3, 2, 18), random_int8(4, 6, 6, 2)
    right = reference.conv(op, x, weights, channels)
    legal = reference.window_distance(op)
    for distance, same in ((legal, True), (legal - op["out_c"], False)):
        values = op | {"input": distance, "output": 0, "overlap_bytes": distance}
        record = Op(OpCode.CONV_2D, values, weights, channels)
        builder = ImageBuilder(distance + x.size, [Io(distance, (x.size,))], [Io(0, (right.size,))], [record])
        assert (Model(builder.build()).run(x) == right.ravel()).all() == same


@pytest.mark.parametrize("groups", [1, 2])
def test_one_pixel_nearer_than_legal_gives_other_bytes_in_reverse(groups: int) -> None:
    op = {"in_h": 6, "in_w": 6, "in_c": 2, "out_h": 6, "out_w": 6, "out_c": 4, "kernel_h": 3, "kernel_w": 3}
    op |= {
        "stride_h": 1,
        "stride_w": 1,
        "dilation_h": 1,
        "dilation_w": 1,
        "pad_top": 1,
        "pad_left": 1,
        "groups": groups,
    }
    op |= {"input_zero_point": 0, "output_zero_point": 0, "activation_min": -128, "activation_max": 127}
    weights = random_int8(2, 4, 3, 3, 2 // groups)
    channels, x = random_channels(3, 4, 18 // groups), random_int8(4, 6, 6, 2)
    right = reference.conv(op, x, weights, channels)
    legal = reference.reversed_window_distance(op)
    for distance, same in ((legal, True), (legal - op["out_c"], False)):
        at_in = max(-distance, 0)
        values = op | {"input": at_in, "output": at_in + distance, "overlap_bytes": distance, "flags": 4}
        record = Op(OpCode.CONV_2D, values, weights, channels)
        arena = max(at_in + x.size, at_in + distance + right.size)
        ends = [Io(at_in, (x.size,))], [Io(at_in + distance, (right.size,))]
        assert (Model(ImageBuilder(arena, *ends, [record]).build()).run(x) == right.ravel()).all() == same


def test_one_row_nearer_than_legal_gives_other_bytes() -> None:
    """FULLY_CONNECTED, whose rows are its pixels."""
    rows, features, outputs = 3, 4, 6
    weights, channels, x = (
        random_int8(2, outputs, features),
        random_channels(3, outputs, features),
        random_int8(4, 3, 4),
    )
    op = {"rows": rows, "in_features": features, "out_features": outputs, "output_zero_point": 0}
    right = reference.fully_connected(op | {"activation_min": -128, "activation_max": 127}, x, weights, channels)
    legal = max((r + 1) * outputs - r * features for r in range(rows))
    for distance, same in ((legal, True), (legal - outputs, False)):
        values = op | {"input": distance, "output": 0, "overlap_bytes": distance}
        record = Op(OpCode.FULLY_CONNECTED, values, weights, channels)
        arena = max(distance + x.size, right.size)
        builder = ImageBuilder(arena, [Io(distance, (x.size,))], [Io(0, (right.size,))], [record])
        assert (Model(builder.build()).run(x) == right.ravel()).all() == same
