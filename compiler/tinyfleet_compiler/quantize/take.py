"""A simplified graph and what its model file said about numbers -> a graph that needs no calibration."""

from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_elementwise import lookup_table, quantize_constant
from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.graph import (
    Add,
    ArgMax,
    AveragePool,
    Binary,
    Clip,
    Conv,
    Convert,
    Floats,
    Gated,
    Gemm,
    Graph,
    L2Normalize,
    LastCell,
    LogSoftmax,
    Lookup,
    MatMul,
    MaxPool,
    Node,
    Reduce,
    ReduceOperator,
    Resize,
    Softmax,
    TopK,
    Transpose,
)
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.numerics import quantize_multiplier, round_half_away
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import FLOAT, LOG_SOFTMAX, UNIT, Quantization, from_limits
from tinyfleet_compiler.quantize.shared import carries_scale, joins_scales
from tinyfleet_compiler.quantize.taken import Dequantized, LayerScales, QuantizedGraph, Taken, TakenConstant
from tinyfleet_compiler.quantize.weights import WeightBlock, reaches_too_far

_OFF_GRID = 1e-2
"""Float32 products of codes and scales come back to integers within far less; weights somebody changed do not."""
_HELP = "quantise every activation of the model, let the compiler quantise the float model, or use a class with an FPU"


def take_quantized(graph: Graph, taken: Taken) -> QuantizedGraph:
    """Parameters for every tensor, integer weights for every layer. Raises `ModelError` with every problem at once."""
    taking = _Taking(graph, taken)
    for name in graph.inputs:
        taking.define_input(name)
    for node in graph.nodes:
        taking.take(node)
    taking.finish()
    if taking.problems:
        raise ModelError("this quantised model cannot be taken as it is:", tuple(taking.problems))
    known = {f.name: getattr(graph, f.name) for f in fields(Graph)}
    return QuantizedGraph(
        **known | {"nodes": tuple(taking.nodes), "shapes": taking.shapes, "views": taking.views},
        parameters=taking.parameters,
        weights=taking.weights,
        constants=taking.constants,
        islands=tuple(taking.islands),
        input_types={name: taken.input_types.get(name, "float32") for name in graph.inputs},
    )


def barriers(graph: Graph, taken: Taken) -> tuple[str, ...]:
    """Tensors with a grid of their own that no pass may fuse away: rounding there is part of the model.

    A clamp on the same grid is no reason: it gives the same codes inside the node before it.
    """
    found = []
    for tensor, grid in taken.parameters.items():
        reader = graph.only_consumer(tensor)
        same = isinstance(reader, Clip) and taken.parameters.get(reader.output) == grid
        if tensor not in graph.inputs and not same:
            found.append(tensor)
    return tuple(found)


