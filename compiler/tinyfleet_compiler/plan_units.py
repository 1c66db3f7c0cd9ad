"""What the planner places: one op, or one cascade of ops, at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.cascade import Cascade
from tinyfleet_compiler.layout import ARENA_ALIGN, CASCADE_RECORD_BYTES, NO_OVERLAP

SCRATCH = "#scratch/"
WORKSPACE = "#rows/"


@dataclass(frozen=True)
class Unit:
    """Ops [first, end) that are live together: tensors by name, bytes of what is written, legal overlaps."""

    first: int
    end: int
    inputs: tuple[str, ...]
    written: dict[str, int]
    """Outputs, scratch (`#scratch/<output>`) and a cascade's workspace (`#rows/<its first output>`); of rings what is
    kept."""
    overlaps: dict[tuple[str, str], int]
    """(a, b) -> smallest legal b - a of an input and an output."""


def make_units(ops: Sequence[Op], sizes: dict[str, int], cascades: Sequence[Cascade] = ()) -> tuple[Unit, ...]:
    """Units in execution order; `sizes`: bytes of whole tensors."""
    starts = {cascade.first: cascade for cascade in cascades}
    units: list[Unit] = []
    at = 0
    while at < len(ops):
        units.append(cascade_unit(ops, starts[at]) if at in starts else plain_unit(ops, at, sizes))
        at = units[-1].end
    return tuple(units)


def plain_unit(ops: Sequence[Op], at: int, sizes: dict[str, int]) -> Unit:
    """The unit of one op."""
    op = ops[at]
    overlaps = {}
    for name in op.overlapping_inputs if op.overlap_bytes != NO_OVERLAP else ():
        overlaps[op.output, name] = op.overlap_bytes
        if op.reversed_overlap_bytes is not None:
            overlaps[name, op.output] = op.reversed_overlap_bytes
    return Unit(at, at + 1, op.inputs, {op.output: sizes[op.output]} | _scratch(op), overlaps)


def cascade_unit(ops: Sequence[Op], cascade: Cascade) -> Unit:
    """The unit of a cascade."""
    members = ops[cascade.first : cascade.end]
    made = {op.output for op in members}
    inputs = dict.fromkeys(name for op in members for name in op.inputs if name not in made)
    written = cascade.rings | {WORKSPACE + members[0].output: workspace_bytes(cascade)}
    for op in members:
        written |= _scratch(op)
    return Unit(cascade.first, cascade.end, tuple(inputs), written, cascade.separations)


def workspace_bytes(cascade: Cascade) -> int:
    """Bytes an engine needs to run a cascade: one record, a counter per op, and what it gathers."""
    used = CASCADE_RECORD_BYTES + 2 * len(cascade.links)
    return -(-used // ARENA_ALIGN) * ARENA_ALIGN + cascade.gather_bytes


def _scratch(op: Op) -> dict[str, int]:
    return {SCRATCH + op.output: op.scratch_bytes} if op.scratch_bytes else {}
