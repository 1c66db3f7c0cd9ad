"""Arena offsets: first-fit over many insertion orders, outputs overlapping dying inputs where the kernels allow it."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.layout import ARENA_ALIGN, NO_OVERLAP

EXHAUSTIVE_TENSORS = 6
RANDOM_ORDERS = 150
SCRATCH = "#scratch/"


@dataclass(frozen=True)
class Plan:
    """Byte offsets in the arena by tensor name (scratch: `#scratch/<output>`)."""

    offsets: dict[str, int]
    arena_bytes: int
    lower_bound_bytes: int
    lifetimes: dict[str, tuple[int, int]]
    sizes: dict[str, int]


@dataclass(frozen=True)
class _Problem:
    sizes: dict[str, int]
    lifetimes: dict[str, tuple[int, int]]
    conflicts: dict[str, tuple[str, ...]]
    distances: dict[tuple[str, str], int]
    """(dying input, output) -> smallest legal input - output."""


def plan_memory(ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> Plan:
    """Offsets for every tensor and scratch; sizes in bytes. Deterministic."""
    problem = _describe(ops, sizes, inputs, outputs)
    best: dict[str, int] = {}
    best_bytes = -1
    bound = _lower_bound(ops, problem)
    for order in _orders(problem):
        offsets = _place(order, problem)
        end = _end(offsets, problem)
        if best_bytes < 0 or end < best_bytes:
            best, best_bytes = offsets, end
        if best_bytes <= bound:
            break
    return Plan(best, best_bytes, bound, problem.lifetimes, problem.sizes)


def _describe(ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> _Problem:
    born = dict.fromkeys(inputs, -1) | {op.output: at for at, op in enumerate(ops)}
    dies = dict(born)
    for at, op in enumerate(ops):
        dies.update(dict.fromkeys(op.inputs, at))
    dies.update(dict.fromkeys(outputs, len(ops)))
    all_sizes = {name: sizes[name] for name in born}
    for at, op in enumerate(ops):
        if op.scratch_bytes:
            all_sizes[SCRATCH + op.output] = op.scratch_bytes
            born[SCRATCH + op.output] = dies[SCRATCH + op.output] = at
    lifetimes = {name: (born[name], dies[name]) for name in all_sizes}
    distances = {
        (name, op.output): op.overlap_bytes
        for at, op in enumerate(ops)
        for name in op.overlapping_inputs
        if dies[name] == at and op.overlap_bytes != NO_OVERLAP
    }
    conflicts = {a: tuple(b for b in all_sizes if b != a and _meet(lifetimes[a], lifetimes[b])) for a in all_sizes}
    return _Problem(all_sizes, lifetimes, conflicts, distances)


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _orders(problem: _Problem) -> Iterable[Sequence[str]]:
    names = list(problem.sizes)
    if len(names) <= EXHAUSTIVE_TENSORS:
        yield from itertools.permutations(names)
        return
    size, life = problem.sizes, problem.lifetimes
    yield sorted(names, key=lambda n: (-life[n][1], -life[n][0]))
    yield sorted(names, key=lambda n: life[n][0])
    yield sorted(names, key=lambda n: (-size[n], -life[n][1]))
    yield sorted(names, key=lambda n: (-size[n], life[n][0]))
    yield sorted(names, key=lambda n: -(life[n][1] - life[n][0]) * size[n])
    generator = random.Random(1)
    base = sorted(names, key=lambda n: (-life[n][1], -life[n][0]))
    for _ in range(RANDOM_ORDERS):
        order = list(base)
        for _ in range(generator.randint(1, 4)):
            i, j = generator.randrange(len(order)), generator.randrange(len(order))
            order.insert(j, order.pop(i))
        yield order


def _place(order: Sequence[str], problem: _Problem) -> dict[str, int]:
    """Each tensor at the lowest offset its placed neighbours allow."""
    offsets: dict[str, int] = {}
    for name in order:
        placed = [other for other in problem.conflicts[name] if other in offsets]
        candidates = {0}
        for other in placed:
            candidates.add(_align(offsets[other] + problem.sizes[other]))
            distance = problem.distances.get((name, other))
            if distance is not None:
                candidates.add(_align(max(0, offsets[other] + distance)))
        offsets[name] = min(c for c in candidates if all(_legal(name, c, o, offsets[o], problem) for o in placed))
    return offsets


def _legal(name: str, at: int, other: str, other_at: int, problem: _Problem) -> bool:
    if at + problem.sizes[name] <= other_at or other_at + problem.sizes[other] <= at:
        return True
    as_input = problem.distances.get((name, other))
    if as_input is not None:
        return at - other_at >= as_input
    as_output = problem.distances.get((other, name))
    return as_output is not None and other_at - at >= as_output


def _align(offset: int) -> int:
    return -(-offset // ARENA_ALIGN) * ARENA_ALIGN


def _end(offsets: dict[str, int], problem: _Problem) -> int:
    return _align(max(offsets[name] + problem.sizes[name] for name in offsets))


def _lower_bound(ops: Sequence[Op], problem: _Problem) -> int:
    """No plan in this model of memory is smaller: what is live at one op, its best overlap granted."""
    bound = 0
    for at, op in enumerate(ops):
        live = {n for n, (a, b) in problem.lifetimes.items() if a <= at <= b}
        total = sum(problem.sizes[n] for n in live)
        saved = 0
        for name in op.inputs:
            distance = problem.distances.get((name, op.output))
            if distance is not None:
                joint = max(problem.sizes[op.output], max(distance, 0) + problem.sizes[name])
                saved += max(0, problem.sizes[name] + problem.sizes[op.output] - joint)
        bound = max(bound, total - min(saved, total - max(problem.sizes[n] for n in live)))
    return bound
