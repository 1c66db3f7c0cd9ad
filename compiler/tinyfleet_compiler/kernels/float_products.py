"""Float forms of products of activations, selections and normalisations, over a batch (N, ...) in device order."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.graph import Floats, Graph, MatMul, Node, Normalize, TopK


def _matmul(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, MatMul)
    a = values[0].transpose(0, *(axis + 1 for axis in node.a_axes))
    second = values[-1] if node.constant is None else node.constant[None]
    b = second.transpose(0, *(axis + 1 for axis in node.b_axes))
    back = np.argsort(node.out_axes)
    return np.asarray((np.float32(node.alpha) * (a @ b)).transpose(0, *(axis + 1 for axis in back)))


def _top_k(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, TopK)
    axis = node.axis + 1 if node.axis >= 0 else node.axis
    order = np.argsort(-values[0] if node.largest else values[0], axis=axis, kind="stable")
    order = np.take(order, np.arange(node.k), axis)
    return np.asarray(order if node.indices else np.take_along_axis(values[0], order, axis), np.float32)


def _normalize(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Normalize)
    x = values[0].astype(np.float64)
    axes = tuple(axis + 1 for axis in node.axes)
    if node.groups:  # channels are last
        x = x.reshape(len(x), -1, node.groups, x.shape[-1] // node.groups)
        axes = (1, 3)
    x = x - x.mean(axis=axes, keepdims=True) if node.centred else x
    y = x / np.sqrt(np.square(x).mean(axis=axes, keepdims=True) + node.epsilon)
    return np.asarray(y.reshape(values[0].shape) * node.gamma + node.beta, np.float32)


PRODUCT_RUNNERS: dict[type[Node], Callable[[Graph, Node, list[Floats]], Floats]] = {
    MatMul: _matmul,
    TopK: _top_k,
    Normalize: _normalize,
}
