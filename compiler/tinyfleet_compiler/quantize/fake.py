"""Float execution with quantised tensors and weights: what an image will compute, to within a rounding of each layer.

Layers are walked once, all samples at a time, so that a `Fitter` may choose a layer's weights and bias knowing what the
quantised layers before it really deliver.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import CHUNK_ELEMENTS, Floats, geometry, run_node
from tinyfleet_compiler.graph import INFINITY, Conv, Gemm, Graph, Node, elements
from tinyfleet_compiler.kernels.windows import pad_image, taps
from tinyfleet_compiler.numerics import through_codes
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.weights import IntegerWeights

Weighted = Conv | Gemm


@dataclass(frozen=True, eq=False)
class LayerView:
    """What a fitter sees of a weighted layer: its node, what the layers before deliver, and what float computes."""

    graph: Graph
    node: Weighted
    source: Quantization
    """Of the input."""
    delivered: Floats
    """(N, ...) quantised input, dequantised."""
    wanted: Floats
    """(N, ..., O) float output before any activation; empty in a walk without the float side."""
    run: Callable[[Weighted], Floats]
    """Runs the layer with other weights on `delivered`, before any activation."""

    def columns(self, most: int) -> tuple[Floats, Floats]:
        """An even sample of at most about `most` outputs: (P, groups, K) inputs of each, (P, O) `wanted`."""
        outputs = self.wanted.reshape(-1, self.wanted.shape[-1])
        # An odd step does not stay on the same columns of an even number of them.
        step = max(1, len(outputs) // most) | 1
        if isinstance(self.node, Gemm):
            return self.delivered.reshape(len(outputs), 1, -1)[::step], outputs[::step]
        g = geometry(self.graph, self.node, self.node.window, self.node.groups)
        picked = np.arange(0, len(outputs), step)
        found = [tap.reshape(len(outputs), g.groups, -1)[picked] for tap in taps(pad_image(self.delivered, g, 0.0), g)]
        return np.stack(found, axis=2).reshape(len(picked), g.groups, -1), outputs[picked]


Fitter = Callable[[LayerView], IntegerWeights]


Watch = Callable[[str, Floats, Floats], None]
"""Called with each node's output name, its float and its quantised values."""


def walk_quantized(
    graph: Graph,
    inputs: dict[str, Floats],
    parameters: dict[str, Quantization],
    fit: Fitter,
    *,
    with_float: bool = True,
    layers: dict[str, Floats] | None = None,
    watch: Watch | None = None,
) -> tuple[dict[str, Floats], dict[str, IntegerWeights]]:
    """(outputs of the quantised model by tensor name, integer weights by node output) for inputs (N, ...).

    Without the float side a walk takes a third of the time; only fitters and watchers that look at it need it. Fitters
    may be given `layers` instead, what `float_layers` found for these inputs.
    """
    given = {name: x.astype(np.float32) for name, x in inputs.items()}
    coded = {name: _through(x, parameters[name]) for name, x in given.items()}
    with_float = with_float and layers is None
    exact = given if with_float else {}
    fitted: dict[str, IntegerWeights] = {}
    last_use = _last_use(graph)
    for at, node in enumerate(graph.nodes):
        delivered = [_tensor(graph, coded, name) for name in node.inputs]
        chosen, before = node, _NOTHING
        if with_float:
            before, exact[node.output] = _run_float(graph, node, [_tensor(graph, exact, name) for name in node.inputs])
        elif layers is not None:
            before = layers.get(node.output, _NOTHING)
        if isinstance(node, (Conv, Gemm)):
            fitted[node.output] = fit(_view(graph, node, parameters, delivered[0], before))
            chosen = fitted[node.output].as_node(node)
        coded[node.output] = _through(run_in_parts(graph, chosen, delivered), parameters[node.output])
        if watch is not None:
            watch(node.output, exact[node.output], coded[node.output])
        _forget(graph, at, last_use, coded, exact)
    return {name: _tensor(graph, coded, name) for name in graph.outputs}, fitted


_NOTHING: Floats = np.zeros(0, np.float32)


def float_layers(graph: Graph, inputs: dict[str, Floats], most: int) -> dict[str, Floats] | None:
    """Float outputs (N, ..., O) of weighted layers before any activation, by node output: what walks over one and the
    same inputs compute anew each time. None where they have more than `most` elements.
    """
    each = sum(elements(graph.shapes[node.output]) for node in graph.nodes if isinstance(node, (Conv, Gemm)))
    if each * len(next(iter(inputs.values()))) > most:
        return None
    exact, layers = {name: x.astype(np.float32) for name, x in inputs.items()}, dict[str, Floats]()
    last_use = _last_use(graph)
    for at, node in enumerate(graph.nodes):
        values = [_tensor(graph, exact, name) for name in node.inputs]
        before, exact[node.output] = _run_float(graph, node, values)
        if isinstance(node, (Conv, Gemm)):
            layers[node.output] = before
        _forget(graph, at, last_use, exact)
    return layers


def _last_use(graph: Graph) -> dict[str, int]:
    return {graph.root(name): at for at, node in enumerate(graph.nodes) for name in node.inputs}


def _run_float(graph: Graph, node: Node, values: Sequence[Floats]) -> tuple[Floats, Floats]:
    """A node's output before and after its activation."""
    if not isinstance(node, (Conv, Gemm)):
        return _NOTHING, run_in_parts(graph, node, values)
    before = run_in_parts(graph, _open(node), values)
    return before, np.clip(before, node.low, node.high)


def run_in_parts(graph: Graph, node: Node, values: Sequence[Floats]) -> Floats:
    """`run_node` over slices of the batch, so that column matrices stay small."""
    largest = max(elements(graph.shapes[name]) for name in (*node.inputs, node.output))
    step = max(1, CHUNK_ELEMENTS // (largest * 4))
    parts = [run_node(graph, node, [v[at : at + step] for v in values]) for at in range(0, len(values[0]), step)]
    return np.concatenate(parts)


def _view(
    graph: Graph, node: Weighted, parameters: dict[str, Quantization], delivered: Floats, wanted: Floats
) -> LayerView:
    def run(other: Weighted) -> Floats:
        return run_in_parts(graph, _open(other), [delivered])

    return LayerView(graph, node, parameters[graph.root(node.inputs[0])], delivered, wanted, run)


def _open(node: Weighted) -> Weighted:
    return replace(node, low=-INFINITY, high=INFINITY)


def _through(x: npt.NDArray[np.float32], q: Quantization) -> Floats:
    kind = np.int16 if q.element is Element.INT16 else np.int8
    return through_codes(x, q.scale, q.zero_point, kind)


def _tensor(graph: Graph, tensors: dict[str, Floats], name: str) -> Floats:
    found = tensors[name] if name in tensors else tensors[graph.root(name)]
    return found.reshape(len(found), *graph.shapes[name])


def _forget(graph: Graph, at: int, last_use: dict[str, int], *stores: dict[str, Floats]) -> None:
    kept = {graph.root(name) for name in graph.outputs}
    for store in stores:
        for name in [n for n in store if last_use.get(n, -1) <= at and n not in kept]:
            del store[name]
