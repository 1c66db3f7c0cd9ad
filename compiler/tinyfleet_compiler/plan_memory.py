"""Arena offsets: outputs overlap dying inputs where kernels allow it, from below, or from above in reversed order."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.cascade import Cascade
from tinyfleet_compiler.layout import ARENA_ALIGN, NO_OVERLAP
from tinyfleet_compiler.operators import OpFlag
from tinyfleet_compiler.plan_optimum import MOST_TENSORS, Separations, find_optimum
from tinyfleet_compiler.plan_units import Unit, make_units

EXHAUSTIVE_TENSORS = 6
RANDOM_ORDERS = 150


@dataclass(frozen=True)
class Plan:
    """Byte offsets in the arena by tensor name (scratch: `#scratch/<output>`)."""

    offsets: dict[str, int]
    arena_bytes: int
    lower_bound_bytes: int
    """No plan of these ops and cascades in this order is smaller: equals `arena_bytes` where that is proven."""
    lifetimes: dict[str, tuple[int, int]]
    """First and last op (numbers) during which the bytes are taken."""
    sizes: dict[str, int]
    """Bytes by tensor; what a cascade keeps of it where it is not whole."""
    cascades: tuple[Cascade, ...] = ()


@dataclass(frozen=True)
class _Problem:
    sizes: dict[str, int]
    lifetimes: dict[str, tuple[int, int]]
    conflicts: dict[str, tuple[str, ...]]
    separations: Separations
    """(a, b) that live at once -> smallest b - a when b lies above a; a pair needs one of its two directions."""


def plan_memory(
    ops: Sequence[Op],
    sizes: dict[str, int],
    inputs: Sequence[str],
    outputs: Sequence[str],
    cascades: Sequence[Cascade] = (),
) -> Plan:
    """Offsets for every tensor and scratch; sizes in bytes. Deterministic."""
    units = make_units(ops, sizes, cascades)
    problem = _describe(units, sizes, inputs, outputs)
    bound = _lower_bound(units, problem)
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
    lifetimes = {name: _in_ops(units, life) for name, life in problem.lifetimes.items()}
    return Plan(best, best_bytes, bound, lifetimes, problem.sizes, tuple(cascades))


def _in_ops(units: Sequence[Unit], life: tuple[int, int]) -> tuple[int, int]:
    born, dies = life
    return units[born].first if born >= 0 else born, units[dies].end - 1 if dies < len(units) else units[-1].end


def choose_order(ops: Sequence[Op], plan: Plan) -> tuple[Op, ...]:
    """The ops with flag REVERSED and its distance where the plan lays an output into its input from above.

    Ops of a cascade run forwards; their distances are those of the cascade, not of a record.
    """
    inside = {index for cascade in plan.cascades for index in range(cascade.first, cascade.end)}
    return tuple(
        replace(op, overlap_bytes=NO_OVERLAP) if index in inside else _reversed(op) if _from_above(op, plan) else op
        for index, op in enumerate(ops)
    )


def _from_above(op: Op, plan: Plan) -> bool:
    if op.reversed_overlap_bytes is None:
        return False
    source, result = plan.offsets[op.inputs[0]], plan.offsets[op.output]
    overlaps = source < result + plan.sizes[op.output] and result < source + plan.sizes[op.inputs[0]]
    return overlaps and source - result < op.overlap_bytes


def _reversed(op: Op) -> Op:
    assert op.reversed_overlap_bytes is not None
    return replace(op, flags=op.flags | OpFlag.REVERSED, overlap_bytes=op.reversed_overlap_bytes)


def _describe(units: Sequence[Unit], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> _Problem:
    born = dict.fromkeys(inputs, -1) | {name: at for at, unit in enumerate(units) for name in unit.written}
    all_sizes = {name: sizes[name] for name in inputs} | {n: size for unit in units for n, size in unit.written.items()}
    dies = dict(born)
    for at, unit in enumerate(units):
        dies.update(dict.fromkeys(unit.inputs, at))
    dies.update(dict.fromkeys(outputs, len(units)))
    lifetimes = {name: (born[name], dies[name]) for name in all_sizes}
    conflicts = {a: tuple(b for b in all_sizes if b != a and _meet(lifetimes[a], lifetimes[b])) for a in all_sizes}
    apart = {(a, b): _align(all_sizes[a]) for a in all_sizes for b in conflicts[a]}
    return _Problem(all_sizes, lifetimes, conflicts, apart | _overlaps(units, dies, apart))


def _overlaps(units: Sequence[Unit], dies: dict[str, int], apart: Separations) -> Separations:
    """Separations of the pairs (dying input, output) that may be nearer than apart."""
    return {
        pair: min(apart[pair], _align(distance))
        for at, unit in enumerate(units)
        for pair, distance in unit.overlaps.items()
        if all(name in unit.written or dies[name] == at for name in pair)
    }


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
        taken = sorted((offsets[o] - above[name, o], offsets[o] + above[o, name]) for o in placed)
        offsets[name] = _first_free(taken)
    return offsets


def _first_free(taken: Sequence[tuple[int, int]]) -> int:
    """The lowest offset strictly inside none of the intervals, which are sorted."""
    at = 0
    for low, high in taken:
        if at <= low:
            break
        at = max(at, high)
    return at


def _align(offset: int) -> int:
    return -(-offset // ARENA_ALIGN) * ARENA_ALIGN


def _end(offsets: dict[str, int], problem: _Problem) -> int:
    return _align(max(offsets[name] + problem.sizes[name] for name in offsets))


def _lower_bound(units: Sequence[Unit], problem: _Problem) -> int:
    """No plan in this model of memory is smaller: what is live at one unit, its best overlaps granted."""
    bound = 0
    for at, unit in enumerate(units):
        live = [n for n, (a, b) in problem.lifetimes.items() if a <= at <= b]
        own = {*unit.inputs, *unit.written}
        dying = frozenset(n for n in unit.inputs if problem.lifetimes[n][1] == at)
        through = sum(_align(problem.sizes[n]) for n in live if n not in own)
        bound = max(bound, through + unit_bound(unit, problem.sizes, dying))
    return bound


def unit_bound(unit: Unit, sizes: dict[str, int], dying: frozenset[str]) -> int:
    """Least bytes that inputs and outputs of a unit cover; inputs `dying` are not read after it."""
    size = {name: _align(sizes[name]) for name in unit.inputs} | {n: _align(b) for n, b in unit.written.items()}
    total, saved = sum(size.values()), 0
    for source in dying:
        shared = 0
        for name in unit.written:
            above = {pair: size[pair[0]] for pair in ((source, name), (name, source))}
            legal = {pair: min(apart, _align(unit.overlaps.get(pair, apart))) for pair, apart in above.items()}
            shared += size[source] + size[name] - _joint(source, name, size, legal)
        # What is written lies apart from each other: no byte of an input is shared twice.
        saved += min(shared, size[source])
    return total - min(saved, total - max(size.values()))


def _joint(a: str, b: str, size: dict[str, int], above: Separations) -> int:
    """Fewest bytes two tensors cover together."""
    return min(max(size[a], max(above[a, b], 0) + size[b]), max(size[b], max(above[b, a], 0) + size[a]))