@dataclass
class _Taking:
    graph: Graph
    taken: Taken
    nodes: list[Node] = field(default_factory=list)
    parameters: dict[str, Quantization] = field(default_factory=dict)
    weights: dict[str, WeightBlock] = field(default_factory=dict)
    constants: dict[str, TakenConstant] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    islands: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes, self.views = dict(self.graph.shapes), dict(self.graph.views)
        self.settled: set[str] = set()
        self.pools: dict[str, LayerScales] = {}
        self.layers: dict[str, str] = {}
        self.wanted = dict(self.taken.parameters)
        for view in self.graph.views:
            if view in self.wanted:
                self.wanted.setdefault(self.graph.root(view), self.wanted[view])
        for node in reversed(self.graph.nodes):  # rounding before a move or after it gives the same codes
            source, alone = self.graph.root(node.inputs[0]), len(self.readers(node.inputs[0])) == 1
            if node.output in self.wanted and _moves(node) and alone and source not in self.graph.outputs:
                self.wanted.setdefault(source, self.wanted[node.output])

    def readers(self, tensor: str) -> list[Node]:
        root = self.graph.root(tensor)
        return [node for node in self.graph.nodes if any(self.graph.root(i) == root for i in node.inputs)]

    def define_input(self, name: str) -> None:
        grid = self.wanted.get(name)
        if grid is None:
            self.islands.append(Problem(name, "input", "is not quantised", _HELP))
        self.parameters[name] = grid or FLOAT

    def take(self, node: Node) -> None:
        for name in node.inputs:
            self.settle_view(name)
        if self.is_rounding(node):
            self.parameters[node.output] = self.wanted[node.output]
            self.nodes.append(Convert(node.name, node.inputs, node.output))
            return
        try:
            if any(self.is_real(name) for name in node.inputs):
                raise UnsupportedError("reads a tensor that is not quantised", _HELP)
            self.nodes.append(self.with_parameters(node))
        except UnsupportedError as error:
            self.take_real(node, Problem(node.name, type(node).__name__, error.reason, error.help))

    def is_rounding(self, node: Node) -> bool:
        """Whether a node only brings real numbers onto the grid of its output."""
        unbounded = isinstance(node, Clip) and np.isinf([node.low, node.high]).all()
        return bool(unbounded and node.output in self.wanted and self.is_real(node.inputs[0]))

    def is_real(self, name: str) -> bool:
        return self.grid(name).element is Element.FLOAT32

    def take_real(self, node: Node, problem: Problem) -> None:
        """The node over float32 tensors; codes are converted before it and, where the file has a grid, after it."""
        self.weights.pop(node.output, None)
        self.constants.pop(node.output, None)
        if isinstance(node, Lookup) and node.unary is None and node.parts:
            *parts, node = (self.alone(part, node.output) for part in node.parts)
            for part in parts:
                self.take_real(part, problem)
        if isinstance(node, Lookup) and node.unary is None:
            self.problems.append(replace(problem, reason=f"{problem.reason}, and has no float32 kernel"))
        if problem not in self.islands:
            self.islands.append(problem)
        wanted, result = self.wanted.get(node.output), node.output
        if wanted is not None:
            result = f"{node.output}/real"
            self.shapes[result], self.parameters[node.output] = self.shapes[node.output], wanted
        self.parameters[result] = FLOAT
        inputs = tuple(self.real(name) for name in node.inputs)
        if isinstance(node, LastCell):  # it names its layer by what that gives, not by a copy of it
            inputs = (self.layers[node.inputs[0]], *inputs[1:])
        if isinstance(node, Gated):
            self.layers[node.output] = result
        self.nodes.append(replace(node, inputs=inputs, output=result))
        if wanted is not None:
            self.nodes.append(Convert(f"{node.name}/quantize", (result,), node.output))

    def alone(self, part: Node, last: str) -> Node:
        """A node of a chain as one of the graph; its constant is one number, whatever the layout."""
        shape = self.shapes[part.output] = self.shapes[last]
        if isinstance(part, (Add, Binary)) and part.constant is not None:
            return replace(part, constant=part.constant.reshape(-1)[:1].reshape((1,) * len(shape)))
        return part

    def real(self, name: str) -> str:
        """The tensor as float32, converted once."""
        copy = f"{name}/dequantized"
        if self.is_real(name):
            return name
        if copy not in self.parameters:
            self.shapes[copy], self.parameters[copy] = self.shapes[name], FLOAT
            self.nodes.append(Convert(copy, (name,), copy))
        return copy

    def finish(self) -> None:
        for name in self.graph.outputs:
            self.settle_view(name)

    def settle_view(self, name: str) -> None:
        """A reshape whose grid differs from its input's writes a tensor of its own."""
        wanted = self.wanted.get(name)
        if name not in self.views or wanted is None or name in self.settled:
            return
        self.settled.add(name)
        if wanted != self.parameters[self.root(name)]:
            source = f"{name}/view"
            self.views[source], self.shapes[source] = self.views.pop(name), self.shapes[name]
            self.parameters[name] = wanted
            change = Convert if self.is_real(source) else Clip
            self.nodes.append(change(f"{name}/scale", (source,), name))

    def root(self, name: str) -> str:
        while name in self.views:
            name = self.views[name]
        return name

    def grid(self, name: str) -> Quantization:
        return self.parameters[self.root(name)]

    def with_parameters(self, node: Node) -> Node:
        wanted = self.wanted.get(node.output)
        if isinstance(node, (Gated, LastCell)):
            raise UnsupportedError("computes with real numbers between its pairs", _HELP)
        if isinstance(node, AveragePool) and wanted not in (None, self.grid(node.inputs[0])):
            node = self.pooled_elsewhere(node)
        fixed = self.fixed_grid(node)
        if fixed is not None and wanted is not None and fixed != wanted:
            return self.rescaled(node, fixed, wanted)
        if fixed is None and wanted is None:
            raise UnsupportedError("gives a tensor that is not quantised", _HELP)
        self.parameters[node.output] = grid = fixed or wanted  # type: ignore[assignment]
        assert grid is not None
        if joins_scales(node):
            node = self.joined(node, grid)
        self.keep_numbers(node, grid)
        return node

    def pooled_elsewhere(self, node: AveragePool) -> Node:
        """An average pool onto another grid as a node that rounds once: a mean of everything, or a convolution.

        A pool whose windows at the border average fewer values keeps its two roundings.
        """
        rows, columns, channels = self.graph.shapes[node.inputs[0]]
        window = node.window
        bounds = {"low": node.low, "high": node.high}
        if window.kernel == (rows, columns) and not any(window.pads):
            return Reduce(node.name, node.inputs, node.output, operator=ReduceOperator.MEAN, axes=(0, 1), **bounds)
        if any(window.pads) and not node.include_pad:
            return node
        share = 1.0 / (window.kernel[0] * window.kernel[1])
        weights = np.full((channels, *window.kernel, 1), share, np.float32)
        self.pools[node.name] = LayerScales(np.array([float(np.float32(share)) / 127.0]), None)
        bias = np.zeros(channels, np.float32)
        return Conv(
            node.name, node.inputs, node.output, weights=weights, bias=bias, window=window, groups=channels, **bounds
        )

    def fixed_grid(self, node: Node) -> Quantization | None:
        """Where the operator leaves no choice; None where the file must say."""
        source, wanted = self.grid(node.inputs[0]), self.wanted.get(node.output)
        extreme = isinstance(node, Reduce) and node.operator in (ReduceOperator.MAX, ReduceOperator.MIN)
        if isinstance(node, (MaxPool, AveragePool, Transpose)) or carries_scale(node) or extreme:
            return source
        if isinstance(node, Softmax):
            return Quantization(1.0 / 256.0, -128)
        if isinstance(node, LogSoftmax):
            if wanted is not None and wanted.scale < LOG_SOFTMAX.scale:
                raise UnsupportedError("has finer steps than the 1/16 that its int8 kernel writes", _HELP)
            return LOG_SOFTMAX
        if isinstance(node, L2Normalize):
            return UNIT
        if isinstance(node, ArgMax) or (isinstance(node, TopK) and node.indices):
            return Quantization(1.0, -128)
        if wanted is None and isinstance(node, Clip):
            return source
        if wanted is None and isinstance(node, Lookup) and node.limits is not None:
            return from_limits(*node.limits)
        return None

    def rescaled(self, node: Node, fixed: Quantization, wanted: Quantization) -> Node:
        own = f"{node.output}/own"
        self.shapes[own] = self.shapes[node.output]
        self.parameters[own], self.parameters[node.output] = fixed, wanted
        self.nodes.append(replace(node, output=own))
        return Clip(f"{node.name}/scale", (own,), node.output)

    def joined(self, node: Node, grid: Quantization) -> Node:
        names = []
        for index, name in enumerate(node.inputs):
            if self.grid(name) != grid:
                copy = f"{node.output}/scaled{index}"
                self.shapes[copy], self.parameters[copy] = self.shapes[name], grid
                self.nodes.append(Clip(f"{node.name}/scale{index}", (name,), copy))
                name = copy
            names.append(name)
        return replace(node, inputs=tuple(names))

    def keep_numbers(self, node: Node, grid: Quantization) -> None:
        source = self.grid(node.inputs[0])
        if isinstance(node, (Conv, Gemm)):
            self.weights[node.output] = _block(
                node, self.pools.get(node.name) or self.taken.layers.get(node.name), source, grid
            )
        elif isinstance(node, Lookup):
            self.constants[node.output] = TakenConstant(lookup_table(node.function, source, grid), grid)
        elif isinstance(node, (Add, Binary, MatMul)) and node.constant is not None:
            self.constants[node.output] = _constant(node.constant, self.taken.operands.get(node.name))


