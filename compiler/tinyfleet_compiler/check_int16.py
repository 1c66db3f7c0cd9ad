"""SPEC.md section 9 for operators on int16 tensors."""

from collections.abc import Callable
from typing import Any

from tinyfleet_compiler.check_binary import binary_sizes
from tinyfleet_compiler.operators import OpCode

Fields = dict[str, Any]
MOST_COUNT_INT16 = 1 << 15
"""Sums of so many int16 values stay inside int32."""


def _window_sizes(f: Fields) -> tuple[int, int]:
    return f["in_h"] * f["in_w"] * f["in_c"], f["out_h"] * f["out_w"] * f["out_c"]


def _flat_sizes(f: Fields) -> tuple[int, int]:
    return f["size"], f["size"]


def _reduce_sizes(f: Fields) -> tuple[int, int]:
    return f["outer"] * f["count"] * f["inner"], f["outer"] * f["inner"]


INT16_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.CONV_2D_INT16: _window_sizes,
    OpCode.DEPTHWISE_CONV_2D_INT16: _window_sizes,
    OpCode.TRANSPOSE_CONV_2D_INT16: _window_sizes,
    OpCode.MAX_POOL_2D_INT16: _window_sizes,
    OpCode.AVERAGE_POOL_2D_INT16: _window_sizes,
    OpCode.FULLY_CONNECTED_INT16: lambda f: (f["rows"] * f["in_features"], f["rows"] * f["out_features"]),
    OpCode.ADD_INT16: binary_sizes,
    OpCode.SUB_INT16: binary_sizes,
    OpCode.MUL_INT16: binary_sizes,
    OpCode.MINIMUM_INT16: binary_sizes,
    OpCode.MAXIMUM_INT16: binary_sizes,
    OpCode.SOFTMAX_INT16: lambda f: (f["rows"] * f["columns"],) * 2,
    OpCode.LOGISTIC_INT16: _flat_sizes,
    OpCode.TANH_INT16: _flat_sizes,
    OpCode.LUT_INT16: _flat_sizes,
    OpCode.LEAKY_RELU_INT16: _flat_sizes,
    OpCode.RESCALE_INT16: _flat_sizes,
    OpCode.REDUCE_SUM_INT16: _reduce_sizes,
    OpCode.REDUCE_MAX_INT16: _reduce_sizes,
    OpCode.REDUCE_MIN_INT16: _reduce_sizes,
}


def wrong_int16(code: OpCode, f: Fields) -> str:
    """What is wrong with a record's own numbers, "" for a good one."""
    if code is OpCode.REDUCE_SUM_INT16 and f["count"] > MOST_COUNT_INT16:
        return "too many values are reduced"
    if code is OpCode.AVERAGE_POOL_2D_INT16 and f["kernel_h"] * f["kernel_w"] > MOST_COUNT_INT16:
        return "too many values are averaged"
    if "right_shift" in f and (f["right_shift"] > 31 or f["multiplier"] > 0x7FFF):
        return "a multiplier is out of range"
    if f.get("biases_high", 0) != 0xFFFFFFFF and f.get("biases_high", 0) % 16:
        return "biases are misaligned"
    return ""
