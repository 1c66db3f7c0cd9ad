"""Recurrent layers in float: (graph, node, [(N, T, I), starts (N, ..)]) -> (N, T, U)."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.functions import sigmoid
from tinyfleet_compiler.graph import Floats, Gated, Graph, Gru, LastCell, Lstm, Node


def _sums(node: Gated, side: int, values: Floats) -> Floats:
    """(N, G, U) of every gate over the input (side 0) or over the row before (side 1)."""
    weights = node.recurrent if side else node.weights
    return np.asarray(np.einsum("guf,nf->ngu", weights, values) + node.bias[side], np.float32)


def starts(node: Gated, values: list[Floats]) -> list[Floats]:
    """(N, U) hidden state, and cell of an LSTM, before the first row; `values` are the layer's inputs."""
    count, units, parts = len(values[0]), node.weights.shape[1], 1 if isinstance(node, Gru) else 2
    if len(values) > 1:
        return [given.reshape(count, units) for given in values[1 : 1 + parts]]
    start = np.zeros((parts, units), np.float32) if node.start is None else node.start
    return [np.broadcast_to(row, (count, units)) for row in start]


def run_lstm(node: Lstm, values: list[Floats]) -> tuple[Floats, Floats]:
    """(what it gives, its cell), both (N, T, U)."""
    x = values[0]
    hidden, cell = starts(node, values)
    shown, cells = [], []
    for row in range(x.shape[1]):
        gates = (_sums(node, 0, x[:, row]) + _sums(node, 1, hidden)).astype(np.float64)
        let, keep, out = (sigmoid(gates[:, gate]) for gate in (0, 1, 3))
        cell = (keep * cell + let * np.tanh(gates[:, 2])).astype(np.float32)
        hidden = (out * np.tanh(cell)).astype(np.float32)
        shown.append(hidden)
        cells.append(cell)
    return np.stack(shown, axis=1), np.stack(cells, axis=1)


def run_gru(node: Gru, values: list[Floats]) -> Floats:
    """(N, T, U)"""
    x = values[0]
    (hidden,) = starts(node, values)
    shown = []
    for row in range(x.shape[1]):
        over, back = _sums(node, 0, x[:, row]).astype(np.float64), _sums(node, 1, hidden).astype(np.float64)
        keep, reset = sigmoid(over[:, 0] + back[:, 0]), sigmoid(over[:, 1] + back[:, 1])
        if node.reset_first:
            new = np.tanh(over[:, 2] + _sums(node, 1, np.asarray(reset * hidden, np.float32))[:, 2])
        else:
            new = np.tanh(over[:, 2] + reset * back[:, 2])
        hidden = (keep * hidden + (1.0 - keep) * new).astype(np.float32)
        shown.append(hidden)
    return np.stack(shown, axis=1)


def _lstm(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Lstm)
    return run_lstm(node, values)[0]


def _gru(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Gru)
    return run_gru(node, values)


def _last_cell(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, LastCell)
    return run_lstm(node.layer, values[1:])[1][:, -1].reshape(len(values[0]), *graph.shapes[node.output])


GATE_RUNNERS: dict[type[Node], Callable[[Graph, Node, list[Floats]], Floats]] = {
    Lstm: _lstm,
    Gru: _gru,
    LastCell: _last_cell,
}