def _moves(node: Node) -> bool:
    return isinstance(node, (MaxPool, Transpose)) or (carries_scale(node) and not isinstance(node, Resize))


def _block(node: Conv | Gemm, layer: LayerScales | None, source: Quantization, result: Quantization) -> WeightBlock:
    channels = len(node.weights)
    if layer is None and node.weights.size == channels:  # a lone normalisation: any scale a channel is exact
        layer = LayerScales(np.maximum(np.abs(node.weights.reshape(-1).astype(np.float64)), 1e-12) / 127.0, None)
    if layer is None:
        raise UnsupportedError("has weights that are not quantised", "quantise weights to int8 too")
    scales = layer.weights if layer.weights.size > 1 else np.repeat(layer.weights, channels)
    if scales.size != channels:
        raise UnsupportedError(f"has {scales.size} weight scales for {channels} outputs", "quantise per output channel")
    rows = _codes(node.weights.reshape(channels, -1), scales[:, None])
    biases = _biases(node.bias, layer.bias, source.scale * scales) - source.zero_point * rows.sum(axis=1)
    pairs = [quantize_multiplier(source.scale * float(s) / result.scale) for s in scales]
    if reason := reaches_too_far(rows, biases, pairs, source.element):
        raise UnsupportedError(reason, "use fewer inputs per output or quantise again")
    return WeightBlock(
        rows.astype(np.int8),
        biases,
        np.array([m for m, _ in pairs], dtype=np.int32),
        np.array([s for _, s in pairs], dtype=np.int8),
    )


