"""The float IR: a closed set of node types over static shapes. Shapes leave the batch out.

Before `passes.lower_layout` shapes are those of the model file, (C, H, W) for images; after it the device's, (H, W, C).
Weights are (O, kh, kw, I / groups) for Conv and (O, I) for Gemm from the start, so no pass has to turn them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.front_end import FrontEnd
from tinyfleet_compiler.operators import Function, SourceLayout

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]
Shape = tuple[int, ...]
INFINITY = float("inf")


@dataclass(frozen=True, eq=False)
class Node:
    """One operator: reads `inputs`, writes `output`."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Bounded(Node):
    """A node that clamps what it writes to [low, high] (a fused Relu or Clip)."""

    low: float = field(default=-INFINITY, kw_only=True)
    high: float = field(default=INFINITY, kw_only=True)


@dataclass(frozen=True)
class Window:
    """A sliding window: sizes down and across; pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output (ONNX Conv, explicit pads, floor)."""
        extent = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        sizes = (height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3])
        rows, columns = ((s - e) // t + 1 for s, e, t in zip(sizes, extent, self.strides, strict=True))
        return rows, columns


@dataclass(frozen=True, eq=False)
class Conv(Bounded):
    """Convolution, any number of groups (ONNX Conv)."""

    weights: Floats = field(kw_only=True)
    bias: Floats = field(kw_only=True)
    window: Window = field(kw_only=True)
    groups: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Conv):
    """Transposed convolution, any number of groups: pads are cut off the full result (ONNX ConvTranspose)."""


@dataclass(frozen=True, eq=False)
class Gemm(Bounded):
    """y = x W^T + b over the last axis (ONNX Gemm, MatMul with a constant)."""

    weights: Floats = field(kw_only=True)
    bias: Floats = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class MatMul(Bounded):
    """alpha * A B per batch (ONNX MatMul of two activations, or of one and a batch of constant matrices).

    A is (outer, inner, rows, depth) and B (outer, inner, depth, columns) after their axes were named: axis i of A is
    axis a_axes[i] of the first input, and axis out_axes[i] of the output is axis i of (outer, inner, rows, columns).
    All three have the rank of the output; lower ranks leave batches out. Batches of 1 repeat.
    """

    a_axes: tuple[int, ...] = field(kw_only=True)
    b_axes: tuple[int, ...] = field(kw_only=True)
    out_axes: tuple[int, ...] = field(kw_only=True)
    constant: Floats | None = field(default=None, kw_only=True)
    """The second input where it is one."""
    alpha: float = field(default=1.0, kw_only=True)


@dataclass(frozen=True, eq=False)
class Normalize(Bounded):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over `axes`, or, with `groups`, over each of so many groups
    of channels (axis 0 in the file) and all other axes. `gamma` and `beta` have the input's rank and broadcast.
    """

    gamma: Floats = field(kw_only=True)
    beta: Floats = field(kw_only=True)
    epsilon: float = field(kw_only=True)
    axes: tuple[int, ...] = field(default=(), kw_only=True)
    groups: int = field(default=0, kw_only=True)
    centred: bool = field(default=True, kw_only=True)
    """False: root mean square, nothing is subtracted."""


@dataclass(frozen=True, eq=False)
class L2Normalize(Node):
    """x / sqrt(sum of x^2) over an axis (TFLite L2_NORMALIZATION, ONNX LpNormalization with p = 2)."""

    axis: int = field(default=-1, kw_only=True)


@dataclass(frozen=True, eq=False)
class TopK(Node):
    """The k largest (or smallest) values along an axis in order, or their indices; of equal ones the first first."""

    axis: int = field(kw_only=True)
    k: int = field(kw_only=True)
    largest: bool = field(default=True, kw_only=True)
    indices: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, eq=False)
class Add(Bounded):
    """Sum of two tensors, or of one and a constant over the channels or of the full shape."""

    constant: Floats | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """x * scale + shift per channel: a BatchNormalization with its statistics worked in."""

    scale: Floats = field(kw_only=True)
    shift: Floats = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Clip(Bounded):
    """A lone Relu, Relu6 or Clip."""


@dataclass(frozen=True, eq=False)
class Pad(Node):
    """`value` around a tensor: so many elements before and after it, axis by axis."""

    before: Shape = field(kw_only=True)
    after: Shape = field(kw_only=True)
    value: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """The inputs one after the other along `axis`; or the only one, and then `constant`."""

    axis: int = field(kw_only=True)
    constant: Floats | None = field(default=None, kw_only=True)
    swapped: bool = field(default=False, kw_only=True)
    """The constant comes first."""


@dataclass(frozen=True, eq=False)
class Slice(Node):
    """Element i of axis a is element starts[a] + i * steps[a] of the input; steps may be negative."""

    starts: Shape = field(kw_only=True)
    steps: Shape = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Gather(Node):
    """Slice i along `axis` is slice indices[i] of the input (ONNX Gather with constant indices)."""

    axis: int = field(kw_only=True)
    indices: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Resize(Node):
    """Output pixel (y, x) is the input at (rows[y], columns[x]): linear between pixels, or whole places."""

    rows: tuple[float, ...] = field(kw_only=True)
    columns: tuple[float, ...] = field(kw_only=True)
    linear: bool = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class DepthToSpace(Node):
    """Channel (b1 * block + b2) * C' + c becomes channel c of pixel (b1, b2) of a block (ONNX mode DCR)."""

    block: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class SpaceToDepth(Node):
    """The inverse of DepthToSpace."""

    block: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class MaxPool(Bounded):
    """Maximum over a window; taps outside do not count."""

    window: Window = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class AveragePool(Bounded):
    """Mean over a window; with `include_pad` padded taps count as zero."""

    window: Window = field(kw_only=True)
    include_pad: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """Softmax of beta * x over an axis."""

    beta: float = field(default=1.0, kw_only=True)
    axis: int = field(default=-1, kw_only=True)


