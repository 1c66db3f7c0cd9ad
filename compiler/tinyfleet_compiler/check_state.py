"""SPEC.md section 9 for model state: its table, and the operators that read and write it."""

from collections.abc import Callable
from typing import Any

from tinyfleet_compiler import layout
from tinyfleet_compiler.operators import CODE_RANGES, ELEMENT_BYTES, Element, OpCode, OpFlag

Fields = dict[str, Any]
STATE_ALIGN = 4


def wrong_state(r: Fields, header: Fields, image_bytes: int) -> str:
    """The first rule an entry of the state table breaks, "" for a good one."""
    if r["element"] not in ELEMENT_BYTES:
        return "an unknown element type"
    element, size = Element(r["element"]), r["size_bytes"]
    if size < 1 or size % ELEMENT_BYTES[element] or r["state_offset"] % STATE_ALIGN:
        return "a wrong size or alignment"
    if r["state_offset"] + size > header["state_bytes"]:
        return "it lies outside the state"
    low, high = CODE_RANGES.get(element, (0, 0))
    if not low <= r["fill"] <= high:
        return "its type cannot hold its initial value"
    if r["data"] == layout.NO_OFFSET:
        return ""
    aligned = r["data"] % layout.SECTION_ALIGN == 0
    return "" if aligned and r["data"] + size <= image_bytes else "its initial bytes lie outside the image"


def wrong_state_op(code: OpCode, f: Fields, header: Fields) -> str:
    """What is wrong with where an operator keeps its state, "" for a good record."""
    for name, size in STATE_PARTS.get(code, _no_parts)(f):
        if f[name] % STATE_ALIGN or f[name] + size > header["state_bytes"]:
            return "it keeps something outside the state"
    if code in (OpCode.STATE_READ, OpCode.STATE_WRITE) and f["input"] != f["output"]:
        return "a state operator moves a tensor"
    if code in FLOAT_GATES:
        return _wrong_float_gates(code, f)
    if code in GATES_OF:
        return _wrong_gates(code, f)
    return _wrong_svdf(f) if code is OpCode.SVDF else ""


GATES_OF = {
    OpCode.LSTM: layout.GATES,
    OpCode.GRU: layout.GATES - 1,
    OpCode.LSTM_F32: layout.GATES,
    OpCode.GRU_F32: layout.GATES - 1,
}
"""Gates of the operators that have some."""


def _wrong_gates(code: OpCode, f: Fields) -> str:
    if (f["hidden"] == layout.NO_OFFSET) != (f["cell"] == layout.NO_OFFSET):
        return "it keeps one of hidden state and cell"
    anew = f["hidden"] == layout.NO_OFFSET
    if f["flags"] & OpFlag.GIVEN_START and not anew:
        return "it has two places to begin from"
    if anew and f["scratch"] % 2:
        return "its cell is misaligned"
    if f["scratch_bytes"] < gates_scratch_bytes(f["units"], f["flags"], anew=anew):
        return "it has no room for hidden state and cell"
    if code is OpCode.GRU and (f["cell_power"] != -15 or f["cell_clip"]):
        return "its cell is not Q15"
    if min(f["gate_multipliers"]) < 0 or not layout.LEAST_CELL_POWER <= f["cell_power"] <= 0:
        return "a wrong scale of gates or cell"
    return "a negative bound of the cell" if f["cell_clip"] < 0 else ""


FLOAT_GATES = {OpCode.LSTM_F32: 2, OpCode.GRU_F32: 1}
"""Vectors that float layers keep."""


def float_gates_scratch(code: OpCode, units: int, flags: int, *, anew: bool) -> int:
    """Bytes of vectors that have no place in the state, and of reset hidden states."""
    return 4 * units * ((FLOAT_GATES[code] if anew else 0) + (1 if flags & OpFlag.RESET_FIRST else 0))


