"""What the builders of op records share: the `Op` they make and the scope they read."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.graph import Bounded, Conv, Gemm, Graph, Node
from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.operators import (
    BYTE_MOVERS,
    CODE_RANGES,
    ELEMENT_BYTES,
    INT4_FORMS,
    INT16_FORMS,
    OPERATORS,
    Element,
    OpCode,
    OpFlag,
    Packing,
)
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights, WeightBlock, quantize_weights


@dataclass(frozen=True, eq=False)
class StateVariable:
    """What one operator, or a STATE_READ and a STATE_WRITE, keep between inferences."""

    name: str
    size_bytes: int
    element: Element
    fill: int = 0
    """Every element before the first inference."""
    data: npt.NDArray[np.int8] | None = None
    """(size_bytes,) what it begins with instead."""


@dataclass(frozen=True, eq=False)
class Op:
    """One operator: tensors by name, record fields by name, what it weighs."""

    name: str
    code: OpCode
    inputs: tuple[str, ...]
    output: str
    fields: dict[str, Any]
    overlap_bytes: int
    flags: OpFlag = OpFlag.NONE
    weights: WeightBlock | None = None
    packing: Packing = Packing.ROW_MAJOR
    """Order the weights are stored in; `weights` itself has rows."""
    constant: npt.NDArray[Any] | None = None
    """int8, int16, int32 or float32; of a float operator with weights: a row per output, its bias first."""
    macs: int = 0
    scratch_bytes: int = 0
    reversed_overlap_bytes: int | None = None
    """Smallest legal output - input when pixels are finished last to first; None: this kernel has no such order."""
    overlapping_inputs: tuple[str, ...] = field(default=())
    """Inputs the overlap rule holds for; the others share no byte with the output."""
    states: dict[str, StateVariable] = field(default_factory=dict)
    """By the record field that says where a variable lies."""
    after: tuple[str, ...] = ()
    """Outputs of operators that must have run before, though this one does not read them."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, without biases of their own."""
        if self.weights is not None:
            return int(self.weights.rows.size)
        return int(self.constant.nbytes) if self.constant is not None and OPERATORS[self.code].weighted else 0

    @property
    def params(self) -> int:
        """Weights and biases."""
        if self.weights is not None:
            return int(self.weights.rows.size + self.weights.biases.size)
        return self.weight_bytes // ELEMENT_BYTES[Element.FLOAT32]


@dataclass(frozen=True)
class Scope:
    """What a builder may ask about the graph around its node."""

    graph: Graph
    parameters: dict[str, Quantization]
    base: dict[str, BaseWeights]
    fitted: dict[str, IntegerWeights] = field(default_factory=dict)
    """Weights chosen already, by node output."""

    def root(self, tensor: str) -> str:
        """The tensor whose bytes `tensor` is."""
        return self.graph.root(tensor)

    def quantization(self, tensor: str) -> Quantization:
        """Scale and zero point of a tensor or view."""
        return self.parameters[self.root(tensor)]


def make_op(scope: Scope, node: Node, code: OpCode, overlap: int, fields: dict[str, Any], **more: Any) -> Op:
    """The `Op` of a node: `fields` with zero points and activation bounds, inputs without repeats.

    `overlap` and `reversed_overlap_bytes` count elements of the operator's type here, bytes in the `Op`.
    """
    code = _typed_code(node, code, scope.quantization(node.output).element, more.get("weights"))
    names = {field.name for field in layout.RECORDS[OPERATORS[code].record].fields}
    ranges = {name: value for name, value in _ranges(scope, node, code).items() if name in names}
    inputs = tuple(dict.fromkeys(scope.root(i) for i in node.inputs))
    more.setdefault("overlapping_inputs", inputs[:1] if overlap != layout.NO_OVERLAP else ())
    size = ELEMENT_BYTES[OPERATORS[code].element]
    overlap *= size if overlap != layout.NO_OVERLAP else 1
    if more.get("reversed_overlap_bytes") is not None:
        more["reversed_overlap_bytes"] *= size
    return Op(node.name, code, inputs, scope.root(node.output), ranges | fields, overlap, **more)


def layer_weights(scope: Scope, node: Conv | Gemm) -> WeightBlock:
    """Integer weights of a layer: those that came with the model, or quantised here."""
    if isinstance(scope.graph, QuantizedGraph):
        return scope.graph.weights[node.output]
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    lent, fitted = scope.base.get(node.output), scope.fitted.get(node.output)
    return quantize_weights(node.name, node.weights, node.bias, source, result, lent, fitted)


def _typed_code(node: Node, code: OpCode, element: Element, weights: WeightBlock | None) -> OpCode:
    """The operator for the type of the output and of the weights. Raises `ModelError` where there is none."""
    if weights is not None and weights.element is Element.INT4:
        return INT4_FORMS[code]
    if Element.FLOAT32 in (element, OPERATORS[code].element):  # its builders name the operator themselves
        return code
    if element is OPERATORS[code].element or code in BYTE_MOVERS or code is OpCode.RESCALE_INT16:
        return code
    if code not in INT16_FORMS:
        raise ModelError(f"'{node.name}' has no {element.name.lower()} kernel; leave it int8")
    return INT16_FORMS[code]


def _ranges(scope: Scope, node: Node, code: OpCode) -> dict[str, float]:
    """Zero points and activation bounds, where the record has a field for them."""
    source, result = scope.quantization(node.inputs[0]), scope.quantization(node.output)
    bounds: tuple[float, float] = (node.low, node.high) if isinstance(node, Bounded) else (-np.inf, np.inf)
    real = Element.FLOAT32 in (source.element, result.element)
    if OPERATORS[code].element is Element.FLOAT32:
        low, high = bounds
    elif real or (code in BYTE_MOVERS and result.element is not Element.INT8):  # bytes have no range
        low, high = CODE_RANGES[Element.INT8]
    else:
        low, high = _bounds(bounds, result)
    return {
        "input_zero_point": source.zero_point,
        "output_zero_point": result.zero_point,
        "activation_min": low,
        "activation_max": high,
    }


def _bounds(bounds: tuple[float, float], result: Quantization) -> tuple[int, int]:
    """Activation bounds at the output's scale (NUMERICS.md section 2)."""
    scale = np.float32(result.scale)  # one float32 division, as `quantize` and TFLM
    low, high = (
        float(round_half_away(np.float32(b) / scale)) + result.zero_point if np.isfinite(b) else b for b in bounds
    )
    first, last = result.codes
    return int(np.clip(low, first, last)), int(np.clip(high, first, last))
