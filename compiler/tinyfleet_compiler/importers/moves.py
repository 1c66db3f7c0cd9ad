"""Importers that cut, join and rearrange tensors: Concat, Slice, Split, Gather, DepthToSpace, SpaceToDepth."""

import numpy as np

from tinyfleet_compiler.graph import DepthToSpace, Floats, Gather, Reshape, Shape, Slice, SpaceToDepth
from tinyfleet_compiler.importers.batch_axis import inner_axis, keep_moved, moved_axis
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.joins import joined_shape, joins

MOST_INDEX = 32_767


def sample_axis(axis: int, rank: int, *, batch: bool = False) -> int:
    """Axis counted from the batch on. Raises `UnsupportedError` outside the rank, and for the batch itself."""
    if not -rank <= axis < rank or (axis % rank == 0 and not batch):
        raise UnsupportedError(f"works along axis {axis} of {rank}", "use an axis after the batch")
    return axis % rank


def require_positive(shape: Shape) -> None:
    """Raises `UnsupportedError` for a shape without elements."""
    if min(shape) < 1:
        raise UnsupportedError(f"leaves nothing: {shape}", "keep at least one element of every axis")


def import_concat(node: OnnxNode) -> None:
    """Concat-11/13 of activations and constants along any axis but the batch."""
    read = [i for i, name in enumerate(node.inputs) if name not in node.context.constants]
    batch = moved_axis(node, read[0])
    if any(moved_axis(node, i) != batch for i in read):
        raise UnsupportedError("joins tensors whose batch is not the same axis", "transpose them alike first")
    operands = [node.data(i) if i in read else _constant_part(node, i, batch) for i in range(len(node.inputs))]
    shapes = [node.context.shapes[part] if isinstance(part, str) else part.shape for part in operands]
    axis = inner_axis(node.integer("axis", 1), len(shapes[0]) + 1, batch)
    rest = {(len(s), *s[:axis], *s[axis + 1 :]) for s in shapes}
    if len(rest) != 1:
        raise UnsupportedError(f"joins {', '.join(map(str, shapes))}", "give inputs that differ along the axis only")
    made = joins(operands, axis, node.name, node.output)
    for part in made:
        node.context.add(part, joined_shape(part, node.context.shapes))
    if not made:
        node.context.aliases[node.output] = node.data(read[0])
    keep_moved(node)


def _constant_part(node: OnnxNode, index: int, batch: int) -> Floats:
    constant = node.floats(index, f"input {index}")
    if constant.ndim <= batch or constant.shape[batch] != 1:
        raise UnsupportedError(f"has a constant of shape {constant.shape}", "give it a batch of 1")
    if not np.isfinite(constant).all():
        raise UnsupportedError("has a constant that is not finite", "export the model again")
    return np.asarray(constant.take(0, axis=batch))


def import_slice(node: OnnxNode) -> None:
    """Slice-10/11/13 with constant bounds; steps may be negative."""
    batch = moved_axis(node)
    shape = (*node.shape()[:batch], 1, *node.shape()[batch:])
    cuts = slice_cuts(node, shape)
    if cuts.pop(batch) != range(1):
        raise UnsupportedError("cuts the batch", "slice the other axes only")
    _cut(node, cuts, node.name, node.output)
    keep_moved(node)


