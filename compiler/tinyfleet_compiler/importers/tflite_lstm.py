"""Importer of TFLite UNIDIRECTIONAL_SEQUENCE_LSTM in the form TensorFlow Lite Micro runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tflite

from tinyfleet_compiler.graph import Clip, GateNumbers, LstmCodes, Node, Slice, Transpose
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN, TfTensor
from tinyfleet_compiler.layout import GATES, LEAST_CELL_POWER, MOST_STEPS
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier
from tinyfleet_compiler.quantize.parameters import Quantization

_VARIANTS = {
    "peepholes": (9, 10, 11),
    "a projection": (16, 17),
    "layer normalisation": (20, 21, 22, 23),
}
_HIDDEN, _CELL = 18, 19
_GATE_SCALE = 2.0**-12


def import_lstm(node: TfNode) -> None:
    """LSTM of four gates, batch 1, int8 with an int16 cell; inputs in the order of the schema. It keeps its state, but
    see `begin_anew`."""
    if not node.quantized:
        raise UnsupportedError("works on float numbers", "quantise the model to int8")
    for what, inputs in _VARIANTS.items():
        if any(node.has(index) for index in inputs):
            raise UnsupportedError(f"has {what}", "use a plain LSTM (Keras layers.LSTM)")
    if not (node.has(1) and node.has(5) and node.has(12)):
        raise UnsupportedError("couples input and forget gate", "use a plain LSTM (Keras layers.LSTM)")
    options = node.item.options(tflite.UnidirectionalSequenceLSTMOptions)
    if options.FusedActivationFunction() != tflite.ActivationFunctionType.TANH:
        raise UnsupportedError("has an activation other than tanh", "use a plain LSTM (Keras layers.LSTM)")
    steps, features = sequence_sizes(node, bool(options.TimeMajor()))
    output = node.context.define(node.output.index)
    source, result = node.quantization(), node.context.parameters[output]
    units = _check_state(node, result)
    power = _cell_power(node.tensor(_CELL))
    numbers = _numbers(node, units, features, source, result, power, _clip(float(options.CellClip()), power))
    _check_sums(numbers)
    node.add(LstmCodes(node.name, (node.data(),), output, numbers=numbers))
    if node.output.shape[-1] != units or np.prod(node.output.shape) != steps * units:
        raise UnsupportedError(f"gives {node.output.shape} from {steps} steps of {units} units", EXPORT_AGAIN)


def begin_anew(nodes: Sequence[Node], root: Callable[[str], str]) -> list[Node]:
    """The nodes of a model; where an LSTM reads rows that were turned round, whole sequences are what an inference
    takes, and every LSTM begins at zero. `root` gives the tensor that one is a view of."""
    makers = {node.output: node for node in nodes}
    if not any(isinstance(node, LstmCodes) and _is_turned(node.inputs[0], makers, root) for node in nodes):
        return list(nodes)
    return [replace(node, keeps=False) if isinstance(node, LstmCodes) else node for node in nodes]


def _is_turned(name: str, makers: Mapping[str, Node], root: Callable[[str], str]) -> bool:
    axis = 0
    while (node := makers.get(root(name))) and isinstance(node, (Clip, Slice, Transpose)):
        if isinstance(node, Slice):
            return axis < len(node.steps) and node.steps[axis] < 0
        axis = node.perm[axis] if isinstance(node, Transpose) else axis
        name = node.inputs[0]
    return False


def sequence_sizes(node: TfNode, time_major: bool) -> tuple[int, int]:
    """(steps, features) of the first input, whose batch is 1. Raises `UnsupportedError`."""
    node.data()
    shape = node.tensor(0).shape
    if len(shape) != 3 or shape[1 if time_major else 0] != 1:
        raise UnsupportedError(f"reads {shape}", "use a batch of 1: (1, steps, features)")
    steps = shape[0 if time_major else 1]
    if steps > MOST_STEPS:
        raise UnsupportedError(f"reads {steps} steps", f"use {MOST_STEPS} at most, the state carries on")
    return steps, shape[2]


def _check_state(node: TfNode, result: Quantization) -> int:
    hidden, cell = node.tensor(_HIDDEN), node.tensor(_CELL)
    if (hidden.type, cell.type) != ("INT8", "INT16") or hidden.raw is not None or cell.raw is not None:
        raise UnsupportedError(f"keeps {hidden.type} and {cell.type}", "quantise to int8 with an int16 cell")
    for tensor in (hidden, cell):
        if tensor.scales.size != 1 or tensor.zero_points.size != 1:
            raise UnsupportedError(f"'{tensor.name}' has no scale", "quantise the model again")
    if (float(hidden.scales[0]), int(hidden.zero_points[0])) != (result.scale, result.zero_point):
        raise UnsupportedError("gives another scale than its state has", "give output and state one scale")
    units = int(np.prod(hidden.shape))
    if units < 1 or int(np.prod(cell.shape)) != units:
        raise UnsupportedError(f"keeps {hidden.shape} and {cell.shape}", EXPORT_AGAIN)
    return units


def _cell_power(cell: TfTensor) -> int:
    scale = float(cell.scales[0])
    power = math.log2(scale) if scale > 0 and math.isfinite(scale) else 1.0
    if power != round(power) or not LEAST_CELL_POWER <= power <= 0 or cell.zero_points[0]:
        raise UnsupportedError(
            f"keeps a cell of scale {scale}", f"use a power of two from 2^{LEAST_CELL_POWER} to 1, zero point 0"
        )
    return int(power)


def _clip(real: float, power: int) -> int:
    """Codes the cell stays within; 0 for none, as TFLM takes it."""
    if not math.isfinite(real):
        raise UnsupportedError(f"clips its cell to {real}", EXPORT_AGAIN)
    if real <= 0.0:
        return 0
    codes = int(min(real / 2.0**power, 32767.0))
    if codes == 0:
        raise UnsupportedError(f"clips its cell to {real}, less than one step", "clip at a larger value")
    return codes


def _numbers(
    node: TfNode, units: int, features: int, source: Quantization, result: Quantization, power: int, clip: int
) -> GateNumbers:
    sides = []
    biases = np.zeros((2, GATES, units), np.int64)
    scales = np.zeros((2, GATES))
    for side, (first, length, read) in enumerate(((1, features, source), (5, units, result))):
        rows = [_weights(node.tensor(first + gate), (units, length)) for gate in range(GATES)]
        for gate, tensor in enumerate(rows):
            biases[side, gate] = -read.zero_point * tensor.values.astype(np.int64).sum(axis=1)
            # TFLM multiplies these scales as float32.
            scales[side, gate] = float(np.float32(read.scale) * tensor.scales[0]) / _GATE_SCALE
        sides.append(np.stack([tensor.values for tensor in rows]))
    for gate in range(GATES):
        biases[0, gate] += _bias(node.tensor(12 + gate), units)
    return GateNumbers(sides[0], sides[1], biases, scales, power, clip)


def _weights(tensor: TfTensor, shape: tuple[int, int]) -> TfTensor:
    if tensor.type != "INT8" or tensor.shape != shape or tensor.scales.size != 1 or tensor.zero_points.any():
        raise UnsupportedError(
            f"has weights '{tensor.name}' {tensor.type} {tensor.shape}",
            f"use int8 {shape} with one scale, no zero point",
        )
    if not np.isfinite(tensor.scales).all() or tensor.scales[0] <= 0:
        raise UnsupportedError(f"'{tensor.name}' has no usable scale", "quantise the model again")
    return tensor


def _bias(tensor: TfTensor, units: int) -> np.ndarray:
    if tensor.type != "INT32" or tensor.shape != (units,):
        raise UnsupportedError(f"has a bias '{tensor.name}' {tensor.type} {tensor.shape}", f"use int32 ({units},)")
    return tensor.values.astype(np.int64)


def _check_sums(numbers: GateNumbers) -> None:
    """Sums, and what left shifts make of them, stay in int32."""
    for side, weights in enumerate((numbers.weights, numbers.recurrent)):
        most = np.abs(weights.astype(np.int64)).sum(axis=2) * 128 + np.abs(numbers.biases[side])
        for gate in range(GATES):
            shift = quantize_multiplier(float(numbers.scales[side, gate]))[1]
            if int(most[gate].max()) << max(shift, 0) > INT32_MAX:
                raise UnsupportedError("can reach sums beyond int32", "quantise again with typical samples")
