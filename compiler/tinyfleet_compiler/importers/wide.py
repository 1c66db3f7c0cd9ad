"""Tensors of more than four dimensions, or whose batch is no axis of its own, on the way to what the graph can hold:
channel and pixel shuffles written out, queries, keys and values of attention cut from one product.

A tensor on that way is no tensor of the graph yet. `Context.wide` holds where it comes from and how its axes lie now.
It ends where it has a batch and at most four dimensions again; where every element has come from decides which
operator it was.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Reshape, Shape, Slice, elements
from tinyfleet_compiler.importers.batch_axis import ELEMENTWISE
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.dense import added_axes, axes_of, reshape_target, whole_target
from tinyfleet_compiler.importers.moves import sample_axis, slice_cuts, split_sizes
from tinyfleet_compiler.importers.wide_ends import HELP, MOST_AXES, Wide, end


def absorb(node: OnnxNode, importers: dict[str, Callable[[OnnxNode], None]]) -> bool:
    """Whether an operator begins, continues or ends such a way. Raises `UnsupportedError` where it leaves it."""
    waiting = [name for name in node.inputs if name in node.context.wide]
    if not waiting:
        return _begin(node)
    wide = node.context.wide[waiting[0]]
    if node.operator in _STEPS:
        _STEPS[node.operator](node, wide)
    elif node.operator in ELEMENTWISE:  # the same before the move as behind it
        flat = f"{node.output}/flat"
        importers[node.operator](node.part(node.operator, [wide.source, *node.inputs[1:]], flat, **node.attributes))
        node.context.wide[node.output] = replace(wide, source=node.context.resolve(flat))
    elif node.operator == "Gemm" and waiting == node.inputs[:1] and len(wide.dims) == 2:
        _gemm(node, wide, importers["Gemm"])
    else:
        raise left(wide, "works on")
    return True


def left(wide: Wide, how: str) -> UnsupportedError:
    """What is wrong where such a tensor would have to be one of the graph."""
    if len(wide.dims) > MOST_AXES:
        return UnsupportedError(f"{how} a tensor of {len(wide.dims)} dimensions", HELP)
    return UnsupportedError(f"{how} {wide.shape}, whose batch is no axis of its own", HELP)


def _begin(node: OnnxNode) -> bool:
    if node.operator not in ("Reshape", "Unsqueeze") or node.inputs[0] not in node.context.shapes:
        return False
    shape, at = node.shape(), node.context.batch_axes.get(node.inputs[0], 0)
    old = (*shape[:at], 1, *shape[at:])
    if node.operator == "Reshape":
        target = whole_target(old, reshape_target(node, old))
        fits = len(target) <= MOST_AXES and _keeps_batch(shape, at, target)
    else:
        target = tuple(np.expand_dims(np.empty(old, np.bool_), added_axes(node, len(old))).shape)
        fits = len(target) <= MOST_AXES
    if fits:
        return False
    if elements(target) != elements(old):
        raise UnsupportedError(f"turns {old} into {target}", "keep all elements")
    node.require_size(old)
    node.context.wide[node.output] = Wide(node.data(0), target, tuple(range(len(target))))
    return True


def _keeps_batch(shape: Shape, at: int, target: Shape) -> bool:
    """Whether a reshaped tensor has an axis for its batch: the first, or, where it is another, that one."""
    first = len(target) > 1 and target[0] == 1
    return first or (0 < at < len(target) and target[at] == 1 and elements(target[:at]) == elements(shape[:at]))


def _put(node: OnnxNode, output: str, wide: Wide) -> None:
    """The tensor goes on, or ends here: with its first axis the batch's and four dimensions at most."""
    if 2 <= len(wide.dims) <= MOST_AXES and wide.shape[0] == 1:
        end(node.part("Reshape", [], output), wide, wide.shape[1:])
    else:
        node.context.wide[output] = wide


def _turn(node: OnnxNode, wide: Wide) -> None:
    perm = node.ints("perm", tuple(reversed(range(len(wide.perm)))))
    if sorted(perm) != list(range(len(wide.perm))):
        raise UnsupportedError(f"permutes axes {perm}", "export the model again")
    _put(node, node.output, replace(wide, perm=tuple(wide.perm[p] for p in perm)))


