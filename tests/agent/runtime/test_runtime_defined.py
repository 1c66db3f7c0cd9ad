"""Images that open, each made to take one kernel out of defined behaviour: they run, and sanitizers see nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agent.runtime.images import Channels, ImageBuilder, Io, Op
from agent.runtime.rig import Model
from tinyfleet_compiler.operators import Element, OpCode

ANYWHERE = -(2**31)
"""An overlap rule that allows every distance."""


def channels(count: int, shift: int = -7) -> Channels:
    return Channels(np.full(count, 2**30), np.full(count, shift), np.zeros(count))


def one(arena: int, source: Io, target: Io, op: Op) -> ImageBuilder:
    return ImageBuilder(arena, [source], [target], [op])


def row_that_changes() -> ImageBuilder:
    """The largest value is written over the only one smaller than it: none is left to come second."""
    op = {"rows": 1, "columns": 2, "k": 2, "smallest": 0, "input": 0, "output": 0, "overlap_bytes": ANYWHERE}
    return one(2, Io(0, (2,)), Io(0, (2,)), Op(OpCode.TOP_K, op))


def real_row_that_changes() -> ImageBuilder:
    op = {"rows": 1, "columns": 2, "k": 2, "smallest": 0, "input": 0, "output": 0, "overlap_bytes": ANYWHERE}
    io = Io(0, (2,), element=Element.FLOAT32)
    return one(8, io, io, Op(OpCode.TOP_K_F32, op))


def gather_over_itself() -> ImageBuilder:
    op = {"in_h": 1, "in_w": 1, "in_c": 8, "out_h": 1, "out_w": 1, "output": 4, "overlap_bytes": ANYWHERE}
    return one(12, Io(0, (8,)), Io(4, (8,)), Op(OpCode.GATHER, op, constant=np.zeros(2, np.int16)))


def tall_window(code: OpCode) -> ImageBuilder:
    """Taps so far below the input that their place is beyond int32."""
    op: dict[str, Any] = {"in_h": 1, "in_w": 300, "in_c": 1, "out_h": 1, "out_w": 1, "out_c": 1, "groups": 1}
    op |= {"kernel_h": 40_000, "kernel_w": 1, "stride_h": 1, "stride_w": 1, "dilation_h": 255, "dilation_w": 1}
    op |= {"pad_top": 0, "pad_left": 0, "output": 304}
    made = Op(code, op, weights=np.zeros((1, 20_000), np.int8), channels=channels(1))
    return one(308, Io(0, (300,)), Io(304, (1,)), made)


def wide_window() -> ImageBuilder:
    """Columns so far right of the input that their place is beyond int32."""
    op: dict[str, Any] = {"in_h": 1, "in_w": 1, "in_c": 600, "out_h": 1, "out_w": 20_000, "out_c": 1, "groups": 1}
    op |= {"kernel_h": 1, "kernel_w": 1, "stride_h": 1, "stride_w": 255, "dilation_h": 1, "dilation_w": 1}
    op |= {"pad_top": 0, "pad_left": 0, "output": 2400}
    weights = np.zeros(601, np.float32)
    io = Io(0, (600,), element=Element.FLOAT32), Io(2400, (20_000,), element=Element.FLOAT32)
    return one(82_400, *io, Op(OpCode.CONV_2D_F32, op, constant=weights))


def wide_layer(shift: int) -> ImageBuilder:
    op = {"rows": 1, "in_features": 2, "out_features": 1, "output": 4, "biases_high": 0xFFFFFFFF}
    op |= {"activation_min": -32768, "activation_max": 32767}
    made = Op(OpCode.FULLY_CONNECTED_INT16, op, weights=np.ones((1, 2), np.int8), channels=channels(1, shift))
    io = Io(0, (2,), element=Element.INT16), Io(4, (1,), element=Element.INT16)
    return one(8, *io, made)


def least_difference() -> ImageBuilder:
    op = {"rows": 1, "columns": 2, "multiplier": 2**30, "left_shift": 20, "diff_min": -(2**31)}
    op |= {"reverse_multiplier": 2**30, "reverse_shift": -20, "output": 2}
    return one(4, Io(0, (2,)), Io(2, (2,)), Op(OpCode.LOG_SOFTMAX, op))


CASES: dict[str, Callable[[], ImageBuilder]] = {
    "top_k": row_that_changes,
    "top_k_f32": real_row_that_changes,
    "gather": gather_over_itself,
    "conv_2d_int4": lambda: tall_window(OpCode.CONV_2D_INT4),
    "depthwise_conv_2d_int4": lambda: tall_window(OpCode.DEPTHWISE_CONV_2D_INT4),
    "conv_2d_f32": wide_window,
    "wide sum shifted by 143": lambda: wide_layer(-128),
    "wide sum shifted by 64": lambda: wide_layer(-49),
    "log_softmax": least_difference,
}


@pytest.mark.parametrize("name", CASES)
def test_what_opens_is_defined(name: str) -> None:
    model = Model(CASES[name]().build())
    assert (model.status, model.golden()) == ("OK", "GOLDEN")
