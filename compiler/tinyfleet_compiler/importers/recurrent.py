"""Importers of LSTM and GRU, and of the moves around them that carry the batch past the time."""

import numpy as np

from tinyfleet_compiler.graph import Floats, Gated, Gru, LastCell, Lstm, Reshape, Shape, Slice, Transpose, elements
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.layout import MOST_STEPS

_HELP = "use one forward layer with its usual activations (sigmoid, tanh), without clip, peepholes and sequence lengths"
_LSTM_ORDER = [0, 2, 3, 1]
"""ONNX has input, output, forget, cell."""


def import_lstm(node: OnnxNode) -> None:
    """LSTM-7/14/22, one direction; it begins at zero, with constants or with tensors."""
    if node.has_input(7) or node.integer("input_forget", 0):
        raise UnsupportedError("has peepholes or couples its gates", _HELP)
    weights, recurrent, bias = _parameters(node, 4, ("Sigmoid", "Tanh", "Tanh"))
    order = _LSTM_ORDER
    both = np.stack([bias[0] + bias[1], np.zeros_like(bias[1])])[:, order]
    tensors, start = _start(node, (5, 6), weights.shape[1])
    inputs, output = (node.data(0), *tensors), _rows_name(node)
    weights, recurrent = weights[order], recurrent[order]
    _add(node, Lstm(node.name, inputs, output, weights=weights, recurrent=recurrent, bias=both, start=start))


def import_gru(node: OnnxNode) -> None:
    """GRU-7/14/22, one direction; it begins at zero, with constants or with a tensor."""
    weights, recurrent, bias = _parameters(node, 3, ("Sigmoid", "Tanh"))
    first = not node.integer("linear_before_reset", 0)
    joined = slice(None) if first else slice(2)  # what the reset gate fades keeps a bias of its own
    both = bias.copy()
    both[0, joined] += bias[1, joined]
    both[1, joined] = 0.0
    tensors, start = _start(node, (5,), weights.shape[1])
    if start is not None and np.abs(start).max() > 1.0:
        raise UnsupportedError("begins with a hidden state beyond 1, which no GRU gives", "begin within -1 .. 1")
    inputs, output = (node.data(0), *tensors), _rows_name(node)
    made = Gru(
        node.name, inputs, output, weights=weights, recurrent=recurrent, bias=both, start=start, reset_first=first
    )
    _add(node, made)


def _start(node: OnnxNode, indices: tuple[int, ...], units: int) -> tuple[tuple[str, ...], Floats | None]:
    """Tensors a layer begins with, or constants (1 or 2, U); nothing for zero."""
    constants = [i for i in indices if not node.has_input(i) or node.inputs[i] in node.context.constants]
    if constants and len(constants) < len(indices):
        raise UnsupportedError(
            "begins with one tensor and one constant", "give initial_h and initial_c, or neither, as inputs"
        )
    if constants:
        rows = [node.floats(i, "the first state") if node.has_input(i) else np.zeros(units) for i in indices]
        if any(row.size != units or not np.isfinite(row).all() for row in rows):
            raise UnsupportedError(f"begins with {[row.shape for row in rows]}", f"use {units} finite values each")
        start = np.stack([row.reshape(units) for row in rows]).astype(np.float32)
        return (), start if start.any() else None
    if any(elements(node.shape(i)) != units for i in indices):
        raise UnsupportedError(f"begins with {[node.shape(i) for i in indices]}", f"use {units} values each")
    return tuple(node.data(i) for i in indices), None


def _parameters(node: OnnxNode, gates: int, activations: tuple[str, ...]) -> tuple[Floats, Floats, Floats]:
    """(G, U, I), (G, U, U) and (2, G, U) in the file's order of gates."""
    given = tuple(bytes(a).decode("utf-8", "replace") for a in node.attributes.get("activations", ()))
    if given and tuple(a.lower() for a in given) != tuple(a.lower() for a in activations):
        raise UnsupportedError(f"has activations {', '.join(given)}", _HELP)
    if node.text("direction", "forward") != "forward":
        raise UnsupportedError(f"runs {node.text('direction', '')}", _HELP)
    if "clip" in node.attributes or node.has_input(4):
        raise UnsupportedError("has a clip or sequence lengths", _HELP)
    weights, recurrent = node.floats(1, "W"), node.floats(2, "R")
    units = node.integer("hidden_size", recurrent.shape[-1])
    features = _rows(node)[1]
    bias = node.floats(3, "B") if node.has_input(3) else np.zeros((1, 2 * gates * units), np.float32)
    wanted = ((1, gates * units, features), (1, gates * units, units), (1, 2 * gates * units))
    if units < 1 or (weights.shape, recurrent.shape, bias.shape) != wanted:
        raise UnsupportedError(f"has W {weights.shape}, R {recurrent.shape}, B {bias.shape}", f"use {wanted}")
    if not all(np.isfinite(part).all() for part in (weights, recurrent, bias)):
        raise UnsupportedError("has weights that are not finite", "train or export the model again")
    sides = bias.reshape(2, gates, units)
    return weights.reshape(gates, units, features), recurrent.reshape(gates, units, units), sides