def slice_cuts(node: OnnxNode, shape: Shape) -> list[range]:
    """What a Slice takes of every axis of `shape`. Raises `UnsupportedError`."""
    starts, ends = node.constant(1, "starts").reshape(-1), node.constant(2, "ends").reshape(-1)
    axes = node.constant(3, "axes").reshape(-1) if node.has_input(3) else np.arange(len(starts))
    steps = node.constant(4, "steps").reshape(-1) if node.has_input(4) else np.ones(len(starts), np.int64)
    if not len(starts) == len(ends) == len(axes) == len(steps) or (np.asarray(steps) == 0).any():
        raise UnsupportedError("has bounds of different lengths or a step of 0", "export the model again")
    cuts = [range(size) for size in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = sample_axis(int(axis), len(shape), batch=True)
        cuts[at] = range(*slice(int(start), int(end), int(step)).indices(shape[at]))
    return cuts


def _cut(node: OnnxNode, cuts: list[range], name: str, output: str) -> None:
    shape = tuple(len(c) for c in cuts)
    require_positive(shape)
    starts, steps = tuple(c.start for c in cuts), tuple(c.step for c in cuts)
    node.context.add(Slice(name, (node.data(0),), output, starts=starts, steps=steps), shape)


def import_split(node: OnnxNode) -> None:
    """Split-11/13/18: one slice per output that is named."""
    shape = node.shape()
    axis = inner_axis(node.integer("axis", 0), len(shape) + 1, moved_axis(node))
    start = 0
    for index, (output, size) in enumerate(zip(node.proto.output, split_sizes(node, shape[axis]), strict=True)):
        cuts = [range(d) for d in shape]
        cuts[axis] = range(start, start + size)
        _cut(node, cuts, f"{node.name}/{index}", output)
        start += size
    keep_moved(node)


def split_sizes(node: OnnxNode, size: int) -> list[int]:
    """What a Split gives each output of an axis of `size`. Raises `UnsupportedError`."""
    outputs = len(node.proto.output)
    if node.has_input(1):
        sizes = [int(s) for s in np.ravel(node.constant(1, "split"))]
    else:
        share = -(-size // outputs)
        sizes = list(node.ints("split", (*[share] * (outputs - 1), size - share * (outputs - 1))))
    if len(sizes) != outputs or sum(sizes) != size or min(sizes) < 1:
        raise UnsupportedError(f"splits {size} into {sizes}", "give every output a positive share")
    return sizes


def import_gather(node: OnnxNode) -> None:
    """Gather-1/11/13 with constant indices of any rank; evenly spaced indices are a slice."""
    shape = node.shape()
    batch = moved_axis(node)
    axis = inner_axis(node.integer("axis", 0), len(shape) + 1, batch)
    given = node.constant(1, "the index list")
    rest = (*shape[:axis], *given.shape, *shape[axis + 1 :]) or (1,)
    if given.size == 0 or given.dtype.kind not in "iu" or len(rest) > 3:
        raise UnsupportedError(f"takes indices of shape {given.shape}", "use one index or a list of indices")
    indices = [int(i) for i in given.reshape(-1)]
    if any(not -shape[axis] <= i < shape[axis] for i in indices) or shape[axis] > MOST_INDEX:
        raise UnsupportedError(f"takes indices outside 0 .. {shape[axis] - 1}", "use indices that exist")
    indices = [i % shape[axis] for i in indices]
    output = f"{node.output}/kept" if given.ndim != 1 else node.output
    _take(node, indices, axis, output)
    if given.ndim != 1:
        node.context.add(Reshape(node.name, (output,), node.output, shape=rest), rest)
    if batch and (now := batch + (given.ndim - 1 if axis < batch else 0)):
        node.context.batch_axes[node.output] = now


def _take(node: OnnxNode, indices: list[int], axis: int, output: str) -> None:
    shape = node.shape()
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    name = node.name if output == node.output else f"{node.name}/kept"
    even = range(indices[0], indices[0] + step * len(indices), step) if step else range(0)
    if list(even) == indices:
        cuts = [range(d) for d in shape]
        cuts[axis] = even
        _cut(node, cuts, name, output)
        return
    result = (*shape[:axis], len(indices), *shape[axis + 1 :])
    node.context.add(Gather(name, (node.data(0),), output, axis=axis, indices=tuple(indices)), result)


def import_depth_to_space(node: OnnxNode) -> None:
    """DepthToSpace-1/11/13; mode CRD is DCR after a reordering of channels, which a convolution before it takes in."""
    channels, *_ = node.image_shape()
    block = node.integer("blocksize", 0)
    mode = node.text("mode", "DCR")
    if block < 1 or channels % (block * block) or mode not in ("DCR", "CRD"):
        raise UnsupportedError(f"mode '{mode}', blocksize {block} for {channels} channels", "export the model again")
    order = np.arange(channels).reshape(channels // block**2, -1) if mode == "CRD" else np.arange(channels)
    add_depth_to_space(node, node.data(0), block, tuple(int(i) for i in order.T.reshape(-1)))


def add_depth_to_space(node: OnnxNode, source: str, block: int, order: tuple[int, ...]) -> None:
    """Channels of `source` in this order, then mode DCR."""
    (channels, height, width), area = node.context.shapes[source], block * block
    if order != tuple(range(channels)):
        made = f"{node.output}/channels"
        node.context.add(Gather(made, (source,), made, axis=0, indices=order), (channels, height, width))
        source = made
    move = DepthToSpace(node.name, (source,), node.output, block=block)
    node.context.add(move, (channels // area, height * block, width * block))


def import_space_to_depth(node: OnnxNode) -> None:
    """SpaceToDepth-1/13."""
    channels, height, width = node.image_shape()
    block = node.integer("blocksize", 0)
    if block < 1 or height % block or width % block:
        raise UnsupportedError(f"blocksize {block} does not divide {height} x {width}", "export the model again")
    move = SpaceToDepth(node.name, (node.data(0),), node.output, block=block)
    node.context.add(move, (channels * block * block, height // block, width // block))
