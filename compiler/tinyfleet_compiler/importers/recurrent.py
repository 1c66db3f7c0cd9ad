"""Importers of LSTM and GRU, and of the moves around them that carry the batch past the time."""

from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.graph import (
    Concat,
    Floats,
    Gated,
    Gru,
    LastCell,
    Lstm,
    Reshape,
    Shape,
    Slice,
    elements,
)
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.layout import MOST_STEPS

_HELP = "use its usual activations (sigmoid, tanh), no clip, peepholes or sequence lengths, a direction that ONNX names"
_LSTM_ORDER = [0, 2, 3, 1]
"""ONNX has input, output, forget, cell."""
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each of the layers of a node runs backwards."""


@dataclass(frozen=True)
class _Way:
    """One direction of a node: the layer that runs it, from the rows it reads to those it gives."""

    index: int
    backwards: bool
    name: str
    source: str
    output: str


def import_lstm(node: OnnxNode) -> None:
    """LSTM-7/14/22 in every direction; it begins at zero, with constants or with tensors."""
    if node.has_input(7) or node.integer("input_forget", 0):
        raise UnsupportedError("has peepholes or couples its gates", _HELP)
    weights, recurrent, bias = _parameters(node, 4, ("Sigmoid", "Tanh", "Tanh"))
    tensors, start = _start(node, (5, 6), *weights.shape[::2])
    layers: list[Gated] = []
    for way in _ways(node):
        at = way.index
        both = np.stack([bias[at].sum(axis=0), np.zeros_like(bias[at, 0])])[:, _LSTM_ORDER]
        parts = {"weights": weights[at][_LSTM_ORDER], "recurrent": recurrent[at][_LSTM_ORDER], "bias": both}
        layers.append(Lstm(way.name, (way.source, *tensors[at]), way.output, **parts, start=start[at]))
    _add(node, layers)


def import_gru(node: OnnxNode) -> None:
    """GRU-7/14/22 in every direction; it begins at zero, with constants or with a tensor."""
    weights, recurrent, bias = _parameters(node, 3, ("Sigmoid", "Tanh"))
    first = not node.integer("linear_before_reset", 0)
    joined = slice(None) if first else slice(2)  # what the reset gate fades keeps a bias of its own
    both = bias.copy()
    both[:, 0, joined] += bias[:, 1, joined]
    both[:, 1, joined] = 0.0
    tensors, start = _start(node, (5,), *weights.shape[::2])
    if any(one is not None and np.abs(one).max() > 1.0 for one in start):
        raise UnsupportedError("begins with a hidden state beyond 1, which no GRU gives", "begin within -1 .. 1")
    layers: list[Gated] = []
    for way in _ways(node):
        at = way.index
        parts = {"weights": weights[at], "recurrent": recurrent[at], "bias": both[at]}
        made = Gru(way.name, (way.source, *tensors[at]), way.output, **parts, start=start[at], reset_first=first)
        layers.append(made)
    _add(node, layers)


def _directions(node: OnnxNode) -> tuple[bool, ...]:
    direction = node.text("direction", "forward")
    if direction not in _DIRECTIONS:
        raise UnsupportedError(f"runs {direction}", _HELP)
    return _DIRECTIONS[direction]


def _ways(node: OnnxNode) -> list[_Way]:
    """The directions of a node; a layer that runs backwards runs forwards over rows that are turned round."""
    source, rows, directions = node.data(0), _rows_name(node), _directions(node)
    made = []
    taken = {layer.name for layer in node.context.nodes if isinstance(layer, Gated)}
    for index, backwards in enumerate(directions):
        end = ("/forward", "/backward")[backwards] if len(directions) > 1 else ""
        # Layers keep states under their names, which a file may give twice, or not at all.
        name = node.name if node.name and f"{node.name}{end}" not in taken else rows
        read = _turned(node, source, f"{rows}/turned", _rows(node)) if backwards else source
        made.append(_Way(index, backwards, f"{name}{end}", read, f"{rows}{end}"))
    return made


def _turned(node: OnnxNode, source: str, output: str, shape: Shape) -> str:
    """Rows with the last one first."""
    if shape[0] == 1:
        return source
    node.context.add(Slice(output, (source,), output, starts=(shape[0] - 1, 0), steps=(-1, 1)), shape)
    return output


def _start(
    node: OnnxNode, indices: tuple[int, ...], ways: int, units: int
) -> tuple[list[tuple[str, ...]], list[Floats | None]]:
    """What the layer of each direction begins with: tensors, or constants (1 or 2, U); neither for zero."""
    constants = [i for i in indices if not node.has_input(i) or node.inputs[i] in node.context.constants]
    if constants and len(constants) < len(indices):
        raise UnsupportedError(
            "begins with one tensor and one constant", "give initial_h and initial_c, or neither, as inputs"
        )
    if constants:
        size = ways * units
        rows = [node.floats(i, "the first state") if node.has_input(i) else np.zeros(size) for i in indices]
        if any(row.size != size or not np.isfinite(row).all() for row in rows):
            raise UnsupportedError(f"begins with {[row.shape for row in rows]}", f"use {size} finite values each")
        start = np.stack([row.reshape(ways, units) for row in rows], axis=1).astype(np.float32)
        return [()] * ways, [one if one.any() else None for one in start]
    if any(elements(node.shape(i)) != ways * units for i in indices):
        raise UnsupportedError(f"begins with {[node.shape(i) for i in indices]}", f"use {ways * units} values each")
    names = [node.data(i) for i in indices]
    if any(_directions(node)):
        node.context.backwards |= dict.fromkeys(names, (node.name, node.operator))
    return [tuple(_row(node, name, at, (ways, units)) for name in names) for at in range(ways)], [None] * ways


def _row(node: OnnxNode, name: str, at: int, shape: Shape) -> str:
    """Row `at` of a tensor that holds one for each direction."""
    if shape[0] == 1:
        return name
    if node.context.shapes[name] != shape:
        raise UnsupportedError(f"begins with {node.context.shapes[name]}", f"use {shape} and the batch")
    cut = f"{_rows_name(node)}/{name}/{at}"
    node.context.add(Slice(cut, (name,), cut, starts=(at, 0), steps=(1, 1)), (1, shape[1]))
    return cut


def _parameters(node: OnnxNode, gates: int, activations: tuple[str, ...]) -> tuple[Floats, Floats, Floats]:
    """(D, G, U, I), (D, G, U, U) and (D, 2, G, U) in the file's order of gates, for each of its directions."""
    ways = len(_directions(node))
    given = tuple(bytes(a).decode("utf-8", "replace") for a in node.attributes.get("activations", ()))
    if given and tuple(a.lower() for a in given) != ways * tuple(a.lower() for a in activations):
        raise UnsupportedError(f"has activations {', '.join(given)}", _HELP)
    if "clip" in node.attributes or node.has_input(4):
        raise UnsupportedError("has a clip or sequence lengths", _HELP)
    weights, recurrent = node.floats(1, "W"), node.floats(2, "R")
    units = node.integer("hidden_size", recurrent.shape[-1])
    features = _rows(node)[1]
    bias = node.floats(3, "B") if node.has_input(3) else np.zeros((ways, 2 * gates * units), np.float32)
    wanted = ((ways, gates * units, features), (ways, gates * units, units), (ways, 2 * gates * units))
    if units < 1 or (weights.shape, recurrent.shape, bias.shape) != wanted:
        raise UnsupportedError(f"has W {weights.shape}, R {recurrent.shape}, B {bias.shape}", f"use {wanted}")
    if not all(np.isfinite(part).all() for part in (weights, recurrent, bias)):
        raise UnsupportedError("has weights that are not finite", "train or export the model again")
    shapes = ((gates, units, features), (gates, units, units), (2, gates, units))
    made = (part.reshape(ways, *shape) for part, shape in zip((weights, recurrent, bias), shapes, strict=True))
    weights, recurrent, bias = made
    return weights, recurrent, bias


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


