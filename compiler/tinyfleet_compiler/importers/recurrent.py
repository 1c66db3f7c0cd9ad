"""Importers of LSTM and GRU, and of the moves around them that carry the batch past the time."""

import numpy as np

from tinyfleet_compiler.graph import Floats, Gated, Gru, Lstm, Reshape, Shape, Slice, Transpose
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.layout import MOST_STEPS

_HELP = "use one forward layer with its usual activations (sigmoid, tanh), without clip, peepholes and sequence lengths"
_LSTM_ORDER = [0, 2, 3, 1]
"""ONNX has input, output, forget, cell."""
TAKE_MOVED = ("GRU", "LSTM", "Squeeze", "Transpose")
"""Operators that read tensors whose batch is not their first axis."""


def import_lstm(node: OnnxNode) -> None:
    """LSTM-7/14/22, one direction; begins anew with every inference."""
    if node.has_input(7) or node.integer("input_forget", 0):
        raise UnsupportedError("has peepholes or couples its gates", _HELP)
    weights, recurrent, bias = _parameters(node, 4, ("Sigmoid", "Tanh", "Tanh"))
    for index in (5, 6):
        _require_zero(node, index)
    order = _LSTM_ORDER
    both = np.stack([bias[0] + bias[1], np.zeros_like(bias[1])])[:, order]
    layer = Lstm(
        node.name, (node.data(0),), _rows_name(node), weights=weights[order], recurrent=recurrent[order], bias=both
    )
    _add(node, layer)


def import_gru(node: OnnxNode) -> None:
    """GRU-7/14/22 with linear_before_reset = 1, one direction; begins anew with every inference."""
    if not node.integer("linear_before_reset", 0):
        raise UnsupportedError(
            "resets before the product (linear_before_reset = 0)",
            "use linear_before_reset = 1: PyTorch, or Keras with reset_after",
        )
    weights, recurrent, bias = _parameters(node, 3, ("Sigmoid", "Tanh"))
    _require_zero(node, 5)
    both = bias.copy()
    both[0, :2] += bias[1, :2]
    both[1, :2] = 0.0
    layer = Gru(node.name, (node.data(0),), _rows_name(node), weights=weights, recurrent=recurrent, bias=both)
    _add(node, layer)


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


def _require_zero(node: OnnxNode, index: int) -> None:
    if not node.has_input(index):
        return
    if node.inputs[index] not in node.context.constants or np.any(node.context.constants[node.inputs[index]]):
        raise UnsupportedError(
            "begins with a state that is given or not zero", "leave initial_h and initial_c out; it begins at zero"
        )


def _add(node: OnnxNode, layer: Gated) -> None:
    """Y, and Y_h where it is read: the last row of Y."""
    (steps, _), units = _rows(node), layer.weights.shape[1]
    node.context.add(layer, (steps, units))
    first = bool(node.integer("layout", 0))
    outputs = [*node.proto.output, "", ""]
    node.require_size((steps, units))
    if outputs[0]:
        _shown(node, layer.output, outputs[0], (steps, 1, units), 0 if first else 2)
    if outputs[1] and node.context.is_read(outputs[1]):
        last = f"{outputs[1]}/last"
        node.context.add(
            Slice(f"{node.name}/last", (layer.output,), last, starts=(steps - 1, 0), steps=(1, 1)), (1, units)
        )
        _shown(node, last, outputs[1], (1, units), 0 if first else 1)
    if outputs[2] and node.context.is_read(outputs[2]):
        raise UnsupportedError("gives its cell out (Y_c)", "use Y or Y_h only")


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
