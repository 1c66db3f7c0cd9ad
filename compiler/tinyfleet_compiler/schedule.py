"""Execution order: the model's own, or a greedy one that frees memory first, whichever peaks lower."""

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
        live -= {
            name for name in live if last.get(name, -1) <= at and name not in outputs and name not in _unread(ops, at)
        }
    return peak


def _unread(ops: Sequence[Op], at: int) -> set[str]:
    return {name for op in ops[at + 1 :] for name in op.inputs}


def _greedy(
    ops: tuple[Op, ...], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Op, ...]:
    """Among the ops that can run, always the one that leaves the least memory live."""
    waiting = list(ops)
    ready_tensors = set(inputs)
    order: list[Op] = []
    while waiting:
        runnable = [op for op in waiting if all(name in ready_tensors for name in (*op.inputs, *op.after))]
        chosen = min(runnable, key=lambda op: _growth(op, waiting, sizes, outputs))
        waiting.remove(chosen)
        ready_tensors.add(chosen.output)
        order.append(chosen)
    return tuple(order)


def _growth(op: Op, waiting: list[Op], sizes: dict[str, int], outputs: Sequence[str]) -> int:
    others = {name for other in waiting if other is not op for name in other.inputs} | set(outputs)
    return sizes[op.output] - sum(sizes[name] for name in op.inputs if name not in others)
