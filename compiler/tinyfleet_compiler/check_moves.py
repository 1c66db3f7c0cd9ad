"""SPEC.md section 9 for operators that move bytes: sizes of their tensors, ends of their tables."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyfleet_compiler.layout import RESIZE_FRACTION_BITS
from tinyfleet_compiler.operators import OpCode, OpFlag

Fields = dict[str, Any]
_MOST_CUT = 255


def _product(values: Any) -> int:
    result = 1
    for value in values:
        result *= int(value)
    return result


def _pad_sizes(f: Fields) -> tuple[int, int]:
    sizes = zip(f["before"], f["dims"], f["after"], strict=True)
    return _product(f["dims"]), _product(sum(parts) for parts in sizes)


def _concat_sizes(f: Fields) -> tuple[int, int]:
    return f["outer"] * f["lengths"][0], f["outer"] * sum(f["lengths"])


def _strided_sizes(f: Fields) -> tuple[int, int]:
    reach = [(size - 1) * step for size, step in zip(f["dims"], f["strides"], strict=True)]
    return f["start"] + sum(max(r, 0) for r in reach) + 1, _product(f["dims"])


def _resample_sizes(f: Fields) -> tuple[int, int]:
    return _product((f["in_h"], f["in_w"], f["in_c"])), _product((f["out_h"], f["out_w"], f["in_c"]))


MOVE_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.PAD: _pad_sizes,
    OpCode.CONCAT: _concat_sizes,
    OpCode.STRIDED_COPY: _strided_sizes,
    OpCode.GATHER: _resample_sizes,
    OpCode.RESIZE_BILINEAR: _resample_sizes,
}


def more_inputs(f: Fields) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the second and later inputs of a CONCAT that lie in the arena."""
    if f["flags"] & OpFlag.CONSTANT_B:
        return
    for offset, run in zip(f["inputs_more"], f["lengths"][1:], strict=True):
        if run:
            yield offset, f["outer"] * run


def wrong_move(code: OpCode, f: Fields) -> str:
    """What is wrong with a record's own numbers, "" for a good one."""
    if "dims" in f and min(f["dims"]) < 1:
        return "a size is zero"
    if code is OpCode.STRIDED_COPY:
        reach = sum(min((size - 1) * step, 0) for size, step in zip(f["dims"], f["strides"], strict=True))
        return "a copy starts before its input" if f["start"] + reach < 0 else ""
    if code is OpCode.CONCAT:
        used = [run > 0 for run in f["lengths"]]
        if f["flags"] and used[2]:
            return "a constant is joined to more than one input"
        return "" if f["outer"] > 0 and used[:2] == [True, True] and used == sorted(used, reverse=True) else "no inputs"
    return ""


def wrong_table(code: OpCode, f: Fields, data: bytes) -> str:
    """Whether a GATHER or RESIZE_BILINEAR reads places its input does not have."""
    if code not in (OpCode.GATHER, OpCode.RESIZE_BILINEAR):
        return ""
    rows = 0 if f["flags"] & OpFlag.SAME_ROWS else f["out_h"]
    if f["flags"] & OpFlag.SAME_ROWS and f["out_h"] != f["in_h"]:
        return "rows are not those of the input"
    width = 2 if code is OpCode.RESIZE_BILINEAR else 1
    count = (rows + f["out_w"]) * width
    if f["table"] % 16 or f["table"] + 2 * count > len(data):
        return "a table lies outside the image"
    places = np.frombuffer(data, "<i2", count, f["table"]).reshape(-1, width).astype(np.int64)
    fraction = places[:, 1] if width == 2 else np.zeros(len(places), np.int64)
    last = np.repeat(np.array([f["in_h"] - 1, f["in_w"] - 1], np.int64), [rows, f["out_w"]])
    inside = (places[:, 0] >= 0) & (places[:, 0] + (fraction > 0) <= last)
    legal = (fraction >= 0) & (fraction < 1 << RESIZE_FRACTION_BITS)
    return "" if (inside & legal).all() else "a table names places outside the input"


def wrong_transposed(f: Fields) -> str:
    """What is wrong with the window of a TRANSPOSE_CONV_2D, "" for a good one."""
    if f["in_c"] % f["groups"] or f["out_c"] % f["groups"]:
        return "channels are no multiple of the groups"
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        reach = (f[f"in_{axis}"] - 1) * f[f"stride_{axis}"] + (f[f"kernel_{axis}"] - 1) * f[f"dilation_{axis}"] + 1
        # Pads and output padding are bytes in the model's world; wilder sizes only cost memory here.
        if not reach - _MOST_CUT <= f[f"out_{axis}"] + f[pad] <= reach + _MOST_CUT:
            return "the output has another size than its input makes"
    return ""
