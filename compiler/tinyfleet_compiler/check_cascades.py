"""What SPEC.md section 9 asks of cascades: every row an engine may touch lies in the arena."""

from collections.abc import Sequence
from typing import Any

from tinyfleet_compiler.layout import MAX_CASCADE_OPS, MAX_STRIPS, NO_SOURCE
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.rows import (
    FLAT_CODES,
    WINDOW_CODES,
    Columns,
    ImageCascade,
    RowLink,
    RowWindow,
    in_columns,
    kept_columns,
    narrow,
    row_window,
)

Fields = dict[str, Any]
ANY_DISTANCE = -(1 << 31)


def wrong_span(first: int, count: int, behind: int, op_count: int, strips: int) -> str:
    """The rule a cascade's head breaks; `behind`: first op after the cascade before it."""
    fits = behind <= first and 2 <= count <= MAX_CASCADE_OPS and first + count <= op_count
    return "" if fits and 1 <= strips <= MAX_STRIPS else "a cascade covers other ops than there are"


def wrong_link(code: OpCode, f: Fields, cascade: ImageCascade, member: int, arena_bytes: int) -> str:
    """The first rule an op and its link break together, "" for good ones."""
    links, link = cascade.links, cascade.links[member]
    if code not in WINDOW_CODES + FLAT_CODES or f["flags"] & OpFlag.REVERSED:
        return "an operator that cannot run by rows"
    if not 1 <= link.ring_rows <= link.rows or not (
        1 <= link.slide_rows <= link.ring_rows or (link.whole and link.ring_rows == link.rows)
    ):
        return "a ring of no rows"
    if reason := _wrong_rows(code, f, link, pixels=len(cascade.strips) > 1):
        return reason
    sizes = _in_rows(code, f, link), in_columns(code, f, link)
    pair = code is OpCode.ADD and not f["flags"] & OpFlag.CONSTANT_B
    if not pair and link.source_b != NO_SOURCE:
        return "a second source without a second input"
    for source in (link.source, link.source_b):
        if source != NO_SOURCE and (source >= member or (links[source].rows, links[source].width) != sizes):
            return "a source with other rows"
    for strip in cascade.strips:
        if reason := _wrong_strip(code, f, cascade, member, strip, arena_bytes):
            return reason
    return ""


def first_rows(code: OpCode, f: Fields, cascade: ImageCascade, member: int) -> list[Fields]:
    """The record of the first row of each strip, for the checks of single records; cascades say where its neighbours
    lie."""
    link = cascade.links[member]
    found = []
    for strip in cascade.strips:
        window = row_window(code, f, link, strip[member], 0)
        kept = kept_columns(cascade, strip, link.source, in_columns(code, f, link))
        wide = kept.columns if kept.first == window.left else window.right - window.left
        found.append(narrow(code, f, window, strip[member], 0, wide) | {"overlap_bytes": ANY_DISTANCE})
    return found


def _wrong_rows(code: OpCode, f: Fields, link: RowLink, *, pixels: bool) -> str:
    if code in WINDOW_CODES:
        # The first and the last window reach the input, so all do.
        inside = all(
            f[pad] < (f[f"kernel_{a}"] - 1) * f[f"dilation_{a}"] + 1
            and (f[f"out_{a}"] - 1) * f[f"stride_{a}"] - f[pad] < f[f"in_{a}"]
            for a, pad in (("h", "pad_top"), ("w", "pad_left"))[: 1 + pixels]
        )
        same = (link.rows, link.width) == (f["out_h"], f["out_w"])
        return "" if same and inside else "other rows than the record has"
    row = f["size"] // link.rows
    if link.width == 0 or row % link.width:
        return "rows that do not repeat"
    unit = row // link.width if pixels else row
    period = f["slope_count"] if "slope_count" in f else f.get("size_b", 1)
    if code is OpCode.ADD and not f["flags"] & OpFlag.CONSTANT_B:
        period = unit if f["size_b"] == f["size"] else 0
    good = f["size"] == row * link.rows and row > 0 and period > 0 and unit % period == 0
    return "" if good else "rows that do not repeat"


def _wrong_strip(
    code: OpCode, f: Fields, cascade: ImageCascade, member: int, strip: Sequence[Columns], arena_bytes: int
) -> str:
    link, mine = cascade.links[member], strip[member]
    if mine.columns < 1 or mine.end > link.width:
        return "columns that its output does not have"
    window = row_window(code, f, link, mine, 0)
    pair = code is OpCode.ADD and not f["flags"] & OpFlag.CONSTANT_B
    for source, offset in [(link.source, f["input"])] + ([(link.source_b, f["input_b"])] if pair else []):
        kept = kept_columns(cascade, strip, source, in_columns(code, f, link))
        if source != NO_SOURCE and not _makes(cascade, strip[source], window):
            return "a source that does not make the columns read"
        rows = _in_rows(code, f, link) if source == NO_SOURCE else cascade.links[source].ring_rows
        if offset + rows * kept.columns * window.pixel > arena_bytes:
            return "a ring lies outside the arena"
        if kept.first != window.left and _gathered(code, f, window) > cascade.gather_bytes:
            return "more columns than there is room to gather"
    return _wrong_output(f, cascade, link, mine, window, arena_bytes)


def _makes(cascade: ImageCascade, made: Columns, window: RowWindow) -> bool:
    """Whether a strip of a source has all columns; whole rows are read as they are."""
    return len(cascade.strips) == 1 or made.first <= window.left < window.right <= made.end


def _wrong_output(
    f: Fields, cascade: ImageCascade, link: RowLink, mine: Columns, window: RowWindow, arena_bytes: int
) -> str:
    kept = link.ring_rows * (link.width if link.whole else mine.columns) * (window.out_bytes // mine.columns)
    if f["output"] + kept > arena_bytes:
        return "a ring lies outside the arena"
    start, end = cascade.workspace, cascade.workspace + cascade.workspace_bytes
    written = [(f["output"], kept), (f["scratch"], f["scratch_bytes"])]
    return "an op writes into the workspace" if any(a < end and start < a + size for a, size in written if size) else ""


def _in_rows(code: OpCode, f: Fields, link: RowLink) -> int:
    return int(f["in_h"]) if code in WINDOW_CODES else link.rows


def _gathered(code: OpCode, f: Fields, window: RowWindow) -> int:
    """Most bytes a row may have gathered."""
    if code not in WINDOW_CODES:
        return 0
    rows = int(min(f["in_h"], (f["kernel_h"] - 1) * f["dilation_h"] + 1))
    return rows * (window.right - window.left) * window.pixel if rows > 1 else 0