class BinaryOperator(StrEnum):
    """What a `Binary` computes of its two operands."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    MIN = "min"
    MAX = "max"
    SQUARED_DIFFERENCE = "squared difference"


@dataclass(frozen=True, eq=False)
class Binary(Bounded):
    """Two tensors of one rank, axes of 1 broadcast; or one and a constant of its rank."""

    operator: BinaryOperator = field(kw_only=True)
    constant: Floats | None = field(default=None, kw_only=True)
    swapped: bool = field(default=False, kw_only=True)
    """SUB, DIV: the constant is what is subtracted from, or divided."""


class ReduceOperator(StrEnum):
    """What a `Reduce` makes of the values it joins."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, eq=False)
class Reduce(Bounded):
    """Axes become 1. They are neighbours in device order."""

    operator: ReduceOperator = field(kw_only=True)
    axes: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ArgMax(Node):
    """Index of the first largest (or smallest) value along an axis, which becomes 1."""

    axis: int = field(kw_only=True)
    smallest: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Unary:
    """A function of one element as the float32 kernels know it."""

    function: Function
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True, eq=False)
class Lookup(Node):
    """A function of one element: sigmoid, tanh and every chain of such. Becomes a table of 256 entries."""

    function: Callable[[Reals], Reals] = field(kw_only=True)
    operator: str = field(default="", kw_only=True)
    """Name of the function, for passes that look for it; "" for one made of several."""
    limits: tuple[float, float] | None = field(default=None, kw_only=True)
    """Where the function is bounded: the bounds, and the output's interval whatever calibration sees."""
    unary: Unary | None = field(default=None, kw_only=True)
    """The same function for float32 tensors; None where there is no kernel for it."""
    parts: tuple[Node, ...] = field(default=(), kw_only=True)
    """The nodes it was joined from, in order; the last one writes the same output."""


@dataclass(frozen=True, eq=False)
class PRelu(Bounded):
    """x for x >= 0, else x * slopes; slopes broadcast to the full shape, not one number (that is a `Lookup`)."""

    slopes: Floats = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Convert(Node):
    """The same numbers as another element type: codes to float32, or float32 to codes."""


@dataclass(frozen=True, eq=False)
class LogSoftmax(Node):
    """Logarithm of Softmax over an axis."""

    axis: int = field(default=-1, kw_only=True)


@dataclass(frozen=True, eq=False)
class Features(Node):
    """Audio front end: (samples,) real to (frames, features)."""

    front: FrontEnd = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Svdf(Node):
    """A filter over the input, then one over the time, that remembers; integers only (TFLite SVDF)."""

    filters: npt.NDArray[np.int8] = field(kw_only=True)
    """(F, I) weights over the input."""
    over_time: npt.NDArray[np.int8] | npt.NDArray[np.int16] = field(kw_only=True)
    """(F, M) weights over the time, of the state's type."""
    bias: npt.NDArray[np.int32] = field(kw_only=True)
    """(F / rank,)"""
    scales: tuple[float, float] = field(kw_only=True)
    """From sums over the input to the state, from sums over the time to the output."""
    state_zero_point: int = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class GateNumbers:
    """Integers of gates that read an input (I,) and what the step before gave (U,); gates in the record's order."""

    weights: npt.NDArray[np.int8]
    """(G, U, I) over the input."""
    recurrent: npt.NDArray[np.int8]
    """(G, U, U) over the step before."""
    biases: npt.NDArray[np.int64]
    """(2, G, U) of the sums over either, zero points folded in."""
    scales: npt.NDArray[np.float64]
    """(2, G) from those sums to Q3.12."""
    cell_power: int
    """The cell's scale is 2^cell_power."""
    cell_clip: int = 0
    """The cell stays within it, 0: unbounded."""


