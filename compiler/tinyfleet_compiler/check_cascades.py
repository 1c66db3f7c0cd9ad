"""What SPEC.md section 9 asks of cascades: every row an engine may touch lies in the arena."""

from typing import Any

from tinyfleet_compiler.layout import MAX_CASCADE_OPS, NO_SOURCE
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.rows import FLAT_CODES, WINDOW_CODES, ImageCascade, RowLink, narrow, row_window

Fields = dict[str, Any]
ANY_DISTANCE = -(1 << 31)


def wrong_span(first: int, count: int, behind: int, op_count: int) -> str:
    """The rule a cascade's head breaks; `behind`: first op after the cascade before it."""
    fits = behind <= first and 2 <= count <= MAX_CASCADE_OPS and first + count <= op_count
    return "" if fits else "a cascade covers other ops than there are"


def wrong_link(code: OpCode, f: Fields, cascade: ImageCascade, member: int, arena_bytes: int) -> str:
    """The first rule an op and its link break together, "" for good ones."""
    links, link = cascade.links, cascade.links[member]
    if code not in WINDOW_CODES + FLAT_CODES or f["flags"] & OpFlag.REVERSED:
        return "an operator that cannot run by rows"
    if not 1 <= link.slide_rows <= link.ring_rows <= link.rows:
        return "a ring of no rows"
    if reason := _wrong_rows(code, f, link):
        return reason
    window = row_window(code, f, link.rows, 0)
    in_rows = f["in_h"] if code in WINDOW_CODES else link.rows
    pair = code is OpCode.ADD and not f["flags"] & OpFlag.CONSTANT_B
    sources = [(link.source, f["input"])] + ([(link.source_b, f["input_b"])] if pair else [])
    if not pair and link.source_b != NO_SOURCE:
        return "a second source without a second input"
    for source, offset in sources:
        if source != NO_SOURCE and (source >= member or links[source].rows != in_rows):
            return "a source with other rows"
        kept = in_rows if source == NO_SOURCE else links[source].ring_rows
        if offset + kept * window.in_bytes > arena_bytes:
            return "a ring lies outside the arena"
    written = [(f["output"], link.ring_rows * window.out_bytes), (f["scratch"], f["scratch_bytes"])]
    if f["output"] + written[0][1] > arena_bytes:
        return "a ring lies outside the arena"
    start, end = cascade.workspace, cascade.workspace + cascade.workspace_bytes
    return "an op writes into the workspace" if any(a < end and start < a + size for a, size in written if size) else ""


def first_row(code: OpCode, f: Fields, link: RowLink) -> Fields:
    """The record of the first row, for the checks of single records; cascades say where its neighbours lie."""
    window = row_window(code, f, link.rows, 0)
    return narrow(code, f, window, 0) | {"overlap_bytes": ANY_DISTANCE}


def _wrong_rows(code: OpCode, f: Fields, link: RowLink) -> str:
    if code in WINDOW_CODES:
        reach = (f["kernel_h"] - 1) * f["dilation_h"] + 1
        # The first and the last window reach the input, so all do.
        inside = f["pad_top"] < reach and (f["out_h"] - 1) * f["stride_h"] - f["pad_top"] < f["in_h"]
        return "" if link.rows == f["out_h"] and inside else "other rows than the record has"
    row = f["size"] // link.rows
    period = f["slope_count"] if "slope_count" in f else f.get("size_b", 1)
    if code is OpCode.ADD and not f["flags"] & OpFlag.CONSTANT_B:
        period = row if f["size_b"] == f["size"] else 0
    good = f["size"] == row * link.rows and row > 0 and period > 0 and row % period == 0
    return "" if good else "rows that do not repeat"
