"""Row cascades as the planner builds them: ops that run row by row and keep the rows still read (SPEC.md section 11).

Rule of the order: the next step is one row of the last op whose input rows are all there. So a row is made when nothing
behind it can run, and no row is made twice. In strips (`cut_strips.py`) the same happens to some of the columns, once
per strip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.cut_strips import ColumnReader, Strips, cut_strips
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.layout import ARENA_ALIGN, MAX_CASCADE_OPS
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.overlap import pixel_overlap
from tinyfleet_compiler.rows import Columns

_WINDOWS = (OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D, OpCode.MAX_POOL_2D, OpCode.AVERAGE_POOL_2D)
_FLAT = (OpCode.ADD, OpCode.RESCALE, OpCode.LUT_INT8, OpCode.PRELU)
_MOST_ROWS = 0xFFFE


@dataclass(frozen=True)
class Link:
    """How one op of a cascade keeps its rows (`image_row_link`)."""

    rows: int
    ring_rows: int
    slide_rows: int
    """0: the output is whole in the end."""
    sources: tuple[int | None, int | None]
    width: int


@dataclass(frozen=True)
class Cascade:
    """A run of ops from `first` on; `rings`: bytes by output kept."""

    first: int
    links: tuple[Link, ...]
    rings: dict[str, int]
    separations: dict[tuple[str, str], int]
    """(output, input) -> smallest input - output, for inputs from before the cascade."""
    moved_bytes: int
    """Bytes that sliding and gathering copy, per inference."""
    strips: Strips = ()
    """Of several strips, the columns each makes of each op's output."""
    gather_bytes: int = 0
    recomputed_macs: int = 0

    @property
    def end(self) -> int:
        """First op behind the cascade."""
        return self.first + len(self.links)

    def times(self, member: int) -> float:
        """How often a column of an op's output is made: once, in strips more where they share columns."""
        made = sum(strip[member].columns for strip in self.strips)
        return made / self.links[member].width if self.strips else 1.0


@dataclass(frozen=True)
class _Rows:
    """One op seen row by row: first and last input row of each output row."""

    op: Op
    first: tuple[int, ...]
    last: tuple[int, ...]
    in_rows: int
    in_bytes: int
    out_bytes: int
    sources: tuple[int | None, int | None]
    columns: ColumnReader

    def reads(self, tensor: str) -> bool:
        return tensor in self.op.inputs


Step = tuple[int, int]
"""(op of the cascade, row)."""


def build_cascade(
    ops: Sequence[Op],
    first: int,
    end: int,
    shapes: dict[str, tuple[int, ...]],
    kept: frozenset[str],
    strips: int = 1,
) -> Cascade | None:
    """The cascade of ops[first:end], None where one of them cannot run by rows, or in so many strips; `kept`: outputs
    read after it."""
    members = _members(ops[first:end], shapes) if 2 <= end - first <= MAX_CASCADE_OPS else None
    if members is None:
        return None
    steps = _order(members)
    links = tuple(_link(members, m, steps, members[m].op.output in kept) for m in range(len(members)))
    if strips > 1:
        return _in_strips(first, members, links, strips)
    rings = {m.op.output: link.ring_rows * m.out_bytes for m, link in zip(members, links, strict=True)}
    moved = sum(_moved(m, link) for m, link in zip(members, links, strict=True))
    return Cascade(first, links, rings, _separations(members, links, steps), moved)


