"""SPEC.md section 9 for operators over two operands with broadcasting."""

from typing import Any

from tinyfleet_compiler.operators import OpCode, OpFlag

Fields = dict[str, Any]
BINARY_FLAGS = {
    OpCode.ADD_BROADCAST: OpFlag.CONSTANT_B,
    OpCode.SUB: OpFlag.CONSTANT_B | OpFlag.SWAPPED,
    OpCode.MUL: OpFlag.CONSTANT_B,
    OpCode.DIV: OpFlag.CONSTANT_B | OpFlag.SWAPPED,
    OpCode.MINIMUM: OpFlag.CONSTANT_B,
    OpCode.MAXIMUM: OpFlag.CONSTANT_B,
    OpCode.SQUARED_DIFFERENCE: OpFlag.CONSTANT_B,
    OpCode.ADD_INT16: OpFlag.CONSTANT_B,
    OpCode.SUB_INT16: OpFlag.CONSTANT_B | OpFlag.SWAPPED,
    OpCode.MUL_INT16: OpFlag.CONSTANT_B,
    OpCode.MINIMUM_INT16: OpFlag.CONSTANT_B,
    OpCode.MAXIMUM_INT16: OpFlag.CONSTANT_B,
}


def binary_sizes(f: Fields) -> tuple[int, int]:
    """Elements the first operand spans, elements of the output."""
    return _span(f["dims"], f["repeats"]), _product(f["dims"])


def span_b(f: Fields) -> int:
    """Elements the second operand spans."""
    return _span(f["dims"], f["repeats_b"])


def wrong_binary(code: OpCode, f: Fields, element_bytes: int) -> str:
    """A broadcast operand that shares bytes with the output, "" for a good record."""
    if code not in BINARY_FLAGS:
        return ""
    if min(f["dims"]) < 1:
        return "a size is zero"
    size = _product(f["dims"]) * element_bytes
    if f["reserved"] or max(f["repeats"], f["repeats_b"]) >= 1 << len(f["dims"]):
        return "unknown axes"
    operands = [(f["input"], f["repeats"])]
    if not f["flags"] & OpFlag.CONSTANT_B:
        operands.append((f["input_b"], f["repeats_b"]))
    for offset, repeats in operands:
        apart = offset + _span(f["dims"], repeats) * element_bytes <= f["output"] or f["output"] + size <= offset
        if not apart and not (repeats == 0 and offset - f["output"] >= f["overlap_bytes"]):
            return "the output overlaps an operand too closely"
    return ""


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _span(dims: tuple[int, ...], repeats: int) -> int:
    return _product(tuple(1 if repeats >> axis & 1 else size for axis, size in enumerate(dims)))
