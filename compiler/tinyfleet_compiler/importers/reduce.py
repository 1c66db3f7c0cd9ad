"""Importers of reductions."""

import numpy as np

from tinyfleet_compiler.check_ops import MOST_CLASSES
from tinyfleet_compiler.graph import ArgMax, Reduce, ReduceOperator, Reshape, Shape
from tinyfleet_compiler.importers.binary import import_binary
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.unary import import_unary

OPERATORS = {
    "ReduceMean": ReduceOperator.MEAN,
    "ReduceSum": ReduceOperator.SUM,
    "ReduceMax": ReduceOperator.MAX,
    "ReduceMin": ReduceOperator.MIN,
}


def import_reduce(node: OnnxNode) -> None:
    """ReduceMean, ReduceMax, ReduceMin (opset 11 to 20) and ReduceSum (11, 13) over any axes but the batch."""
    shape = node.shape()
    axes = _axes(node, len(shape) + 1)
    if not axes:
        node.context.aliases[node.output] = node.data(0)
        return
    reduced = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    keep = bool(node.integer("keepdims", 1))
    last = node.output if keep else f"{node.output}/kept"
    _add_reductions(node, axes, last)
    if not keep:
        _drop(node, last, axes, reduced)


def import_reduce_norm(node: OnnxNode) -> None:
    """ReduceL1, ReduceL2, ReduceSumSquare (11 to 18): a sum of magnitudes or squares. A quotient by the norm becomes
    one operator again (passes/fuse_l2_normalize.py)."""
    each, source = f"{node.output}/each", node.data(0)
    if node.operator == "ReduceL1":
        import_unary(node.part("Abs", [source], each))
    else:
        import_binary(node.part("Mul", [source, source], each))
    total = f"{node.output}/sum" if node.operator == "ReduceL2" else node.output
    import_reduce(node.part("ReduceSum", [each, *node.inputs[1:]], total, **node.attributes))
    if node.operator == "ReduceL2":
        import_unary(node.part("Sqrt", [total], node.output))


def import_arg_max(node: OnnxNode) -> None:
    """ArgMax and ArgMin (11, 12, 13) over one axis of at most 256 entries; the first of equal ones wins."""
    shape = node.shape()
    axis = _positive(node, node.integer("axis", 0), len(shape) + 1)
    if node.integer("select_last_index", 0):
        raise UnsupportedError("selects the last of equal entries", "export with select_last_index = 0")
    if shape[axis] > MOST_CLASSES:
        raise UnsupportedError(f"chooses among {shape[axis]} entries", f"use at most {MOST_CLASSES}, or end before it")
    reduced = (*shape[:axis], 1, *shape[axis + 1 :])
    keep = bool(node.integer("keepdims", 1))
    last = node.output if keep else f"{node.output}/kept"
    smallest = node.operator == "ArgMin"
    node.context.add(ArgMax(node.name, (node.data(0),), last, axis=axis, smallest=smallest), reduced)
    if not keep:
        _drop(node, last, (axis,), reduced)


def _axes(node: OnnxNode, rank: int) -> tuple[int, ...]:
    """Reduced axes, the batch left out, ascending; () for none."""
    given = node.ints("axes", ())
    if node.has_input(1):
        given = tuple(int(axis) for axis in np.ravel(node.constant(1, "axes")))
    if not given and node.integer("noop_with_empty_axes", 0):
        return ()
    if not given or {axis % rank for axis in given} == set(range(rank)):
        return tuple(range(rank - 1))  # everything; there is one sample, so the batch makes no difference
    return tuple(sorted({_positive(node, axis, rank) for axis in given}))


def _positive(node: OnnxNode, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UnsupportedError(f"axis {axis} is outside rank {rank}", "export the model again")
    if axis % rank == 0:
        raise UnsupportedError("reduces the batch", "reduce other axes than the first")
    return axis % rank - 1


def _add_reductions(node: OnnxNode, axes: tuple[int, ...], last: str) -> None:
    # Channels and rows of an image are no neighbours on the device, where channels come last.
    steps = [axes] if axes != (0, 1) or len(node.shape()) != 3 else [(1,), (0,)]
    source, shape = node.data(0), node.shape()
    for number, step in enumerate(steps):
        target = last if number == len(steps) - 1 else f"{node.output}/step{number}"
        shape = tuple(1 if axis in step else size for axis, size in enumerate(shape))
        name = node.name if target == last else f"{node.name}/step{number}"
        node.context.add(Reduce(name, (source,), target, operator=OPERATORS[node.operator], axes=step), shape)
        source = target


def _drop(node: OnnxNode, source: str, axes: tuple[int, ...], reduced: Shape) -> None:
    """Remove the axes of 1; what is reduced to one number keeps one axis."""
    shape = tuple(size for axis, size in enumerate(reduced) if axis not in axes)
    shape = shape or (1,)
    node.context.add(Reshape(f"{node.name}/drop", (source,), node.output, shape=shape), shape)
