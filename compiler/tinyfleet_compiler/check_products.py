"""SPEC.md section 9 for BATCH_MATMUL, TOP_K, TOP_K_INDICES, NORMALIZE and L2_NORMALIZE."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyfleet_compiler.layout import MOST_SQUARES
from tinyfleet_compiler.operators import ELEMENT_BYTES, OPERATORS, OpCode, OpFlag, counterpart

Fields = dict[str, Any]
MOST_DEPTH, MOST_NORMALIZED, MOST_CLASSES = 1 << 15, 1 << 16, 256
_MOST_EPSILON = 1 << 30
PRODUCT_FLAGS = {OpCode.BATCH_MATMUL: OpFlag.CONSTANT_B}


def _reach(sizes: Sequence[int], steps: Sequence[int]) -> int:
    """Bytes a strided walk reaches over."""
    return sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) + 1


def matmul_elements_b(f: Fields) -> int:
    """Elements the second input of a BATCH_MATMUL spans."""
    outer, inner, _, columns = f["dims"]
    return _reach((outer, inner, columns, f["depth"]), f["steps_b"])


def _matmul_sizes(f: Fields) -> tuple[int, int]:
    return _reach((*f["dims"][:3], f["depth"]), f["steps"]), math.prod(f["dims"])


PRODUCT_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.BATCH_MATMUL: _matmul_sizes,
    OpCode.TOP_K: lambda f: (f["rows"] * f["columns"], f["rows"] * f["k"]),
    OpCode.TOP_K_INDICES: lambda f: (f["rows"] * f["columns"], f["rows"] * f["k"]),
    OpCode.L2_NORMALIZE: lambda f: (f["rows"] * f["columns"],) * 2,
    OpCode.NORMALIZE: lambda f: (f["outer"] * f["count"] * f["groups"] * f["run"],) * 2,
}


def wrong_product(code: OpCode, f: Fields) -> str:
    """What is wrong with a record's own numbers, "" for a good one."""
    if counterpart(code) is OpCode.BATCH_MATMUL:
        return _wrong_matmul(f, ELEMENT_BYTES[OPERATORS[code].element])
    if counterpart(code) in (OpCode.TOP_K, OpCode.TOP_K_INDICES):
        most = MOST_CLASSES if code is OpCode.TOP_K_INDICES else f["columns"]
        wrong = not 1 <= f["k"] <= f["columns"] <= most or f["smallest"] > 1
        return "takes more values than there are" if wrong else ""
    if code is OpCode.L2_NORMALIZE:
        return "normalises too many values" if f["columns"] > MOST_SQUARES else ""
    if code is OpCode.NORMALIZE:
        wrong = f["count"] * f["run"] > MOST_NORMALIZED or f["centred"] > 1 or f["epsilon"][1] >= _MOST_EPSILON
        return "normalises too many values" if wrong else ""
    return ""


def _wrong_matmul(f: Fields, element_bytes: int) -> str:
    if min(*f["dims"], f["depth"]) < 1 or (element_bytes == 1 and f["depth"] > MOST_DEPTH):
        return "a size is zero or too many products are summed up"
    size = math.prod(f["dims"])
    if _reach(f["dims"], f["output_steps"]) != size:
        return "the output has holes"
    end_b, end = f["input_b"] + element_bytes * matmul_elements_b(f), f["output"] + element_bytes * size
    apart = end_b <= f["output"] or end <= f["input_b"]
    return "" if f["flags"] & OpFlag.CONSTANT_B or apart else "the output overlaps the second input"