def _codes(real: Floats, scales: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    steps = real.astype(np.float64) / scales
    codes = np.rint(steps)
    if codes.size and (np.abs(steps - codes).max() > _OFF_GRID or codes.min() < -128 or codes.max() > 127):
        raise UnsupportedError("has weights that lie on no int8 grid", "fold normalisation before quantising")
    return codes.astype(np.int64)


def _biases(real: Floats, bias: Dequantized | None, scales: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """At input scale x weight scale; integers of that very scale are taken as they are, others rounded once."""
    if bias is not None and bias.codes.size == real.size:
        own = np.broadcast_to(bias.scales, real.shape)
        unchanged = np.array_equal((bias.codes.reshape(-1) * own).astype(np.float32), real)
        if unchanged and np.allclose(own, scales, rtol=1e-5, atol=0.0):
            return bias.codes.reshape(-1)
        if unchanged:
            return round_half_away(bias.codes.reshape(-1) * own / scales).astype(np.int64)
    return round_half_away(real.astype(np.float64) / scales).astype(np.int64)


def _constant(constant: Floats, grid: Quantization | None) -> TakenConstant:
    if grid is None:
        codes, grid = quantize_constant(constant)
        if constant.size > 1 and len(set(constant.reshape(-1).tolist())) > 1:
            raise UnsupportedError("has a constant operand that is not quantised", "quantise constants too")
        return TakenConstant(codes, grid)
    codes = np.rint(constant.astype(np.float64) / grid.scale) + grid.zero_point
    if codes.min() < -128 or codes.max() > 127:
        raise UnsupportedError("has a constant operand outside int8", "quantise it again")
    return TakenConstant(codes.astype(np.int8), grid)
