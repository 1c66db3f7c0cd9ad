"""Cross-layer equalisation: channel ranges move from one layer's output into the next layer's weights.

conv(W1, b1) -> relu -> conv(W2)   =>   conv(W1 / s, b1 / s) -> relu -> conv(W2 * s), s a channel, the same function
(Nagel et al. 2019, "Data-Free Quantization", with observed activation ranges in place of the first layer's weights).
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats, run_tensors
from tinyfleet_compiler.graph import INFINITY, Conv, ConvTranspose, Gemm, Graph, Node

_MOST = 8.0
"""Largest factor of a channel, either way."""


def equalize_layers(graph: Graph, inputs: dict[str, Floats]) -> Graph:
    """The same function with channel ranges evened out between neighbouring layers; unchanged where none can be."""
    pairs = {first.output: second for first, second in _pairs(graph)}
    ranges = _channel_ranges(graph, inputs, set(pairs))
    nodes: dict[str, Node] = {node.output: node for node in graph.nodes}
    for output, second in pairs.items():
        first, after = nodes[output], nodes[second.output]
        assert isinstance(first, (Conv, Gemm))
        assert isinstance(after, (Conv, Gemm))
        factors = _factors(ranges[output], _input_weights(after))
        nodes[output] = _scaled_outputs(first, 1.0 / factors)
        nodes[second.output] = _scaled_inputs(after, factors)
    return graph.with_nodes(nodes[node.output] for node in graph.nodes)


def _pairs(graph: Graph) -> list[tuple[Conv | Gemm, Conv | Gemm]]:
    """Layers whose output, linear or rectified, only one layer reads, channel by channel."""
    found = []
    for first in graph.nodes:
        second = graph.only_consumer(first.output)
        if not _is_layer(first) or second is None or not _is_layer(second) or first.output in graph.views.values():
            continue
        assert isinstance(first, (Conv, Gemm))
        assert isinstance(second, (Conv, Gemm))
        homogeneous = first.low in (0.0, -INFINITY) and first.high == INFINITY
        plain = isinstance(second, Gemm) or second.groups in (1, len(first.weights))
        per_channel = isinstance(second, Gemm) == isinstance(first, Gemm)
        if homogeneous and plain and per_channel:
            found.append((first, second))
    return found


def _is_layer(node: Node) -> bool:
    return isinstance(node, (Conv, Gemm)) and not isinstance(node, ConvTranspose)


def _channel_ranges(graph: Graph, inputs: dict[str, Floats], names: set[str]) -> dict[str, npt.NDArray[np.float64]]:
    found: dict[str, npt.NDArray[np.float64]] = {}
    for tensors in run_tensors(graph, inputs) if names else ():
        for name in names:
            largest = np.abs(tensors[name]).reshape(-1, tensors[name].shape[-1]).max(axis=0).astype(np.float64)
            found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _input_weights(node: Conv | Gemm) -> npt.NDArray[np.float64]:
    """Largest weight each input channel meets."""
    w = np.abs(node.weights.astype(np.float64))
    if isinstance(node, Conv) and node.groups > 1:
        times = len(w) // node.groups
        return np.asarray(w.reshape(node.groups, times, -1).max(axis=(1, 2)))
    return np.asarray(w.reshape(-1, w.shape[-1]).max(axis=0))


def _factors(ranges: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Geometric middle of both ranges, around 1; a channel that is always zero stays."""
    usable = (ranges > 0) & (weights > 0)
    real = np.sqrt(np.where(usable, ranges, 1.0) / np.where(usable, weights, 1.0))
    centre = float(np.exp(np.log(real[usable]).mean())) if usable.any() else 1.0
    return np.where(usable, np.clip(real / centre, 1.0 / _MOST, _MOST), 1.0)


def _scaled_outputs(node: Conv | Gemm, factors: npt.NDArray[np.float64]) -> Conv | Gemm:
    shape = (-1, *[1] * (node.weights.ndim - 1))
    weights = (node.weights * factors.reshape(shape)).astype(np.float32)
    return replace(node, weights=weights, bias=(node.bias * factors).astype(np.float32))


def _scaled_inputs(node: Conv | Gemm, factors: npt.NDArray[np.float64]) -> Conv | Gemm:
    if isinstance(node, Conv) and node.groups > 1:
        repeated = np.repeat(factors, len(node.weights) // node.groups)
        return replace(node, weights=(node.weights * repeated.reshape(-1, 1, 1, 1)).astype(np.float32))
    return replace(node, weights=(node.weights * factors).astype(np.float32))