def _wrong_float_gates(code: OpCode, f: Fields) -> str:
    anew = f["hidden"] == layout.NO_OFFSET
    if (f["cell"] == layout.NO_OFFSET) != (anew or code is OpCode.GRU_F32):
        return "it keeps one of hidden state and cell"
    if f["flags"] & OpFlag.GIVEN_START and not anew:
        return "it has two places to begin from"
    needed = float_gates_scratch(code, f["units"], f["flags"], anew=anew)
    if needed and (f["scratch_bytes"] < needed or f["scratch"] % 4):
        return "it has no room for hidden state and cell"
    return ""


def float_gates_table_bytes(code: OpCode, f: Fields) -> int:
    """Biases, what it begins with, weights over the input, weights over the hidden state."""
    start = FLOAT_GATES[code] * f["units"] if f["flags"] & OpFlag.GIVEN_START else 0
    return int(4 * (GATES_OF[code] * f["units"] * (2 + f["features"] + f["units"]) + start))


def _float_gate_parts(f: Fields) -> tuple[tuple[str, int], ...]:
    return tuple((name, 4 * f["units"]) for name in ("hidden", "cell") if f[name] != layout.NO_OFFSET)


def gates_scratch_bytes(units: int, flags: int, *, anew: bool) -> int:
    """Of int16 cells and int8 hidden states that have no place in the state, and of reset hidden states."""
    return (3 * units if anew else 0) + (units if flags & OpFlag.RESET_FIRST else 0)


def gates_table_bytes(code: OpCode, f: Fields) -> int:
    """Biases, what it begins with, weights over the input, weights over the hidden state."""
    start = 3 * f["units"] if f["flags"] & OpFlag.GIVEN_START else 0
    return int(GATES_OF[code] * f["units"] * (8 + f["features"] + f["units"])) + start


def _wrong_svdf(f: Fields) -> str:
    if f["filters"] % f["rank"]:
        return "filters are no multiple of the rank"
    low, high = (0, 0) if f["state_element"] == Element.INT16 else CODE_RANGES[Element.INT8]
    legal = f["state_element"] in (Element.INT8, Element.INT16) and low <= f["state_zero_point"] <= high
    return "" if legal else "a wrong type of state"


def svdf_table_bytes(f: Fields) -> int:
    """Biases, weights over the time, weights over the input."""
    units, width = f["filters"] // f["rank"], _width(f)
    return int(4 * units + f["filters"] * (f["memory"] * width + f["features"]))


def _width(f: Fields) -> int:
    return 2 if f["state_element"] == Element.INT16 else 1


def _gate_parts(f: Fields) -> tuple[tuple[str, int], ...]:
    """Nothing where every inference begins anew, in scratch."""
    return () if f["hidden"] == layout.NO_OFFSET else (("hidden", f["units"]), ("cell", 2 * f["units"]))


def _gate_sizes(f: Fields) -> tuple[int, int]:
    return f["steps"] * f["features"], f["steps"] * f["units"]


def _no_parts(f: Fields) -> tuple[tuple[str, int], ...]:
    return ()


STATE_PARTS: dict[OpCode, Callable[[Fields], tuple[tuple[str, int], ...]]] = {
    OpCode.STATE_READ: lambda f: (("state", f["size"]),),
    OpCode.STATE_WRITE: lambda f: (("state", f["size"]),),
    OpCode.SVDF: lambda f: (("state", f["filters"] * f["memory"] * _width(f)),),
    OpCode.LSTM: _gate_parts,
    OpCode.GRU: _gate_parts,
    OpCode.LSTM_F32: _float_gate_parts,
    OpCode.GRU_F32: _float_gate_parts,
}
"""Record field with an offset in the state buffer, and bytes there, for every operator with state."""
STATE_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.STATE_READ: lambda f: (f["size"], f["size"]),
    OpCode.STATE_WRITE: lambda f: (f["size"], f["size"]),
    OpCode.SVDF: lambda f: (f["features"], f["filters"] // f["rank"]),
    OpCode.LSTM: _gate_sizes,
    OpCode.GRU: _gate_sizes,
}
"""Elements of input and output."""
