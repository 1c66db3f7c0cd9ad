"""Proves the smallest arena of small graphs, or how far a plan is from it: branch and bound over who lies above whom.

Two tensors that live at once lie in one of two orders, each a difference constraint `upper - lower >= separation`.
A node of the search has settled some pairs. The longest paths through them are the lowest offsets there can be, so
their end bounds all that follows; a node whose lowest offsets break no pair is a plan.
"""

import heapq
from collections.abc import Sequence

from tinyfleet_compiler.layout import ARENA_ALIGN

Separations = dict[tuple[str, str], int]
MOST_TENSORS = 40
MOST_NODES = 3000
_Constraint = tuple[int, int, int]


def find_optimum(
    sizes: dict[str, int], separations: Separations, known_bytes: int, bound_bytes: int
) -> tuple[dict[str, int] | None, int]:
    """(offsets of a plan smaller than `known_bytes` or None, proven lower bound in bytes)."""
    names = list(sizes)
    number = {name: index for index, name in enumerate(names)}
    length = [-(-sizes[name] // ARENA_ALIGN) * ARENA_ALIGN for name in names]
    pairs = [
        (number[a], number[b], separations[a, b], separations[b, a]) for a, b in separations if number[a] < number[b]
    ]
    # Wide pairs first: settling them moves the bound most.
    pairs.sort(key=lambda p: -min(p[2], p[3]))
    best, proven = _search(length, pairs, known_bytes, bound_bytes)
    return (dict(zip(names, best, strict=True)) if best else None), proven


def _search(
    length: list[int], pairs: list[tuple[int, int, int, int]], known: int, bound: int
) -> tuple[list[int] | None, int]:
    best: list[int] | None = None
    start = [0] * len(length)
    # (bound, deepest first, tie-break, offsets, settled constraints)
    heap: list[tuple[int, int, int, list[int], tuple[_Constraint, ...]]] = [(max(bound, max(length)), 0, 0, start, ())]
    pushed = 0
    for _ in range(MOST_NODES):
        if not heap or heap[0][0] >= known:
            return best, known
        low, depth, _, offsets, settled = heapq.heappop(heap)
        broken = _broken(offsets, pairs)
        if broken is None:
            best, known = offsets, _end(offsets, length)
            continue
        a, b, up, down = broken
        for constraint in ((a, b, up), (b, a, down)):
            chosen = (*settled, constraint)
            lowest = _raise(offsets, chosen, length, known)
            if lowest is not None:
                pushed += 1
                heapq.heappush(heap, (max(low, _end(lowest, length)), depth - 1, pushed, lowest, chosen))
    return best, min(known, heap[0][0]) if heap else known


def _broken(offsets: list[int], pairs: Sequence[tuple[int, int, int, int]]) -> tuple[int, int, int, int] | None:
    return next(
        (p for p in pairs if offsets[p[1]] - offsets[p[0]] < p[2] and offsets[p[0]] - offsets[p[1]] < p[3]), None
    )


def _raise(offsets: list[int], constraints: Sequence[_Constraint], length: list[int], known: int) -> list[int] | None:
    """Lowest offsets that keep all constraints; None where they reach `known` (so also around a rising circle)."""
    lowest = list(offsets)
    changed = True
    while changed:
        changed = False
        for below, above, separation in constraints:
            if lowest[above] < lowest[below] + separation:
                lowest[above] = lowest[below] + separation
                if lowest[above] + length[above] >= known:
                    return None
                changed = True
    return lowest


def _end(offsets: list[int], length: list[int]) -> int:
    return max(at + size for at, size in zip(offsets, length, strict=True))