def _in_strips(first: int, members: Sequence[_Rows], links: tuple[Link, ...], count: int) -> Cascade | None:
    """Inputs from before stay whole: each strip reads them, so no output may grow into them."""
    whole = [link.slide_rows == 0 for link in links]
    strips = cut_strips([m.columns for m in members], whole, count)
    if strips is None:
        return None
    rings, moved, recomputed = {}, 0, 0
    for at, (member, link) in enumerate(zip(members, links, strict=True)):
        made, pixel = [strip[at].columns for strip in strips], member.out_bytes // link.width
        rings[member.op.output] = link.ring_rows * pixel * (link.width if whole[at] else max(made))
        moved += _moved(member, link) // link.width * sum(made)
        recomputed += member.op.macs // link.width * (sum(made) - link.width)
    gathered = [_gathered(members[m], whole, strip, m) for strip in strips for m in range(len(members))]
    most = -(-max(size for size, _ in gathered) // ARENA_ALIGN) * ARENA_ALIGN
    return Cascade(first, links, rings, {}, moved + sum(total for _, total in gathered), strips, most, recomputed)


def _gathered(member: _Rows, whole: Sequence[bool], strip: Sequence[Columns], index: int) -> tuple[int, int]:
    """Most bytes a row gathers, and what all rows do: a window that begins inside the rows of its input."""
    left, end = member.columns.reads(strip[index])
    source = member.sources[0]
    starts = 0 if source is None or whole[source] else strip[source].first
    rows = [b - a + 1 for a, b in zip(member.first, member.last, strict=True)]
    if left == starts or member.op.code not in _WINDOWS or _reach(member.op) == 1:
        return 0, 0
    row = (end - left) * (member.in_bytes // member.columns.in_width)
    return min(member.in_rows, _reach(member.op)) * row, sum(n for n in rows if n > 1) * row


def _reach(op: Op) -> int:
    return int((op.fields["kernel_h"] - 1) * op.fields["dilation_h"] + 1)


def can_cascade(op: Op, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the op can run row by row."""
    # A write into the state makes no tensor.
    return op.output in shapes and _rows(op, shapes, (None, None)) is not None


def _members(ops: Sequence[Op], shapes: dict[str, tuple[int, ...]]) -> list[_Rows] | None:
    makers = {op.output: index for index, op in enumerate(ops)}
    found: list[_Rows] = []
    for op in ops:
        pair = op.code is OpCode.ADD and not op.flags & OpFlag.CONSTANT_B
        sources = (makers.get(op.inputs[0]), makers.get(op.inputs[-1]) if pair else None)
        rows = _rows(op, shapes, sources)
        if rows is None or any(s is not None and len(found[s].first) != rows.in_rows for s in sources):
            return None
        found.append(rows)
    return found


def _rows(op: Op, shapes: dict[str, tuple[int, ...]], sources: tuple[int | None, int | None]) -> _Rows | None:
    shape = shapes[op.output]
    if len(shape) != 3 or not 1 < shape[0] <= _MOST_ROWS:
        return None
    if op.code in _WINDOWS:
        return _window_rows(op, sources)
    if op.code not in _FLAT or not _repeats_in_rows(op, shape[1] * shape[2]):
        return None
    every = tuple(range(shape[0]))
    size = shape[1] * shape[2]
    columns = ColumnReader(shape[1], shape[1], sources, divides=_repeats_in_rows(op, shape[2]))
    return _Rows(op, every, every, shape[0], size, size, sources, columns)


def _repeats_in_rows(op: Op, row: int) -> bool:
    """Whether a constant operand is the same for every row, or pixel, of `row` elements."""
    period = op.fields.get("slope_count", op.fields["size_b"] if op.flags & OpFlag.CONSTANT_B else 1)
    return bool(row % period == 0)


def _window_rows(op: Op, sources: tuple[int | None, int | None]) -> _Rows | None:
    g = _geometry(op)
    if g.out_h == 1:
        return None
    starts = [row * g.stride_h - g.pad_top for row in range(g.out_h)]
    reach = (g.kernel_h - 1) * g.dilation_h
    first = tuple(max(0, start) for start in starts)
    last = tuple(min(g.in_h - 1, start + reach) for start in starts)
    if any(a > b for a, b in zip(first, last, strict=True)):
        return None
    across = (g.kernel_w - 1) * g.dilation_w + 1
    inside = g.pad_left < across and (g.out_w - 1) * g.stride_w - g.pad_left < g.in_w
    columns = ColumnReader(g.out_w, g.in_w, sources, g.stride_w, g.pad_left, across, inside)
    return _Rows(op, first, last, g.in_h, g.in_w * g.in_c, g.out_w * g.out_c, sources, columns)


def _geometry(op: Op) -> Geometry:
    return Geometry(**{name: op.fields[name] for name in Geometry.__dataclass_fields__})


def _order(members: Sequence[_Rows]) -> list[Step]:
    made = [0] * len(members)
    steps: list[Step] = []
    while ready := [m for m in range(len(members)) if _is_ready(members[m], made[m], made)]:
        steps.append((ready[-1], made[ready[-1]]))
        made[ready[-1]] += 1
    return steps


def _is_ready(member: _Rows, row: int, made: Sequence[int]) -> bool:
    return row < len(member.last) and all(s is None or made[s] > member.last[row] for s in member.sources)


def _link(members: Sequence[_Rows], index: int, steps: Sequence[Step], kept: bool) -> Link:
    """The fewest rows that suffice; of those, the most that can slide at once."""
    member = members[index]
    rows, width = len(member.first), member.columns.out_width
    if kept:
        return Link(rows, rows, 0, member.sources, width)
    seen = list(_held(members, index, steps))
    ring = max((made - low for made, low in seen), default=1)
    slide = next(s for s in range(ring, 0, -1) if all(_base(made, ring, s) <= low for made, low in seen))
    return Link(rows, ring, slide, member.sources, width)


def _held(members: Sequence[_Rows], index: int, steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(rows made, lowest row still read) of an op's output whenever it is written or read."""
    readers = [m for m, member in enumerate(members) if index in member.sources]
    made, found = [0] * len(members), []
    for m, row in steps:
        made[m] = row + 1
        if m == index or m in readers:
            # A step reads its own rows before it counts as done.
            next_rows = [(reader, made[reader] - (reader == m)) for reader in readers]
            lows = [members[r].first[row] for r, row in next_rows if row < len(members[r].first)]
            found.append((made[index], min(lows, default=made[index] - 1)))
    return found


def _base(made: int, ring: int, slide: int) -> int:
    """First row kept when `made` rows have been made."""
    return -(-(made - ring) // slide) * slide if made > ring else 0


def _moved(member: _Rows, link: Link) -> int:
    slides = ((made, _base(made, link.ring_rows, link.slide_rows)) for made in range(link.ring_rows + 1, link.rows + 1))
    return sum(
        (made - 1 - base) * member.out_bytes
        for made, base in slides
        if base != _base(made - 1, link.ring_rows, link.slide_rows)
    )


def _separations(members: Sequence[_Rows], links: Sequence[Link], steps: Sequence[Step]) -> dict[tuple[str, str], int]:
    outside = {name for m in members for name in m.op.inputs} - {m.op.output for m in members}
    found: dict[tuple[str, str], int] = {}
    for name in sorted(outside):
        low = _still_read(members, steps, name)
        for at, (m, row) in enumerate(steps):
            key = members[m].op.output, name
            nearest = max(_distances(members[m], links[m], row, name, low[at], low[at + 1]))
            found[key] = max(found.get(key, nearest), nearest)
    return found


def _still_read(members: Sequence[_Rows], steps: Sequence[Step], name: str) -> list[int]:
    """Per step, the first byte of an input that it or a later one reads; one entry more for the end."""
    row_bytes, rows = next((m.in_bytes, m.in_rows) for m in members if m.reads(name))
    low = [rows * row_bytes]
    for m, row in reversed(steps):
        reads = members[m].reads(name)
        low.append(min(low[-1], members[m].first[row] * row_bytes) if reads else low[-1])
    return low[::-1]


def _distances(member: _Rows, link: Link, row: int, name: str, low: int, low_next: int) -> list[int]:
    """Legal smallest input - output for one step, one per rule."""
    base, before = (_base(made, link.ring_rows, link.slide_rows) for made in (row + 1, row))
    start = (row - base) * member.out_bytes
    found = [start + member.out_bytes - low_next]
    if base != before:
        found.append(start - low)
    if member.reads(name):
        found.append(_row_overlap(member, row) + start - member.first[row] * member.in_bytes)
    return found


def _row_overlap(member: _Rows, row: int) -> int:
    if member.op.code not in _WINDOWS:
        return 0
    g, first = _geometry(member.op), member.first[row]
    pad = first - (row * g.stride_h - g.pad_top)
    return _overlap(replace(g, in_h=member.last[row] - first + 1, out_h=1, pad_top=pad))


_overlap = lru_cache(maxsize=4096)(pixel_overlap)
