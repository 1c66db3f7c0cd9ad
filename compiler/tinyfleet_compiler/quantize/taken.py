"""Models that come quantised: their parameters and integer weights are taken as they are, nothing is calibrated."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.weights import WeightBlock


@dataclass(frozen=True, eq=False)
class TakenConstant:
    """Codes of a constant operand with their parameters."""

    codes: npt.NDArray[np.int8] | npt.NDArray[np.int16]
    quantization: Quantization


@dataclass(frozen=True)
class QuantizedGraph(Graph):
    """A channels-last graph with everything quantisation would otherwise choose. Its nodes' float weights are the
    dequantised ones: shapes and costs come from them, numbers never do."""

    parameters: dict[str, Quantization] = field(default_factory=dict)
    """Scale and zero point per tensor, views left out."""
    weights: dict[str, WeightBlock] = field(default_factory=dict)
    """Integer weights by the output of their node."""
    constants: dict[str, TakenConstant] = field(default_factory=dict)
    """Constant second operands by the output of their node."""
    islands: tuple[Problem, ...] = ()
    """Nodes that compute real numbers between quantised tensors, with the reason; they need an FPU."""
    input_types: dict[str, str] = field(default_factory=dict)
    """`int8`, `uint8`, `int16` or `float32` per input: arrays of that integer type hold codes, others real numbers."""


@dataclass(frozen=True, eq=False)
class Dequantized:
    """A constant's codes, zero points taken off: real = codes * scales, scales of one value or one a channel."""

    codes: npt.NDArray[np.int64]
    scales: npt.NDArray[np.float64]
    zero_points: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerScales:
    """Scales of a layer's weights, and its bias as integers with their scales."""

    weights: npt.NDArray[np.float64]
    bias: Dequantized | None


@dataclass(frozen=True)
class Taken:
    """Everything a quantised ONNX model says about its numbers, by tensor or by node name."""

    parameters: dict[str, Quantization] = field(default_factory=dict)
    layers: dict[str, LayerScales] = field(default_factory=dict)
    operands: dict[str, Quantization] = field(default_factory=dict)
    input_types: dict[str, str] = field(default_factory=dict)
