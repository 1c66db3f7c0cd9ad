"""Float forms of the nodes that move elements, over a batch (N, ...) in device order."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.graph import Concat, DepthToSpace, Floats, Gather, Graph, Node, Pad, Resize, Slice, SpaceToDepth


def _pad(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Pad)
    widths = [(0, 0), *zip(node.before, node.after, strict=True)]
    return np.pad(values[0], widths, constant_values=node.value)


def _concat(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Concat)
    if node.constant is not None:
        same = np.broadcast_to(node.constant, (len(values[0]), *node.constant.shape))
        values = [same, *values] if node.swapped else [*values, same]
    return np.concatenate(values, axis=node.axis + 1)


def _slice(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Slice)
    result = values[0]
    for axis, size in enumerate(graph.shapes[node.output]):
        result = result.take(node.starts[axis] + np.arange(size) * node.steps[axis], axis + 1)
    return result


def _gather(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Gather)
    return values[0].take(np.array(node.indices), node.axis + 1)


def _resize(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Resize)
    return _blend(_blend(values[0], node.rows, 1), node.columns, 2)


def _blend(x: Floats, places: tuple[float, ...], axis: int) -> Floats:
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = len(places)
    weight = (np.array(places) - low).astype(np.float32).reshape(shape)
    return np.asarray(x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight)


def _depth_to_space(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, DepthToSpace)
    x, b = values[0], node.block
    count, height, width, channels = x.shape
    parts = x.reshape(count, height, width, b, b, channels // (b * b)).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(count, height * b, width * b, -1)


def _space_to_depth(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, SpaceToDepth)
    x, b = values[0], node.block
    count, height, width, channels = x.shape
    parts = x.reshape(count, height // b, b, width // b, b, channels).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(count, height // b, width // b, -1)


MOVE_RUNNERS: dict[type[Node], Callable[[Graph, Node, list[Floats]], Floats]] = {
    Pad: _pad,
    Concat: _concat,
    Slice: _slice,
    Gather: _gather,
    Resize: _resize,
    DepthToSpace: _depth_to_space,
    SpaceToDepth: _space_to_depth,
}
