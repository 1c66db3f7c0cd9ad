"""Cascades of an image, step by step, as an engine runs them (SPEC.md section 11). The planner has its own account."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.layout import ARENA_ALIGN, CASCADE_RECORD_BYTES, NO_SOURCE
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
    width: int

    @property
    def whole(self) -> bool:
        """Whether the output is there in the end."""
        return self.slide_rows == 0

    def base(self, made: int) -> int:
        """First row kept when `made` rows have been made."""
        over = made - self.ring_rows
        return 0 if over <= 0 else -(-over // self.slide_rows) * self.slide_rows


@dataclass(frozen=True)
class Columns:
    """Columns [first, first + columns) of a tensor; one `image_strip`."""

    first: int
    columns: int

    @property
    def end(self) -> int:
        """First column behind them."""
        return self.first + self.columns


@dataclass(frozen=True)
class ImageCascade:
    """One cascade of an image: ops [first, first + len(links)), gone through once per strip."""

    first: int
    links: tuple[RowLink, ...]
    workspace: int
    """Arena offset of what an engine keeps while it runs."""
    gather_bytes: int
    strips: tuple[tuple[Columns, ...], ...]
    """Per strip and op what it makes; of a cascade without a table one strip of whole rows."""

    @property
    def gather(self) -> int:
        """Arena offset of gathered columns: behind a record and a counter per op."""
        used = CASCADE_RECORD_BYTES + 2 * len(self.links)
        return self.workspace + -(-used // ARENA_ALIGN) * ARENA_ALIGN

    @property
    def workspace_bytes(self) -> int:
        """The whole workspace."""
        return self.gather - self.workspace + self.gather_bytes


@dataclass(frozen=True)
class RowWindow:
    """Rows [first, end) and columns [left, right) that a row of a strip reads; bytes of a pixel and of the row."""

    first: int
    end: int
    left: int
    right: int
    pixel: int
    out_bytes: int


@dataclass(frozen=True)
class Place:
    """Where an input lies: the byte of its first row's first column read, and bytes from one row to the next."""

    offset: int
    pitch: int
    leads: bool
    """Whether the rows kept begin with the first column read."""


@dataclass(frozen=True)
class Move:
    """Bytes copied in the arena before a row is made: `count` runs of `size` bytes, laid one after the other."""

    source: int
    pitch: int
    count: int
    target: int
    size: int


@dataclass(frozen=True)
class RowStep:
    """One row of one strip of one op: `record` is the op's, narrowed to it."""

    index: int
    row: int
    columns: Columns
    record: "ImageOp"
    window: RowWindow
    places: tuple[Place, ...]
    """Where its inputs lie, before anything is gathered."""
    slide: Move | None
    gather: Move | None


def row_window(code: OpCode, f: dict[str, Any], link: RowLink, columns: Columns, row: int) -> RowWindow:
    """What row `row` of these columns of a record's output reads."""
    if code not in WINDOW_CODES:
        pixel = f["size"] // (link.rows * link.width)
        return RowWindow(row, row + 1, columns.first, columns.end, pixel, columns.columns * pixel)
    top, left = row * f["stride_h"] - f["pad_top"], columns.first * f["stride_w"] - f["pad_left"]
    last = (columns.end - 1) * f["stride_w"] - f["pad_left"]
    end = min(f["in_h"], top + (f["kernel_h"] - 1) * f["dilation_h"] + 1)
    right = min(f["in_w"], last + (f["kernel_w"] - 1) * f["dilation_w"] + 1)
    return RowWindow(max(0, top), end, max(0, left), right, f["in_c"], columns.columns * f["out_c"])


def narrow(
    code: OpCode, f: dict[str, Any], window: RowWindow, columns: Columns, row: int, in_columns: int
) -> dict[str, Any]:
    """Fields of the record that makes one row, its input `in_columns` wide; offsets are those of the whole record."""
    if code not in WINDOW_CODES:
        pair = "size_b" in f and not f["flags"] & OpFlag.CONSTANT_B
        return f | {"size": window.out_bytes} | ({"size_b": window.out_bytes} if pair else {})
    top, left = row * f["stride_h"] - f["pad_top"], columns.first * f["stride_w"] - f["pad_left"]
    rows = {"in_h": window.end - window.first, "out_h": 1, "pad_top": window.first - top}
    return f | rows | {"in_w": in_columns, "out_w": columns.columns, "pad_left": window.left - left}