def _reshape(node: OnnxNode, wide: Wide) -> None:
    target = whole_target(wide.shape, reshape_target(node, wide.shape))
    if elements(target) != elements(wide.shape):
        raise UnsupportedError(f"turns {wide.shape} into {target}", "keep all elements")
    if 2 <= len(target) <= MOST_AXES and target[0] == 1:
        end(node, wide, target[1:])
    else:
        straight = _straight(node, wide)
        node.context.wide[node.output] = Wide(straight, target, tuple(range(len(target))))


def _straight(node: OnnxNode, wide: Wide) -> str:
    """A tensor that holds the elements in the order in which they lie now."""
    long = [p for p in wide.perm if wide.dims[p] > 1]
    if long == sorted(long):
        return wide.source
    straight = f"{node.output}/straight"
    end(node.part("Reshape", [], straight), wide, (elements(wide.dims),))
    return straight


def _squeeze(node: OnnxNode, wide: Wide) -> None:
    ones = tuple(axis for axis, size in enumerate(wide.shape) if size == 1)
    axes = axes_of(node, ones, len(wide.dims))
    if any(wide.shape[axis] != 1 for axis in axes):
        raise UnsupportedError(f"squeezes axes {axes} of {wide.shape}", "squeeze only axes of 1")
    _put(node, node.output, _without(wide, axes))


def _without(wide: Wide, axes: tuple[int, ...]) -> Wide:
    gone = {wide.perm[axis] for axis in axes}
    kept = [d for d in range(len(wide.dims)) if d not in gone]
    return Wide(wide.source, tuple(wide.dims[d] for d in kept), tuple(kept.index(p) for p in wide.perm if p in kept))


def _slice(node: OnnxNode, wide: Wide) -> None:
    output = node.output
    for axis, cut in enumerate(slice_cuts(node, wide.shape)):
        wide = _cut(node, wide, axis, cut, f"{output}/cut{axis}")
    _put(node, output, wide)


def _split(node: OnnxNode, wide: Wide) -> None:
    axis, start = sample_axis(node.integer("axis", 0), len(wide.dims), batch=True), 0
    for output, size in zip(node.proto.output, split_sizes(node, wide.shape[axis]), strict=True):
        _put(node, output, _cut(node, wide, axis, range(start, start + size), f"{output}/cut"))
        start += size


def _gather(node: OnnxNode, wide: Wide) -> None:
    axis = sample_axis(node.integer("axis", 0), len(wide.dims), batch=True)
    given = node.constant(1, "the index list")
    if given.size != 1 or given.ndim > 1 or not -wide.shape[axis] <= int(given.reshape(-1)[0]) < wide.shape[axis]:
        raise UnsupportedError(f"takes {given.size} indices of {wide.shape}", "take one index, which exists, at a time")
    index = int(given.reshape(-1)[0]) % wide.shape[axis]
    part = _cut(node, wide, axis, range(index, index + 1), f"{node.output}/cut")
    _put(node, node.output, _without(part, (axis,)) if given.ndim == 0 else part)


def _cut(node: OnnxNode, wide: Wide, axis: int, cut: range, output: str) -> Wide:
    """Some places along one axis: a slice of the source, seen with that axis between all before and all behind it."""
    at = wide.perm[axis]
    if cut == range(wide.dims[at]):
        return wide
    if not cut:
        raise UnsupportedError(f"leaves nothing of {wide.shape}", "keep at least one element of every axis")
    seen = (elements(wide.dims[:at]), wide.dims[at], elements(wide.dims[at + 1 :]))
    view = f"{output}/seen"
    node.context.add(Reshape(view, (wide.source,), view, shape=seen), seen)
    made = Slice(output, (view,), output, starts=(0, cut.start, 0), steps=(1, cut.step, 1))
    node.context.add(made, (seen[0], len(cut), seen[2]))
    return replace(wide, source=output, dims=(*wide.dims[:at], len(cut), *wide.dims[at + 1 :]))


def _gemm(node: OnnxNode, wide: Wide, importer: Callable[[OnnxNode], None]) -> None:
    """Rows of one sample that stand where a batch would."""
    source, rows, flat = _straight(node, wide), f"{node.output}/rows", f"{node.output}/flat"
    node.context.add(Reshape(rows, (source,), rows, shape=wide.shape), wide.shape)
    importer(node.part("Gemm", [rows, *node.inputs[1:]], flat, **node.attributes))
    node.context.wide[node.output] = Wide(flat, node.context.shapes[flat], (0, 1))


_STEPS: dict[str, Callable[[OnnxNode, Wide], None]] = {
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _turn,
}
