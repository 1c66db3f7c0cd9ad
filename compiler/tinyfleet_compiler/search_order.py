"""Orders of a branching graph that may need less memory: beam search over topological orders.

A state is the set of ops that have run. Of all orders that lead to one set the one with the lowest peak is kept, of the
sets of one size the `BEAM` with the lowest peak. The peak of an op is what the planner can reach at best there
(`unit_bound`): overlaps of dying inputs are granted, which the greedy order of `schedule.py` does not see.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.layout import ARENA_ALIGN
from tinyfleet_compiler.plan_memory import unit_bound
from tinyfleet_compiler.plan_units import Unit, plain_unit

BEAM = 48
MOST_OPS = 200
"""Of longer graphs the search would cost seconds."""


@dataclass(frozen=True)
class _State:
    """Ops run (bits), in order, and what they left alive."""

    done: int
    order: tuple[int, ...]
    live: frozenset[str]
    peak: int
    bytes: int


class _Search:
    """What stays the same over a search."""

    def __init__(self, ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.units: list[Unit] = [plain_unit(ops, at, sizes) for at in range(len(ops))]
        self.sizes = sizes
        self.outputs = frozenset(outputs)
        maker = {op.output: at for at, op in enumerate(ops)}
        self.needs = [_bits(maker[name] for name in {*op.inputs, *op.after} if name in maker) for op in ops]
        self.readers: dict[str, int] = {}
        for at, op in enumerate(ops):
            for name in set(op.inputs):
                self.readers[name] = self.readers.get(name, 0) | 1 << at
        self.first = _State(0, (), frozenset(inputs), 0, sum(self.size(name) for name in inputs))

    def size(self, name: str) -> int:
        return -(-self.sizes[name] // ARENA_ALIGN) * ARENA_ALIGN

    def ready(self, state: _State) -> list[int]:
        """Ops that can run next."""
        return [at for at, need in enumerate(self.needs) if not state.done >> at & 1 and need & ~state.done == 0]

    def run(self, state: _State, at: int) -> _State:
        """The state after one more op."""
        unit, done = self.units[at], state.done | 1 << at
        dying = frozenset(n for n in unit.inputs if not self.readers[n] & ~done and n not in self.outputs)
        through = state.bytes - sum(self.size(name) for name in set(unit.inputs))
        peak = max(state.peak, through + unit_bound(unit, self.sizes, dying))
        output = next(iter(unit.written))
        made = {output} if self.readers.get(output, 0) & ~done or output in self.outputs else set()
        live = state.live - dying | made
        return _State(done, (*state.order, at), live, peak, sum(self.size(name) for name in live))


def search_order(
    ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[tuple[Op, ...], int]:
    """(the best order found, the least bytes that any plan of it needs); ties keep the order given. Deterministic."""
    search = _Search(ops, sizes, inputs, outputs)
    states = [search.first]
    for _ in range(len(ops)):
        found: dict[int, _State] = {}
        for state in states:
            for at in search.ready(state):
                after = search.run(state, at)
                if after.done not in found or after.peak < found[after.done].peak:
                    found[after.done] = after
        states = sorted(found.values(), key=lambda s: (s.peak, s.bytes, s.order))[:BEAM]
    return tuple(ops[at] for at in states[0].order), states[0].peak


def has_choice(ops: Sequence[Op]) -> bool:
    """Whether more than one order is legal, and the graph short enough to search."""
    chained = all(before.output in {*op.inputs, *op.after} for before, op in itertools.pairwise(ops))
    return not chained and len(ops) <= MOST_OPS


def smallest_unit(ops: Sequence[Op], sizes: dict[str, int]) -> int:
    """What every order needs at least: the largest op with all its inputs dying."""
    units = [plain_unit(ops, at, sizes) for at in range(len(ops))]
    return max(unit_bound(unit, sizes, frozenset(unit.inputs)) for unit in units)


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in set(numbers))
