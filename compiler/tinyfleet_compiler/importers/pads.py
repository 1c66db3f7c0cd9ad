"""Importer of Pad: a constant around a tensor, or its own values again: mirrored, of its edge, of its other end."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import Gather, Node, Pad, Resize, Shape, Slice
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.moves import MOST_INDEX, require_positive, sample_axis
from tinyfleet_compiler.importers.qdq import read_number

MOST_PAD = 65_535
_HUGE = 1e30
Places = npt.NDArray[np.int64]
PLACES: dict[str, Callable[[Places, int], Places]] = {
    "reflect": lambda at, size: (size - 1) - np.abs((at % max(2 * size - 2, 1)) - (size - 1)),
    "edge": lambda at, size: np.clip(at, 0, size - 1),
    "wrap": lambda at, size: at % size,
    "symmetric": lambda at, size: np.where(at % (2 * size) < size, at % (2 * size), 2 * size - 1 - at % (2 * size)),
}
"""Which element of an axis stands at position `at` before, inside or after it."""


def import_pad(node: OnnxNode) -> None:
    """Pad-2/11/13/18/19 around any axis but the batch, in every mode; negative pads cut."""
    mode = node.text("mode", "constant")
    if mode in PLACES:
        shape = node.shape()
        for made, result in take_places(
            node.name, node.data(0), node.output, shape, places_of(mode, shape, *_pads(node))
        ):
            node.context.add(made, result)
        return
    if mode != "constant":
        raise UnsupportedError(f"pads by '{mode}'", f"use constant, {', '.join(PLACES)}")
    value = read_number(node, 2, "the pad value") if node.has_input(2) else node.real("value", 0.0)
    if not abs(value) < _HUGE:
        raise UnsupportedError(f"pads with {value}", "pad with a number that activations can hold, or inside MaxPool")
    before, after = _pads(node)
    source, shape = node.data(0), node.shape()
    if min(*before, *after) < 0:
        starts = tuple(max(-b, 0) for b in before)
        shape = tuple(d - s - max(-a, 0) for d, s, a in zip(shape, starts, after, strict=True))
        require_positive(shape)
        source = f"{node.output}/cut"
        node.context.add(
            Slice(f"{node.name}/cut", (node.data(0),), source, starts=starts, steps=(1,) * len(shape)), shape
        )
    before, after = tuple(max(b, 0) for b in before), tuple(max(a, 0) for a in after)
    padded = tuple(sum(parts) for parts in zip(before, shape, after, strict=True))
    pad = Pad(node.name, (source,), node.output, before=before, after=after, value=value)
    node.context.add(pad, padded)


def _pads(node: OnnxNode) -> tuple[Shape, Shape]:
    pads = [int(p) for p in np.ravel(node.constant(1, "pads"))] if node.has_input(1) else list(node.ints("pads", ()))
    rank = len(node.shape()) + 1
    axes = list(range(rank))
    if node.has_input(3):
        axes = [sample_axis(int(a), rank, batch=True) for a in np.ravel(node.constant(3, "axes"))]
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes) or max(map(abs, pads), default=0) > MOST_PAD:
        raise UnsupportedError(f"pads {pads} over axes {axes}", f"give two pads per axis, at most {MOST_PAD}")
    before, after = [0] * rank, [0] * rank
    for at, axis in enumerate(axes):
        before[axis], after[axis] = pads[at], pads[at + len(axes)]
    if before[0] or after[0]:
        raise UnsupportedError("pads the batch", "pad the other axes only")
    return tuple(before[1:]), tuple(after[1:])


def places_of(mode: str, shape: Shape, before: Shape, after: Shape) -> list[tuple[int, ...]]:
    """Element that every position of each axis takes. Raises `UnsupportedError` when nothing or too much is left."""
    found = []
    for size, b, a in zip(shape, before, after, strict=True):
        count = b + size + a
        if not 1 <= count <= MOST_INDEX or size > MOST_INDEX:
            raise UnsupportedError(f"pads {size} by {b} and {a}", f"keep 1 to {MOST_INDEX} elements along an axis")
        found.append(tuple(int(p) for p in PLACES[mode](np.arange(-b, size + a), size)))
    return found


def take_places(
    name: str, source: str, output: str, shape: Shape, places: list[tuple[int, ...]], image_axes: Shape = (1, 2)
) -> Iterator[tuple[Node, Shape]]:
    """Nodes with the shapes they write, that take `places` along every axis of `shape`; the last one writes `output`.

    Rows and columns of an image (`image_axes` of three) are one node, every other axis one of its own.
    """
    steps: list[Shape] = [(axis,) for axis, taken in enumerate(places) if taken != tuple(range(shape[axis]))]
    if len(shape) == 3 and all((axis,) in steps for axis in image_axes):
        steps = [*(s for s in steps if s[0] not in image_axes), image_axes]
    for number, axes in enumerate(steps or [(0,)]):
        target = output if number >= len(steps) - 1 else f"{output}/step{number}"
        shape = tuple(len(places[axis]) if axis in axes else size for axis, size in enumerate(shape))
        step = name if target == output else target
        if len(axes) == 1:
            yield Gather(step, (source,), target, axis=axes[0], indices=places[axes[0]]), shape
        else:
            rows, columns = (tuple(float(p) for p in places[axis]) for axis in axes)
            yield Resize(step, (source,), target, rows=rows, columns=columns, linear=False), shape
        source = target
