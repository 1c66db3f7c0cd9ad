"""TRANSPOSE_CONV_2D against NUMERICS.md, tap by tap in plain integers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.images import Channels, ImageBuilder, Io, Op
from agent.runtime.reference import finish, rescale
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import (
    EXAMPLES,
    SEEDS,
    ZERO_POINT,
    activation,
    check,
    random_channels,
    random_int8,
)
from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OpCode


@st.composite
def windows(draw: Any) -> dict[str, int]:
    op: dict[str, int] = {"in_c": draw(st.integers(1, 4)), "out_c": draw(st.integers(1, 3)), "groups": 1}
    op["groups"] = groups = draw(st.integers(1, 3))
    op |= {"in_c": op["in_c"] * groups, "out_c": op["out_c"] * groups}
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        size, kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        stride, step = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        full = (size - 1) * stride + (kernel - 1) * step + 1
        before = draw(st.integers(0, min(2, full - 1)))
        out = draw(st.integers(max(1, full - before - 2), full - before + 2))
        op |= {f"in_{axis}": size, f"kernel_{axis}": kernel, f"stride_{axis}": stride, f"dilation_{axis}": step}
        op |= {pad: before, f"out_{axis}": out}
    return op | {"input_zero_point": draw(ZERO_POINT), "output_zero_point": draw(ZERO_POINT)} | draw(activation())


def stamped(op: dict[str, int], x: np.ndarray, weights: np.ndarray, channels: Channels) -> np.ndarray:
    """Every input pixel lays its stamp onto the sums, as SPEC section 5 says."""
    sums = np.tile(channels.biases.astype(object), (op["out_h"], op["out_w"], 1))
    for y, z, ky, kx in np.ndindex(op["in_h"], op["in_w"], op["kernel_h"], op["kernel_w"]):
        oy = y * op["stride_h"] + ky * op["dilation_h"] - op["pad_top"]
        ox = z * op["stride_w"] + kx * op["dilation_w"] - op["pad_left"]
        if 0 <= oy < op["out_h"] and 0 <= ox < op["out_w"]:
            per_group, out_per_group = op["in_c"] // op["groups"], op["out_c"] // op["groups"]
            for o, c in np.ndindex(op["out_c"], per_group):
                source = o // out_per_group * per_group + c
                sums[oy, ox, o] += (int(x[y, z, source]) - op["input_zero_point"]) * int(weights[o, ky, kx, c])
    result = np.empty(sums.shape, np.int8)
    for oy, ox, o in np.ndindex(*sums.shape):
        scaled = rescale(int(sums[oy, ox, o]), int(channels.multipliers[o]), int(channels.shifts[o]))
        result[oy, ox, o] = finish(scaled, op)
    return result


@EXAMPLES
@given(windows(), SEEDS)
def test_transpose_conv_2d(op: dict[str, int], seed: int) -> None:
    x = random_int8(seed, op["in_h"], op["in_w"], op["in_c"])
    weights = random_int8(seed + 1, op["out_c"], op["kernel_h"], op["kernel_w"], op["in_c"] // op["groups"])
    channels = random_channels(seed, op["out_c"], weights[0].size)
    check(Op(OpCode.TRANSPOSE_CONV_2D, op, weights, channels), x, stamped(op, x, weights, channels), None)


@pytest.mark.parametrize(
    "bad",
    [
        {"groups": 3},
        {"stride_w": 0},
        {"dilation_h": 0},
        {"kernel_h": 9},
        {"out_w": 60000},
        {"in_c": 3},
        {"channel": 1},
        {"weights": 0xFFFFFFF0},
        {"output": 2},
    ],
)
def test_broken_records_are_refused(bad: dict[str, int]) -> None:
    op = {"in_h": 2, "in_w": 2, "in_c": 2, "out_h": 4, "out_w": 4, "out_c": 2, "kernel_h": 2, "kernel_w": 2}
    op |= {"stride_h": 2, "stride_w": 2, "dilation_h": 1, "dilation_w": 1, "pad_top": 0, "pad_left": 0, "groups": 1}
    op |= {"input": 0, "output": 8}

    def image(values: dict[str, int]) -> bytes:
        record = Op(OpCode.TRANSPOSE_CONV_2D, values, random_int8(1, 2, 2, 2, 2), random_channels(1, 2, 8))
        return ImageBuilder(40, [Io(0, (8,))], [Io(8, (32,))], [record]).build()

    assert Model(image(op)).status == "OK"
    assert Model(image(op | bad)).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(image(op | bad))
