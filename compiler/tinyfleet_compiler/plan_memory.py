"""Arena offsets: outputs overlap dying inputs where kernels allow it, from below, or from above in reversed order."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.layout import ARENA_ALIGN, NO_OVERLAP
from tinyfleet_compiler.operators import OpFlag
from tinyfleet_compiler.plan_optimum import MOST_TENSORS, Separations, find_optimum

EXHAUSTIVE_TENSORS = 6
RANDOM_ORDERS = 150
SCRATCH = "#scratch/"


@dataclass(frozen=True)
class Plan:
    """Byte offsets in the arena by tensor name (scratch: `#scratch/<output>`)."""

    offsets: dict[str, int]
    arena_bytes: int
    lower_bound_bytes: int
    """No plan is smaller: equals `arena_bytes` where the plan is proven to be optimal."""
    lifetimes: dict[str, tuple[int, int]]
    sizes: dict[str, int]


@dataclass(frozen=True)
class _Problem:
    sizes: dict[str, int]
    lifetimes: dict[str, tuple[int, int]]
    conflicts: dict[str, tuple[str, ...]]
    separations: Separations
    """(a, b) that live at once -> smallest b - a when b lies above a; a pair needs one of its two directions."""


def plan_memory(ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> Plan:
    """Offsets for every tensor and scratch; sizes in bytes. Deterministic."""
    problem = _describe(ops, sizes, inputs, outputs)
    bound = _lower_bound(ops, problem)
    best = _place(list(problem.sizes), problem)
    best_bytes = _end(best, problem)
    for order in _orders(problem):
        if best_bytes <= bound:
            break
        offsets = _place(order, problem)
        if (end := _end(offsets, problem)) < best_bytes:
            best, best_bytes = offsets, end
    if bound < best_bytes and len(problem.sizes) <= MOST_TENSORS:
        found, bound = find_optimum(problem.sizes, problem.separations, best_bytes, bound)
        best, best_bytes = (found, _end(found, problem)) if found else (best, best_bytes)
    return Plan(best, best_bytes, bound, problem.lifetimes, problem.sizes)


def choose_order(ops: Sequence[Op], plan: Plan) -> tuple[Op, ...]:
    """The ops with flag REVERSED and its distance where the plan lays an output into its input from above."""
    return tuple(_reversed(op) if _from_above(op, plan) else op for op in ops)


def _from_above(op: Op, plan: Plan) -> bool:
    source, result = plan.offsets[op.inputs[0]], plan.offsets[op.output]
    overlaps = source < result + plan.sizes[op.output] and result < source + plan.sizes[op.inputs[0]]
    return op.reversed_overlap_bytes is not None and overlaps and source - result < op.overlap_bytes


def _reversed(op: Op) -> Op:
    assert op.reversed_overlap_bytes is not None
    return replace(op, flags=op.flags | OpFlag.REVERSED, overlap_bytes=op.reversed_overlap_bytes)


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
    conflicts = {a: tuple(b for b in all_sizes if b != a and _meet(lifetimes[a], lifetimes[b])) for a in all_sizes}
    apart = {(a, b): _align(all_sizes[a]) for a in all_sizes for b in conflicts[a]}
    return _Problem(all_sizes, lifetimes, conflicts, apart | _overlaps(ops, dies, apart))


def _overlaps(ops: Sequence[Op], dies: dict[str, int], apart: Separations) -> Separations:
    """Separations of the pairs (dying input, output) that may be nearer than apart."""
    found: Separations = {}
    for at, op in enumerate(ops):
        for name in op.overlapping_inputs:
            if dies[name] != at or op.overlap_bytes == NO_OVERLAP:
                continue
            below, above = (op.output, name), (name, op.output)
            found[below] = min(apart[below], _align(op.overlap_bytes))
            if op.reversed_overlap_bytes is not None:
                found[above] = min(apart[above], _align(op.reversed_overlap_bytes))
    return found


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
    above = problem.separations
    for name in order:
        placed = [other for other in problem.conflicts[name] if other in offsets]
        candidates = {0} | {max(0, offsets[other] + above[other, name]) for other in placed}
        offsets[name] = min(
            at
            for at in candidates
            if all(at - offsets[o] >= above[o, name] or offsets[o] - at >= above[name, o] for o in placed)
        )
    return offsets


def _align(offset: int) -> int:
    return -(-offset // ARENA_ALIGN) * ARENA_ALIGN


def _end(offsets: dict[str, int], problem: _Problem) -> int:
    return _align(max(offsets[name] + problem.sizes[name] for name in offsets))


def _lower_bound(ops: Sequence[Op], problem: _Problem) -> int:
    """No plan in this model of memory is smaller: what is live at one op, its best overlap granted."""
    size = {name: _align(bytes) for name, bytes in problem.sizes.items()}
    bound = 0
    for at, op in enumerate(ops):
        live = {n for n, (a, b) in problem.lifetimes.items() if a <= at <= b}
        total = sum(size[n] for n in live)
        pairs = ((name, op.output) for name in op.inputs if name != op.output)
        saved = sum(size[a] + size[b] - _joint(a, b, size, problem.separations) for a, b in pairs)
        bound = max(bound, total - min(saved, total - max(size[n] for n in live)))
    return bound


def _joint(a: str, b: str, size: dict[str, int], above: Separations) -> int:
    """Fewest bytes two tensors cover together."""
    return min(max(size[a], max(above[a, b], 0) + size[b]), max(size[b], max(above[b, a], 0) + size[a]))