def cascade_steps(image: "Image", cascade: ImageCascade) -> Iterator[RowStep]:
    """Every row of every op, in the order of execution. Raises `ImageError` where a row is gone or never comes."""
    ops = image.ops[cascade.first : cascade.first + len(cascade.links)]
    for strip in cascade.strips:
        made = [0] * len(ops)
        for _ in range(sum(link.rows for link in cascade.links)):
            member = _next_member(ops, cascade.links, strip, made)
            if member is None:
                raise ImageError("not a readable image: a cascade waits for rows that never come")
            yield _step(ops[member], cascade, strip, member, made)
            made[member] += 1


def _next_member(
    ops: Sequence["ImageOp"], links: Sequence[RowLink], strip: Sequence[Columns], made: Sequence[int]
) -> int | None:
    """The last op with a row left whose input rows are there."""
    for member in reversed(range(len(ops))):
        link, row = links[member], made[member]
        if row < link.rows:
            end = row_window(ops[member].code, ops[member].fields, link, strip[member], row).end
            if all(s == NO_SOURCE or made[s] >= end for s in (link.source, link.source_b)):
                return member
    return None


def _step(op: "ImageOp", cascade: ImageCascade, strip: Sequence[Columns], member: int, made: Sequence[int]) -> RowStep:
    link, row, columns = cascade.links[member], made[member], strip[member]
    window = row_window(op.code, op.fields, link, columns, row)
    names = ["input"] + (["input_b"] if "input_b" in op.fields and not op.fields["flags"] & OpFlag.CONSTANT_B else [])
    width = in_columns(op.code, op.fields, link)
    places = tuple(
        _place(cascade, kept_columns(cascade, strip, source, width), made, source, window, op.fields[name])
        for name, source in zip(names, (link.source, link.source_b), strict=False)
    )
    gather = _gather(cascade, places[0], window)
    wide = places[0].pitch // window.pixel if places[0].leads else window.right - window.left
    fields = narrow(op.code, op.fields, window, columns, row, wide)
    fields |= {name: place.offset for name, place in zip(names, places, strict=True)}
    if gather is not None:
        fields["input"] = gather.target
    base = link.base(row + 1)
    fields["output"] += output_place(link, columns, row - base, window)
    slide = _slide(op.fields["output"], link.base(row), base, row, window.out_bytes)
    return RowStep(cascade.first + member, row, columns, type(op)(op.code, fields), window, places, slide, gather)


def kept_columns(cascade: ImageCascade, strip: Sequence[Columns], source: int, width: int) -> Columns:
    """Columns of an input that lie in memory: of a tensor that is whole, or will be, all."""
    if source == NO_SOURCE:
        return Columns(0, width)
    link = cascade.links[source]
    return Columns(0, link.width) if link.whole else strip[source]


def in_columns(code: OpCode, f: dict[str, Any], link: RowLink) -> int:
    """Columns of an op's whole input."""
    return int(f["in_w"]) if code in WINDOW_CODES else link.width


def _place(
    cascade: ImageCascade, kept: Columns, made: Sequence[int], source: int, window: RowWindow, offset: int
) -> Place:
    """Byte at which the first pixel read lies, in a ring or in a whole tensor."""
    base = 0 if source == NO_SOURCE else cascade.links[source].base(made[source])
    if window.first < base:
        raise ImageError("not a readable image: a cascade drops rows before they are read")
    pitch = kept.columns * window.pixel
    at = offset + (window.first - base) * pitch + (window.left - kept.first) * window.pixel
    return Place(at, pitch, window.left == kept.first)


def _gather(cascade: ImageCascade, place: Place, window: RowWindow) -> Move | None:
    """A window that begins inside the rows of its input cannot be read as they lie."""
    rows = window.end - window.first
    if place.leads or rows == 1:
        return None
    return Move(place.offset, place.pitch, rows, cascade.gather, (window.right - window.left) * window.pixel)


def output_place(link: RowLink, columns: Columns, row: int, window: RowWindow) -> int:
    """Byte of row `row` of those kept, from the output's offset on."""
    if not link.whole:
        return row * window.out_bytes
    return (row * link.width + columns.first) * (window.out_bytes // columns.columns)


def _slide(output: int, before: int, base: int, row: int, row_bytes: int) -> Move | None:
    if base == before or row <= base:
        return None
    return Move(output + (base - before) * row_bytes, 0, 1, output, (row - base) * row_bytes)