def _add(node: OnnxNode, layers: list[Gated]) -> None:
    """Y; Y_h, the last row of each layer, and Y_c where they are read."""
    (steps, _), units = _rows(node), layers[0].weights.shape[1]
    ways, last, context = len(layers), (len(layers), units), node.context
    for layer in layers:
        context.add(layer, (steps, units))
    first = bool(node.integer("layout", 0))
    outputs = [*node.proto.output, "", ""]
    node.require_size((steps, ways * units))
    if outputs[0]:
        rows = [
            _turned(node, layer.output, f"{layer.output}/in order", (steps, units)) if backwards else layer.output
            for layer, backwards in zip(layers, _directions(node), strict=True)
        ]
        joined = _joined(node, rows, f"{outputs[0]}/joined", 1, (steps, ways * units))
        _shown(node, joined, outputs[0], (steps, ways, units), 0 if first else 2)
    if outputs[1] and context.is_read(outputs[1]):
        ends = [_last(node, layer, steps) for layer in layers]
        _shown(node, _joined(node, ends, f"{outputs[1]}/joined", 0, last), outputs[1], last, 0 if first else 1)
    if outputs[2] and context.is_read(outputs[2]):
        cells = [_cell(node, layer) for layer in layers]
        _shown(node, _joined(node, cells, f"{outputs[2]}/joined", 0, last), outputs[2], last, 0 if first else 1)


def _last(node: OnnxNode, layer: Gated, steps: int) -> str:
    if steps == 1:
        return layer.output
    last = f"{layer.output}/last"
    cut = Slice(last, (layer.output,), last, starts=(steps - 1, 0), steps=(1, 1))
    node.context.add(cut, (1, layer.weights.shape[1]))
    return last


def _cell(node: OnnxNode, layer: Gated) -> str:
    assert isinstance(layer, Lstm), "a GRU has two outputs, and `_import_node` knows no third"
    cell = f"{layer.output}/last cell"
    end = LastCell(f"{layer.name}/cell", (layer.output, *layer.inputs), cell, layer=layer)
    node.context.add(end, (1, layer.weights.shape[1]))
    return cell


def _joined(node: OnnxNode, parts: list[str], output: str, axis: int, shape: Shape) -> str:
    if len(parts) == 1:
        return parts[0]
    node.context.add(Concat(output, tuple(parts), output, axis=axis), shape)
    return output


def _shown(node: OnnxNode, source: str, output: str, shape: Shape, batch: int) -> None:
    node.context.add(Reshape(f"{node.name}/{output}", (source,), output, shape=shape), shape)
    if batch:
        node.context.batch_axes[output] = batch