@dataclass(frozen=True, eq=False)
class LstmCodes(Node):
    """LSTM over the rows of its input that keeps its state, integers only (TFLite UNIDIRECTIONAL_SEQUENCE_LSTM)."""

    numbers: GateNumbers = field(kw_only=True)
    keeps: bool = field(default=True, kw_only=True)
    """False: it begins at zero with every inference."""


@dataclass(frozen=True, eq=False)
class Gated(Node):
    """A recurrent layer over the rows (T, I) of its input; it gives (T, U).

    It begins with its further inputs (hidden state, and cell of an LSTM, of U elements each), else with `start`.
    """

    weights: Floats = field(kw_only=True)
    """(G, U, I) over the input."""
    recurrent: Floats = field(kw_only=True)
    """(G, U, U) over what the row before gave."""
    bias: Floats = field(kw_only=True)
    """(2, G, U) of either."""
    start: Floats | None = field(default=None, kw_only=True)
    """(1, U) hidden state, or (2, U) hidden state and cell of an LSTM, before the first row; None: zero."""
    keeps: bool = field(default=False, kw_only=True)
    """Its further inputs are states that it keeps itself on the device (`settle_gates`)."""

    @property
    def cell(self) -> str:
        """The name under which calibration sees the cell, which is no tensor."""
        return f"{self.output}/cell"


@dataclass(frozen=True, eq=False)
class Lstm(Gated):
    """Gates in order: input, forget, cell, output (ONNX LSTM)."""


@dataclass(frozen=True, eq=False)
class Gru(Gated):
    """Gates in order: update, reset, hidden (ONNX GRU)."""

    reset_first: bool = field(default=False, kw_only=True)
    """The hidden state is reset before its product with the weights (linear_before_reset = 0), else the product is."""


@dataclass(frozen=True, eq=False)
class LastCell(Node):
    """The (U,) cell an LSTM ends with (ONNX LSTM, Y_c). Inputs: what the layer gives, then all the layer reads."""

    layer: Lstm = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Reshape(Node):
    """Same elements in the same order under another shape."""

    shape: Shape = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class Transpose(Node):
    """Axis i of the output is axis perm[i] of the input, batch left out."""

    perm: tuple[int, ...] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class StateLink:
    """A tensor the device keeps between inferences: what one writes to `kept`, the next one finds in `read`."""

    name: str
    read: str
    """Among the graph's inputs; before the first inference it holds `initial`."""
    kept: str
    """Among the graph's outputs; `read` itself where the model never changes it."""
    hidden: bool = True
    """`kept` is an output for this state's sake only."""
    initial: Floats | None = None
    """(shape of `read`) real values, None: zero."""


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order over named tensors of static shape."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, Shape]
    source_layouts: dict[str, SourceLayout] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    """Names of the outputs in the model file (a tensor may be known under an alias)."""
    views: dict[str, str] = field(default_factory=dict)
    """Channels-last graphs: tensor -> the tensor whose bytes it is under another shape."""
    states: tuple[StateLink, ...] = ()
    """Inputs and outputs that are no business of the caller's: the device keeps them."""
    wide: frozenset[str] = frozenset()
    """Tensors that are int16 once quantised."""

    @property
    def live_inputs(self) -> tuple[str, ...]:
        """What the caller gives."""
        kept = {state.read for state in self.states}
        return tuple(name for name in self.inputs if name not in kept)

    @property
    def live_outputs(self) -> tuple[str, ...]:
        """What the caller gets."""
        hidden = {state.kept for state in self.states if state.hidden}
        return tuple(name for name in self.outputs if name not in hidden)

    def with_nodes(self, nodes: Iterable[Node], **changes: Any) -> "Graph":
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes), **changes)

    @cached_property
    def _readers(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                found.setdefault(tensor, []).append(node)
        return found

    @cached_property
    def _writers(self) -> dict[str, Node]:
        return {node.output: node for node in reversed(self.nodes)}

    @cached_property
    def _root_readers(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for root in dict.fromkeys(self.root(tensor) for tensor in node.inputs):
                found.setdefault(root, []).append(node)
        return found

    def byte_readers(self, tensor: str) -> list[Node]:
        """Nodes that read the bytes of `tensor`, under whatever shape."""
        return self._root_readers.get(self.root(tensor), [])

    def consumers(self, tensor: str) -> list[Node]:
        """Nodes that read `tensor`."""
        return self._readers.get(tensor, [])

    def producer(self, tensor: str) -> Node | None:
        """The node that writes `tensor`, None for a model input."""
        return self._writers.get(tensor)

    def only_consumer(self, tensor: str) -> Node | None:
        """The one reader of a tensor that is not also a model output, else None."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def root(self, tensor: str) -> str:
        """The tensor whose bytes `tensor` is."""
        while tensor in self.views:
            tensor = self.views[tensor]
        return tensor


def elements(shape: Shape) -> int:
    """Elements of one sample."""
    return int(np.prod(shape, dtype=np.int64)) if shape else 1