def _rows_name(node: OnnxNode) -> str:
    return f"{next((output for output in node.proto.output if output), node.name)}/rows"


def _rows(node: OnnxNode) -> tuple[int, int]:
    """(steps, features) of the input, whose batch must be where `layout` says."""
    shape, wanted = node.shape(), 0 if node.integer("layout", 0) else 1
    at = node.context.batch_axes.get(node.data(0), 0)
    if len(shape) != 2 or (at != wanted and shape[0] != 1):
        raise UnsupportedError(
            f"reads {(1, *shape)} as a batch of {shape[0]}" if len(shape) == 2 else f"reads {(1, *shape)}",
            "give (steps, 1, features): transpose (1, steps, features), or set layout = 1",
        )
    if shape[0] > MOST_STEPS:
        raise UnsupportedError(f"reads {shape[0]} steps", f"use {MOST_STEPS} at most")
    return shape[0], shape[1]


def _add(node: OnnxNode, layer: Gated) -> None:
    """Y; Y_h, its last row, and Y_c where they are read."""
    (steps, _), units = _rows(node), layer.weights.shape[1]
    node.context.add(layer, (steps, units))
    first = bool(node.integer("layout", 0))
    outputs = [*node.proto.output, "", ""]
    node.require_size((steps, units))
    if outputs[0]:
        _shown(node, layer.output, outputs[0], (steps, 1, units), 0 if first else 2)
    if outputs[1] and node.context.is_read(outputs[1]):
        last = f"{outputs[1]}/last" if steps > 1 else layer.output
        if steps > 1:
            cut = Slice(f"{node.name}/last", (layer.output,), last, starts=(steps - 1, 0), steps=(1, 1))
            node.context.add(cut, (1, units))
        _shown(node, last, outputs[1], (1, units), 0 if first else 1)
    if outputs[2] and node.context.is_read(outputs[2]):
        assert isinstance(layer, Lstm), "a GRU has two outputs, and `_import_node` knows no third"
        cell = f"{outputs[2]}/last"
        end = LastCell(f"{node.name}/cell", (layer.output, *layer.inputs), cell, layer=layer)
        node.context.add(end, (1, units))
        _shown(node, cell, outputs[2], (1, units), 0 if first else 1)


def _shown(node: OnnxNode, source: str, output: str, shape: Shape, batch: int) -> None:
    node.context.add(Reshape(f"{node.name}/{output}", (source,), output, shape=shape), shape)
    if batch:
        node.context.batch_axes[output] = batch


def transpose_batch(node: OnnxNode) -> bool:
    """Transpose where the batch moves: only the other axes, in their new order, move data. False: it stays first."""
    rank = len(node.shape()) + 1
    perm = node.ints("perm", tuple(reversed(range(rank))))
    at = node.context.batch_axes.get(node.data(0), 0)
    if sorted(perm) != list(range(rank)) or (perm[0] == 0 and at == 0):
        return False
    inner = tuple(p - (p > at) for p in perm if p != at)
    shape = tuple(node.shape()[p] for p in inner)
    if inner == tuple(range(len(inner))):
        node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    else:
        node.context.add(Transpose(node.name, (node.data(0),), node.output, perm=inner), shape)
    if perm.index(at):
        node.context.batch_axes[node.output] = perm.index(at)
    return True


def squeeze_batch(node: OnnxNode, axes: tuple[int, ...]) -> bool:
    """Squeeze of a tensor whose batch is not its first axis. False: it is."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    old = [*node.shape()[:at], 1, *node.shape()[at:]]
    if at in axes or any(old[a] != 1 for a in axes) or len(old) - len(axes) < 2:
        raise UnsupportedError(f"squeezes axes {axes} of {tuple(old)}", "keep the batch, squeeze only axes of 1")
    shape = tuple(d for i, d in enumerate(old) if i not in axes and i != at)
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    if now := at - sum(a < at for a in axes):
        node.context.batch_axes[node.output] = now
    return True


def unsqueeze_batch(node: OnnxNode, axes: tuple[int, ...]) -> bool:
    """Unsqueeze of a tensor whose batch is not its first axis. False: it is."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    places = [("batch", 1) if i == at else ("", d) for i, d in enumerate((*node.shape()[:at], 1, *node.shape()[at:]))]
    for axis in sorted(axes):
        places.insert(axis, ("", 1))
    if len(places) > 4:
        raise UnsupportedError(f"makes {len(places)} dimensions", "use two to four dimensions")
    shape = tuple(d for name, d in places if not name)
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    node.context.batch_axes[node.output] = places.index(("batch", 1))
    return True


def reshape_batch(node: OnnxNode, target: list[int]) -> bool:
    """Reshape where the batch is not the first axis: it stays, or becomes the first (wide.py takes the others). False:
    it is the first."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    if at < len(target) and target[at] == 1 and elements(tuple(target[:at])) == elements(node.shape()[:at]):
        shape = tuple(d for i, d in enumerate(target) if i != at)
        node.context.batch_axes[node.output] = at
    else:
        shape = tuple(target[1:])
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    return True
