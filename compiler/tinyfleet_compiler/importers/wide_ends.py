"""What a tensor of more than four dimensions has become where it has four or fewer again."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import Gather, Reshape, Shape, SpaceToDepth, Transpose, elements
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.moves import MOST_INDEX, add_depth_to_space

Places = npt.NDArray[np.int64]
MOST_AXES = 4
HELP = "keep the batch as first axis and two to four dimensions; more are taken between reshapes that move data only"


@dataclass(frozen=True)
class Wide:
    """On the way: `source` seen as `dims`, its axes in the order `perm`; the batch is any axis of 1, or none."""

    source: str
    dims: Shape
    perm: Shape

    @property
    def shape(self) -> Shape:
        """As the file has it."""
        return tuple(self.dims[p] for p in self.perm)


def end(node: OnnxNode, wide: Wide, target: Shape) -> None:
    """Write the node's output, of shape `target` without its batch. Raises `UnsupportedError`."""
    places = np.arange(elements(wide.dims)).reshape(wide.dims).transpose(wide.perm).reshape(target)
    if not any(take(node, wide, places) for take in (_gather, _depth_to_space, _space_to_depth, _transpose)):
        raise UnsupportedError(f"moves {wide.dims} to the order {wide.perm}", HELP)


def _gather(node: OnnxNode, wide: Wide, places: Places) -> bool:
    """Another order along one axis: the shuffle of channels between groups."""
    shape = node.context.shapes[wide.source]
    if places.shape != shape:
        return False
    numbers = np.arange(places.size).reshape(shape)
    for axis in range(len(shape)):
        along = np.moveaxis(places, axis, 0).reshape(shape[axis], -1)[:, 0]
        order = along // elements(shape[axis + 1 :]) % shape[axis]
        if shape[axis] <= MOST_INDEX and (np.take(numbers, order, axis) == places).all():
            _take(node, wide.source, axis, order)
            return True
    return False


def _take(node: OnnxNode, source: str, axis: int, order: Places) -> None:
    indices = tuple(int(i) for i in order)
    if indices == tuple(range(len(indices))):
        node.context.aliases[node.output] = source
        return
    shape = node.context.shapes[source]
    node.context.add(Gather(node.name, (source,), node.output, axis=axis, indices=indices), shape)


def _depth_to_space(node: OnnxNode, wide: Wide, places: Places) -> bool:
    shape = node.context.shapes[wide.source]
    if len(shape) != 3 or places.ndim != 3 or places.shape[1] % shape[1]:
        return False
    (channels, height, width), block = shape, places.shape[1] // shape[1]
    if block < 2 or places.shape != (channels // block**2, height * block, width * block):
        return False
    order = places[:, :block, :block].transpose(1, 2, 0).reshape(-1) // (height * width)
    blocks = np.arange(places.size).reshape(shape)[order].reshape(block, block, -1, height, width)
    if (blocks.transpose(2, 3, 0, 4, 1).reshape(places.shape) != places).any():
        return False
    add_depth_to_space(node, wide.source, block, tuple(int(i) for i in order))
    return True


def _space_to_depth(node: OnnxNode, wide: Wide, places: Places) -> bool:
    shape = node.context.shapes[wide.source]
    if len(shape) != 3 or places.ndim != 3 or shape[1] % places.shape[1]:
        return False
    (channels, height, width), block = shape, shape[1] // places.shape[1]
    rows, columns = height // block, width // block
    if block < 2 or width % block or places.shape != (channels * block**2, rows, columns):
        return False
    blocks = np.arange(places.size).reshape(channels, rows, block, columns, block)
    moved = blocks.transpose(2, 4, 0, 1, 3).reshape(places.shape)
    sorted_by = np.argsort(moved[:, 0, 0])
    order = sorted_by[np.searchsorted(moved[:, 0, 0], places[:, 0, 0], sorter=sorted_by) % len(sorted_by)]
    if (moved[order] != places).any():
        return False
    made = f"{node.output}/blocks"
    node.context.add(SpaceToDepth(made, (wide.source,), made, block=block), places.shape)
    _take(node, made, 0, order)
    return True


def _transpose(node: OnnxNode, wide: Wide, places: Places) -> bool:
    """Any other order of at most three axes, where axes that stay together count as one."""
    kept = [axis for axis, size in enumerate(wide.dims) if size != 1]
    runs: list[list[int]] = []
    for axis in (kept.index(p) for p in wide.perm if p in kept):
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) > MOST_AXES - 1:
        return False
    source, straight = wide.source, sorted(runs)
    if len(runs) > 1:
        joined = tuple(elements(tuple(wide.dims[kept[a]] for a in run)) for run in straight)
        perm = tuple(straight.index(run) for run in runs)
        flat, turned = f"{node.output}/joined", f"{node.output}/turned"
        node.context.add(Reshape(flat, (source,), flat, shape=joined), joined)
        node.context.add(Transpose(turned, (flat,), turned, perm=perm), tuple(joined[p] for p in perm))
        source = turned
    node.context.add(Reshape(node.name, (source,), node.output, shape=places.shape), places.shape)
    return True
