"""Which ops to run as row cascades: the smallest arena that a division into cascades allows, at the least cost.

Where that is more than the device has, cascades are cut into strips (patches): of the divisions that fit, the one that
computes the fewest borders twice; where none fits, the smallest arena.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.cascade import Cascade, build_cascade, can_cascade
from tinyfleet_compiler.layout import MAX_CASCADE_OPS
from tinyfleet_compiler.plan_memory import Plan, plan_memory, unit_bound
from tinyfleet_compiler.plan_units import Unit, cascade_unit, plain_unit

Shapes = dict[str, tuple[int, ...]]
_STRIPS = (2, 3, 4, 6, 8, 12, 16)
_MOST_TRIED = 24
"""Divisions with strips that are planned to the byte."""


@dataclass(frozen=True)
class _Piece:
    """Ops [first, end) as one unit, and the least memory it needs with all that lives through it."""

    first: int
    end: int
    bytes: int
    cascade: Cascade | None = None

    @property
    def cost(self) -> tuple[int, int, int]:
        """MACs computed again, bytes copied, ops in cascades."""
        found = self.cascade
        return (0, 0, 0) if found is None else (found.recomputed_macs, found.moved_bytes, len(found.links))


def plan_cascades(
    ops: Sequence[Op],
    sizes: dict[str, int],
    shapes: Shapes,
    inputs: Sequence[str],
    outputs: Sequence[str],
    budget: int | None = None,
) -> Plan:
    """The smallest plan found with cascades, or without where they do not help; above `budget` bytes also with patches.

    Deterministic.
    """

    def plan(chosen: Sequence[_Piece]) -> Plan:
        return plan_memory(ops, sizes, inputs, outputs, [p.cascade for p in chosen if p.cascade is not None])

    best = plan_memory(ops, sizes, inputs, outputs)
    pieces = list(_pieces(ops, sizes, shapes, inputs, outputs))
    for limit in _limits(pieces, len(ops)):
        if limit >= best.arena_bytes:
            break
        found = plan(_cheapest(pieces, len(ops), limit))
        best = min(best, found, key=lambda p: p.arena_bytes)
        if found.arena_bytes <= limit:
            break
    if budget is None or best.arena_bytes <= budget:
        return best
    pieces += _pieces(ops, sizes, shapes, inputs, outputs, _STRIPS)
    limits = [limit for limit in _limits(pieces, len(ops)) if limit < best.arena_bytes]
    fitting = [limit for limit in limits if limit <= budget]
    # What fits at the least cost is among the largest limits; what does not fit is as small as possible.
    for limit in fitting[: -_MOST_TRIED - 1 : -1] or limits[:1]:
        found = plan(_cheapest(pieces, len(ops), limit))
        best = min(best, found, key=lambda p: p.arena_bytes)
        if found.arena_bytes <= budget:
            return found
    return best


def _pieces(
    ops: Sequence[Op],
    sizes: dict[str, int],
    shapes: Shapes,
    inputs: Sequence[str],
    outputs: Sequence[str],
    strips: Sequence[int] = (1,),
) -> Iterator[_Piece]:
    last = {name: len(ops) for name in outputs}
    for at, op in reversed(list(enumerate(ops))):
        last |= {name: at for name in op.inputs if name not in last}
    born = dict.fromkeys(inputs, -1) | {op.output: at for at, op in enumerate(ops)}

    def least(unit: Unit) -> int:
        through = [n for n in born if born[n] < unit.first and last.get(n, -1) >= unit.end and n not in unit.inputs]
        dying = frozenset(n for n in unit.inputs if last[n] < unit.end)
        return unit_bound(unit, sizes, dying) + sum(-(-sizes[n] // 4) * 4 for n in through)

    for first in range(len(ops)):
        if strips == (1,):
            yield _Piece(first, first + 1, least(plain_unit(ops, first, sizes)))
        end = first + 1
        while end - first < MAX_CASCADE_OPS and end <= len(ops) and can_cascade(ops[end - 1], shapes):
            kept = frozenset(op.output for op in ops[first:end] if last.get(op.output, end) >= end)
            for cascade in (build_cascade(ops, first, end, shapes, kept, count) for count in strips):
                if cascade is not None:
                    yield _Piece(first, end, least(cascade_unit(ops, cascade)), cascade)
            end += 1


def _limits(pieces: Sequence[_Piece], count: int) -> list[int]:
    """Sizes that some division reaches, the smallest first."""
    least = [0] + [-1] * count
    for end in range(1, count + 1):
        least[end] = min(max(p.bytes, least[p.first]) for p in pieces if p.end == end)
    return sorted({p.bytes for p in pieces if p.bytes >= least[count]})


def _cheapest(pieces: Sequence[_Piece], count: int, limit: int) -> list[_Piece]:
    """The division into pieces of at most `limit` bytes with the least cost."""
    best: list[tuple[tuple[int, ...], list[_Piece]] | None] = [((0, 0, 0), [])] + [None] * count
    for end in range(1, count + 1):
        for piece in pieces:
            before = best[piece.first]
            if piece.end != end or piece.bytes > limit or before is None:
                continue
            cost = tuple(a + b for a, b in zip(before[0], piece.cost, strict=True))
            so_far = best[end]
            if so_far is None or cost < so_far[0]:
                best[end] = cost, [*before[1], piece]
    found = best[count]
    assert found is not None
    return found[1]
