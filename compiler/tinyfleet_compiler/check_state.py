"""SPEC.md section 9 for model state: its table, and the operators that read and write it."""

from collections.abc import Callable
from typing import Any

from tinyfleet_compiler import layout
from tinyfleet_compiler.operators import CODE_RANGES, ELEMENT_BYTES, Element, OpCode

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
    return ""


def _no_parts(f: Fields) -> tuple[tuple[str, int], ...]:
    return ()


STATE_PARTS: dict[OpCode, Callable[[Fields], tuple[tuple[str, int], ...]]] = {
    OpCode.STATE_READ: lambda f: (("state", f["size"]),),
    OpCode.STATE_WRITE: lambda f: (("state", f["size"]),),
}
"""Record field with an offset in the state buffer, and bytes there, for every operator with state."""
STATE_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.STATE_READ: lambda f: (f["size"], f["size"]),
    OpCode.STATE_WRITE: lambda f: (f["size"], f["size"]),
}
"""Elements of input and output."""
