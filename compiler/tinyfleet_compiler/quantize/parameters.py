"""Scale and zero point of every tensor."""

import math
from dataclasses import dataclass

import numpy as np

from tinyfleet_compiler.functions import sigmoid
from tinyfleet_compiler.graph import (
    ArgMax,
    AveragePool,
    Clip,
    Features,
    Gated,
    Graph,
    L2Normalize,
    LastCell,
    LogSoftmax,
    Lookup,
    Lstm,
    MaxPool,
    Node,
    Reduce,
    ReduceOperator,
    Reshape,
    Softmax,
    TopK,
    Transpose,
)
from tinyfleet_compiler.numerics import round_half_away
from tinyfleet_compiler.operators import CODE_RANGES, ELEMENT_BYTES, Element
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.ranges import ESTIMATORS
from tinyfleet_compiler.quantize.shared import carries_scale, scale_owners

MIN_SCALE, MIN_SCALE_INT16 = 2.0**-25, 2.0**-33
WIDE_HEADROOM = 1.25
"""Int16 has steps to spare: values beyond what calibration saw need not saturate."""
KEEP_GROWTH, KEEP_COVERAGE = 1.15, 0.6


@dataclass(frozen=True)
class Quantization:
    """real = (q - zero_point) * scale; scale is a float32 value."""

    scale: float
    zero_point: int
    element: Element = Element.INT8

    @property
    def codes(self) -> tuple[int, int]:
        """Lowest and highest code."""
        return CODE_RANGES[self.element]

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return ELEMENT_BYTES[self.element]

    @property
    def interval(self) -> tuple[float, float]:
        """The real numbers the codes reach."""
        low, high = self.codes
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


LOG_SOFTMAX = Quantization(1.0 / 16.0, 127)
"""Of what LOG_SOFTMAX gives."""
UNIT = Quantization(1.0 / 128.0, 0)
"""Of what L2_NORMALIZE gives."""
FLOAT = Quantization(1.0, 0, Element.FLOAT32)
"""Of a tensor that holds real numbers."""


def choose_parameters(
    graph: Graph, observed: dict[str, Observed], estimator: str, base: dict[str, Quantization] | None = None
) -> dict[str, Quantization]:
    """Parameters per tensor, views left out; `base` parameters are kept where the new range fits them.

    What a state holds has, where that can be, the parameters of what is written to it.
    """
    first = _choose_all(graph, observed, estimator, base or {}, {})
    if not graph.states:
        return first
    # A state that an operator joins with other bytes has that operator's scale.
    free = [state for state in graph.states if state.read not in scale_owners(graph)]
    wanted = {state.read: first[graph.root(state.kept)] for state in free}
    return _choose_all(graph, observed, estimator, base or {}, wanted)


def _choose_all(
    graph: Graph,
    observed: dict[str, Observed],
    estimator: str,
    base: dict[str, Quantization],
    fixed: dict[str, Quantization],
) -> dict[str, Quantization]:
    chosen: dict[str, Quantization] = {}
    owners = scale_owners(graph)
    heard = {node.inputs[0]: node.front.wide for node in graph.nodes if isinstance(node, Features)}
    for tensor in graph.inputs:
        if tensor in heard:
            chosen[tensor] = audio(observed[tensor], wide=heard[tensor])
            continue
        owner = owners.get(tensor, tensor)
        chosen[tensor] = fixed.get(tensor) or _choose(observed[owner], estimator, base.get(owner))
    for node in graph.nodes:
        if isinstance(node, (MaxPool, AveragePool, Transpose, Reshape)) or carries_scale(node):
            chosen[node.output] = chosen[graph.root(node.inputs[0])]
        elif isinstance(node, Softmax):
            chosen[node.output] = Quantization(1.0 / 256.0, -128)
        elif isinstance(node, LogSoftmax):
            chosen[node.output] = LOG_SOFTMAX
        elif isinstance(node, L2Normalize):
            chosen[node.output] = UNIT
        elif isinstance(node, Reduce) and node.operator in (ReduceOperator.MAX, ReduceOperator.MIN):
            chosen[node.output] = chosen[graph.root(node.inputs[0])]
        elif isinstance(node, ArgMax) or (isinstance(node, TopK) and node.indices):
            chosen[node.output] = Quantization(1.0, -128)
        elif isinstance(node, Lookup) and node.limits is not None:
            chosen[node.output] = from_limits(*node.limits)
        elif isinstance(node, LastCell):
            chosen[node.output] = chosen[f"{graph.root(node.inputs[0])}/cell"]
        elif isinstance(node, Gated):  # what is cut off would come back with every step
            chosen[node.output] = _choose(observed[node.output], "min-max", base.get(node.output))
        else:
            owner = owners.get(node.output, node.output)
            chosen[node.output] = _choose(observed[owner], estimator, base.get(owner))
        if isinstance(node, Lstm):
            chosen[node.cell] = _cell(graph, node, observed)
        if node.output in graph.wide:
            chosen[node.output] = _widened(graph, node, chosen, observed[node.output])
    return chosen


