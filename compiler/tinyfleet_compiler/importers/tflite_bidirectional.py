"""Importer of TFLite BIDIRECTIONAL_SEQUENCE_LSTM, which the format has over real numbers only."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import tflite

from tinyfleet_compiler.graph import Concat, Floats, Lstm, Node, Shape, Slice
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.importers.tflite_lstm import sequence_sizes

_PLAIN = "use a plain LSTM both ways (Keras Bidirectional(LSTM)), or convert from ONNX"
_WAYS = ((1, 35), (18, 37))
"""Forwards and backwards: first of its inputs in the schema's order, and its hidden state, behind which is its cell."""
_INPUT, _RECURRENT, _PEEPHOLES, _BIASES, _PROJECTION = range(0, 4), range(4, 8), range(8, 11), range(11, 15), (15, 16)
"""Inputs of one way, from its first on."""
_AUXILIARY = range(39, 48)


def import_bidirectional_lstm(node: TfNode) -> None:
    """Four gates, batch 1; the half that runs backwards is a forward layer over turned rows. Both begin at zero."""
    if node.quantized:
        raise UnsupportedError("works on codes, which TFLite has no kernel for", "leave its tensors real numbers")
    options = node.item.options(tflite.BidirectionalSequenceLSTMOptions)
    _check_form(node, options)
    steps, features = sequence_sizes(node, bool(options.TimeMajor()))
    rows = node.view(0, (steps, features), f"{node.name}/rows")
    turned, forward, backward, ordered = (f"{node.name}/{end}" for end in ("turned", "forward", "backward", "in order"))
    node.put(_turned(turned, rows, turned, steps=steps), (steps, features))
    ahead, back = (_layer(node, *way, features) for way in _WAYS)
    widths = [layer.weights.shape[1] for layer in (ahead, back)]
    node.put(replace(back, name=backward, inputs=(turned,), output=backward), (steps, widths[1]))
    ends: tuple[Callable[[str], Node], ...] = (
        lambda output: replace(ahead, name=forward, inputs=(rows,), output=output),
        lambda output: _turned(ordered, backward, output, steps=steps),
    )
    if len(node.item.outputs) != (1 if options.MergeOutputs() else 2):
        raise UnsupportedError(f"has {len(node.item.outputs)} outputs", EXPORT_AGAIN)
    if not options.MergeOutputs():
        for output, width, end in zip(node.item.outputs, widths, ends, strict=True):
            _give(node, output, (steps, width), end)
    else:
        for name, width, end in zip((forward, ordered), widths, ends, strict=True):
            node.put(end(name), (steps, width))
        joined = partial(Concat, node.name, (forward, ordered), axis=1)
        _give(node, node.item.outputs[0], (steps, sum(widths)), joined)
    node.note_island()


def _turned(name: str, source: str, output: str, *, steps: int) -> Slice:
    """Rows with the last one first."""
    return Slice(name, (source,), output, starts=(steps - 1, 0), steps=(-1, 1))


def _check_form(node: TfNode, options: tflite.BidirectionalSequenceLSTMOptions) -> None:
    for first, _ in _WAYS:
        if any(node.has(first + at) for at in _PEEPHOLES):
            raise UnsupportedError("has peepholes", _PLAIN)
        if any(node.has(first + at) for at in _PROJECTION):
            raise UnsupportedError("has a projection", _PLAIN)
        if not all(node.has(first + at) for at in (_INPUT[0], _RECURRENT[0], _BIASES[0])):
            raise UnsupportedError("couples input and forget gate", _PLAIN)
    if any(node.has(index) for index in _AUXILIARY):
        raise UnsupportedError("has an auxiliary input", _PLAIN)
    if options.FusedActivationFunction() != tflite.ActivationFunctionType.TANH:
        raise UnsupportedError("has an activation other than tanh", _PLAIN)
    if options.CellClip() or options.ProjClip():
        raise UnsupportedError("clips its cell", _PLAIN)


def _layer(node: TfNode, first: int, state: int, features: int) -> Lstm:
    """One way, still of no name; gates are in our order."""
    units = node.tensor(first).shape[0] if node.tensor(first).shape else 0
    for index in (state, state + 1):
        tensor = node.tensor(index)
        if tensor.raw is not None or node.inputs[index] in node.context.known or np.prod(tensor.shape) != units:
            raise UnsupportedError(f"begins with '{tensor.name}' {tensor.shape}", f"use a variable of {units} values")
    bias = np.stack([_constant(node, first + at, (units,)) for at in _BIASES])
    return Lstm(
        "",
        (),
        "",
        weights=np.stack([_constant(node, first + at, (units, features)) for at in _INPUT]),
        recurrent=np.stack([_constant(node, first + at, (units, units)) for at in _RECURRENT]),
        bias=np.stack([bias, np.zeros_like(bias)]),
    )


def _constant(node: TfNode, index: int, shape: Shape) -> Floats:
    tensor = node.tensor(index)
    if not node.is_constant(index) or tensor.type != "FLOAT32" or tensor.shape != shape or not tensor.values.size:
        raise UnsupportedError(f"has weights '{tensor.name}' {tensor.type} {tensor.shape}", f"use float32 {shape}")
    return np.asarray(tensor.values, np.float32)


def _give(node: TfNode, index: int, shape: Shape, make: Callable[[str], Node]) -> None:
    node.context.define(index)
    if np.prod(node.output_shape(index)) != np.prod(shape) or node.output_shape(index)[-1] != shape[-1]:
        raise UnsupportedError(f"gives {node.output_shape(index)} from {shape}", EXPORT_AGAIN)
    node.add_behind_view(index, shape, make)
