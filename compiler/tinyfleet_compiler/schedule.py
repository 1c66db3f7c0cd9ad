"""Execution order: the model's own, or a greedy one that frees memory first, whichever peaks lower."""

from collections import Counter
from collections.abc import Sequence

from tinyfleet_compiler.build_ops import Op


def schedule(ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Op, ...]:
    """Order the ops; `sizes` are bytes per tensor. Ties keep the model's order, so equal models stay equal."""
    own = tuple(ops)
    greedy = _greedy(own, sizes, inputs, outputs)
    return greedy if peak_bytes(greedy, sizes, inputs, outputs) < peak_bytes(own, sizes, inputs, outputs) else own


def peak_bytes(ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]) -> int:
    """Largest sum of live tensors, without overlap."""
    last = {name: at for at, op in enumerate(ops) for name in op.inputs}
    live = set(inputs)
    peak = sum(sizes[name] for name in live)
    for at, op in enumerate(ops):
        live.add(op.output)
        peak = max(peak, sum(sizes[name] for name in live) + op.scratch_bytes)
        live -= {name for name in live if last.get(name, -1) <= at and name not in outputs}
    return peak


def _greedy(
    ops: tuple[Op, ...], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Op, ...]:
    """Among the ops that can run, always the one that leaves the least memory live; of equal ones the first."""
    given = set(inputs)
    needs = [{*op.inputs, *op.after} for op in ops]
    missing = [len(names - given) for names in needs]
    waiting: dict[str, list[int]] = {}
    for at, names in enumerate(needs):
        for name in names:
            waiting.setdefault(name, []).append(at)
    left = Counter(name for op in ops for name in set(op.inputs))
    runnable = {at for at, count in enumerate(missing) if count == 0}
    order: list[Op] = []
    while runnable:
        chosen = min(runnable, key=lambda at: (_growth(ops[at], left, sizes, outputs), at))
        runnable.remove(chosen)
        order.append(ops[chosen])
        for name in set(ops[chosen].inputs):
            left[name] -= 1
        for at in waiting.get(ops[chosen].output, ()):
            missing[at] -= 1
            if missing[at] == 0:
                runnable.add(at)
    return tuple(order)


def _growth(op: Op, left: Counter[str], sizes: dict[str, int], outputs: Sequence[str]) -> int:
    """Bytes that running an op adds; `left` counts the ops that still read a tensor."""
    freed = (name for name in op.inputs if left[name] == 1 and name not in outputs)
    return sizes[op.output] - sum(sizes[name] for name in freed)
