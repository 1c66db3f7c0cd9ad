"""SPEC.md section 9 for float32 operators: numbers that every kernel relies on, tables of places."""

import math
from typing import Any

import numpy as np

from tinyfleet_compiler.operators import OPERATORS, Element, Function, OpCode

Fields = dict[str, Any]
_FUNCTIONS = {
    OpCode.UNARY_F32: range(Function.IDENTITY, Function.WHOLE_POWER + 1),
    OpCode.EXPONENTIAL_F32: range(Function.EXP, Function.POWER + 1),
    OpCode.TRIGONOMETRIC_F32: range(Function.SIN, Function.COS + 1),
}
MOST_POWER = 64
_CONSTANTS = ("weights", "slopes", "table")


def wrong_float(code: OpCode, f: Fields) -> str:
    """What is wrong with the float fields of a record, "" for a good one and for integer operators."""
    if "scale" in f and not (math.isfinite(f["scale"]) and f["scale"] > 0):
        return "a scale is not positive"
    if OPERATORS[code].element is not Element.FLOAT32:
        return ""
    if not f.get("activation_min", 0.0) <= f.get("activation_max", 0.0):
        return "the activation range is empty"
    if any(not math.isfinite(f[name]) for name in ("beta", "alpha", "divisor") if name in f) or f.get("divisor") == 0:
        return "a parameter is not finite, or divides by zero"
    if any(f[name] % 4 for name in _CONSTANTS if name in f):
        return "a constant is misaligned"
    return _wrong_function(code, f) if code in _FUNCTIONS else ""


def _wrong_function(code: OpCode, f: Fields) -> str:
    if f["function"] not in _FUNCTIONS[code]:
        return "an unknown function"
    exponent = f["alpha"] if f["function"] == Function.WHOLE_POWER else 0
    return "" if exponent == int(exponent) and 0 <= exponent <= MOST_POWER else "an exponent that is no small integer"


def wrong_float_table(code: OpCode, f: Fields, data: bytes) -> str:
    """Whether a RESIZE_BILINEAR_F32 reads places its input does not have."""
    if code is not OpCode.RESIZE_BILINEAR_F32:
        return ""
    count = f["out_h"] + f["out_w"]
    if f["table"] + 8 * count > len(data):
        return "a table lies outside the image"
    places = np.frombuffer(data, "<f4", 2 * count, f["table"]).reshape(-1, 2).astype(np.float64)
    low, part = places[:, 0], places[:, 1]
    last = np.repeat(np.array([f["in_h"] - 1, f["in_w"] - 1], np.float64), [f["out_h"], f["out_w"]])
    with np.errstate(invalid="ignore"):
        inside = (low >= 0) & (low + (part > 0) <= last) & (low == np.floor(low)) & (part >= 0) & (part < 1)
    return "" if inside.all() else "a table names places outside the input"
