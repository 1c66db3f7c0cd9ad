"""Patches: the columns that each strip of a cascade makes, borders computed again included (SPEC.md section 11).

The last outputs are cut evenly. Every other op makes, per strip, the columns its readers need: where windows overlap,
neighbouring strips both make the border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyfleet_compiler.rows import Columns

Strips = tuple[tuple[Columns, ...], ...]
"""Per strip and op."""


@dataclass(frozen=True)
class ColumnReader:
    """Which input columns an op reads for those of its output."""

    out_width: int
    in_width: int
    sources: tuple[int | None, int | None]
    stride: int = 1
    pad: int = 0
    reach: int = 1
    divides: bool = True
    """Whether it can run on some of the columns at all."""

    def reads(self, made: Columns) -> tuple[int, int]:
        """First input column, and the one behind the last."""
        first = made.first * self.stride - self.pad
        last = (made.end - 1) * self.stride - self.pad
        return max(0, first), min(self.in_width, last + self.reach)


def cut_strips(readers: Sequence[ColumnReader], whole: Sequence[bool], count: int) -> Strips | None:
    """`count` strips, None where they cannot be cut so. All strips together make all columns of every op.

    `whole`: outputs that are kept for what runs after the cascade.
    """
    if not all(r.divides for r in readers) or any(
        w and r.out_width < count for r, w in zip(readers, whole, strict=True)
    ):
        return None
    cut: list[tuple[Columns, ...]] = []
    for at in range(count):
        begun = [made.end for made in cut[-1]] if cut else [0] * len(readers)
        strip = _cut(readers, whole, begun, at, count)
        if strip is None:
            return None
        cut.append(strip)
    return tuple(cut)


def _cut(
    readers: Sequence[ColumnReader], whole: Sequence[bool], begun: Sequence[int], at: int, count: int
) -> tuple[Columns, ...] | None:
    """Strip `at`, from the last op back: what readers need, and what lies between it and the strip before."""
    made: dict[int, Columns] = {}
    for member in reversed(range(len(readers))):
        needed = [readers[m].reads(made[m]) for m in made if member in readers[m].sources]
        if whole[member]:
            needed.append(_even(readers[member].out_width, at, count))
        first = min([begun[member], *(left for left, _ in needed)])
        end = readers[member].out_width if at == count - 1 else max(right for _, right in needed)
        if not first < end:
            return None
        made[member] = Columns(first, end - first)
    return tuple(made[member] for member in range(len(readers)))


def _even(width: int, at: int, count: int) -> tuple[int, int]:
    return width * at // count, width * (at + 1) // count