def _widened(graph: Graph, node: Node, chosen: dict[str, Quantization], seen: Observed) -> Quantization:
    """Symmetric int16: exactly an int8 input's interval for a copy of it, else what was seen and some more."""
    source, own = chosen[graph.root(node.inputs[0])], chosen[node.output]
    if own.element is Element.INT16:  # carried from the input
        return own
    if isinstance(node, Softmax) or (isinstance(node, Lookup) and node.function in (sigmoid, np.tanh)):
        return Quantization(2.0**-15, 0, Element.INT16)
    if isinstance(node, Clip) and source.element is Element.INT8:
        reach = max(abs(end) for end in source.interval)
    else:
        reach = WIDE_HEADROOM * max(abs(seen.low), abs(seen.high))
    return Quantization(float(np.float32(max(reach / 32767.0, MIN_SCALE_INT16))), 0, Element.INT16)


def _choose(seen: Observed, estimator: str, base: Quantization | None) -> Quantization:
    # A base's interval is as good as any that an estimator would have chosen; the search judges what it costs.
    if base is not None and any(_fits(base, *ranges(seen)) for ranges in ESTIMATORS.values()):
        return base
    return from_range(*ESTIMATORS[estimator](seen))


def _cell(graph: Graph, node: Lstm, observed: dict[str, Observed]) -> Quantization:
    """Int16 with the smallest power of two that holds what was seen; unseen, what so many steps can reach."""
    seen = observed.get(node.cell)
    largest = float(graph.shapes[node.output][0]) if seen is None else max(-seen.low, seen.high)
    # The last code lies one step below the power of two.
    whole = math.ceil(math.log2(max(largest, 1.0) * 32768.0 / 32767.0))
    return Quantization(2.0 ** (min(whole, 15) - 15), 0, Element.INT16)


def _fits(base: Quantization, low: float, high: float) -> bool:
    """Whether the base's interval holds the new range almost wholly and is not much too wide for it."""
    start, end = base.interval
    wanted = max(high, 0.0) - min(low, 0.0)
    covers = start * KEEP_GROWTH <= min(low, 0.0) + base.scale and max(high, 0.0) - base.scale <= end * KEEP_GROWTH
    return covers and wanted >= KEEP_COVERAGE * (end - start)


def audio(seen: Observed, *, wide: bool) -> Quantization:
    """Int16 or int32 codes of samples: full scale is 1.0, as converters count, or the next power of two holding all."""
    largest = max(abs(seen.low), abs(seen.high), 1.0)
    bits = 31 if wide else 15
    return Quantization(2.0 ** (math.ceil(math.log2(largest)) - bits), 0, Element.INT32 if wide else Element.INT16)


def from_limits(low: float, high: float) -> Quantization:
    """Int8 whose 256 steps fill [low, high): (0, 1) gives 1/256 and -128, (-1, 1) gives 1/128 and 0."""
    scale = (high - low) / 256.0
    return Quantization(scale, int(round_half_away(-128.0 - low / scale)))


def from_range(low: float, high: float) -> Quantization:
    """Asymmetric int8 over [low, high] widened to hold zero, which stays exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / 255.0, MIN_SCALE)))
    if high == low:
        scale = 1.0
    zero_point = int(np.clip(round_half_away(-128.0 - low / scale), -128, 127))
    return Quantization(scale, zero_point)
