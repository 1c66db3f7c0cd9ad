"""Cascades of an image, step by step, as an engine runs them (SPEC.md section 11). The planner has its own account."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.layout import CASCADE_RECORD_BYTES, NO_SOURCE
from tinyfleet_compiler.operators import OpCode, OpFlag

if TYPE_CHECKING:
    from tinyfleet_compiler.image import Image, ImageOp

WINDOW_CODES = (OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D, OpCode.MAX_POOL_2D, OpCode.AVERAGE_POOL_2D)
FLAT_CODES = (OpCode.ADD, OpCode.RESCALE, OpCode.LUT_INT8, OpCode.PRELU)


@dataclass(frozen=True)
class RowLink:
    """One `image_row_link`."""

    rows: int
    ring_rows: int
    slide_rows: int
    source: int
    source_b: int

    def base(self, made: int) -> int:
        """First row kept when `made` rows have been made."""
        over = made - self.ring_rows
        return 0 if over <= 0 else -(-over // self.slide_rows) * self.slide_rows


@dataclass(frozen=True)
class ImageCascade:
    """One cascade of an image: ops [first, first + len(links))."""

    first: int
    links: tuple[RowLink, ...]
    workspace: int
    """Arena offset of what an engine keeps while it runs."""

    @property
    def workspace_bytes(self) -> int:
        """A record and a counter per op."""
        return CASCADE_RECORD_BYTES + 2 * len(self.links)


@dataclass(frozen=True)
class RowWindow:
    """Input rows [first, end) that one output row reads, and the bytes of a row of input and output."""

    first: int
    end: int
    in_bytes: int
    out_bytes: int


@dataclass(frozen=True)
class Slide:
    """Bytes that move down in the arena before a row is written."""

    source: int
    target: int
    size: int


@dataclass(frozen=True)
class RowStep:
    """One row of one op: `record` is the op's, narrowed to it; (first, last) input rows it reads."""

    index: int
    row: int
    record: "ImageOp"
    window: RowWindow
    slide: Slide | None


def row_window(code: OpCode, f: dict[str, Any], rows: int, row: int) -> RowWindow:
    """What output row `row` of a record with `rows` of them reads."""
    if code not in WINDOW_CODES:
        return RowWindow(row, row + 1, f["size"] // rows, f["size"] // rows)
    start = row * f["stride_h"] - f["pad_top"]
    end = min(f["in_h"], start + (f["kernel_h"] - 1) * f["dilation_h"] + 1)
    return RowWindow(max(0, start), end, f["in_w"] * f["in_c"], f["out_w"] * f["out_c"])


def narrow(code: OpCode, f: dict[str, Any], window: RowWindow, row: int) -> dict[str, Any]:
    """Fields of the record that makes one row; offsets are still those of the whole record."""
    if code not in WINDOW_CODES:
        pair = "size_b" in f and not f["flags"] & OpFlag.CONSTANT_B
        return f | {"size": window.out_bytes} | ({"size_b": window.out_bytes} if pair else {})
    start = row * f["stride_h"] - f["pad_top"]
    return f | {"in_h": window.end - window.first, "out_h": 1, "pad_top": window.first - start}


def cascade_steps(image: "Image", cascade: ImageCascade) -> Iterator[RowStep]:
    """Every row of every op, in the order of execution. Raises `ImageError` where a row is gone or never comes."""
    ops = image.ops[cascade.first : cascade.first + len(cascade.links)]
    made = [0] * len(ops)
    for _ in range(sum(link.rows for link in cascade.links)):
        member = _next_member(ops, cascade.links, made)
        if member is None:
            raise ImageError("not a readable image: a cascade waits for rows that never come")
        yield _step(ops[member], cascade, member, made)
        made[member] += 1


def _next_member(ops: Sequence["ImageOp"], links: Sequence[RowLink], made: Sequence[int]) -> int | None:
    """The last op with a row left whose input rows are there."""
    for member in reversed(range(len(ops))):
        link, row = links[member], made[member]
        if row < link.rows:
            end = row_window(ops[member].code, ops[member].fields, link.rows, row).end
            if all(s == NO_SOURCE or made[s] >= end for s in (link.source, link.source_b)):
                return member
    return None


def _step(op: "ImageOp", cascade: ImageCascade, member: int, made: Sequence[int]) -> RowStep:
    link, row = cascade.links[member], made[member]
    window = row_window(op.code, op.fields, link.rows, row)
    fields = narrow(op.code, op.fields, window, row)
    fields["input"] += _place(cascade, made, link.source, window)
    if "input_b" in fields and not fields["flags"] & OpFlag.CONSTANT_B:
        fields["input_b"] += _place(cascade, made, link.source_b, window)
    base, before = link.base(row + 1), link.base(row)
    fields["output"] += (row - base) * window.out_bytes
    slide = None
    if base != before and row > base:
        source = op.fields["output"] + (base - before) * window.out_bytes
        slide = Slide(source, op.fields["output"], (row - base) * window.out_bytes)
    return RowStep(cascade.first + member, row, type(op)(op.code, fields), window, slide)


def _place(cascade: ImageCascade, made: Sequence[int], source: int, window: RowWindow) -> int:
    """Byte in its ring, or in a whole input, at which the first row read lies."""
    base = 0 if source == NO_SOURCE else cascade.links[source].base(made[source])
    if window.first < base:
        raise ImageError("not a readable image: a cascade drops rows before they are read")
    return (window.first - base) * window.in_bytes
