"""Float executor of a channels-last graph: what the model would do before quantisation."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.graph import (
    Add,
    ArgMax,
    AveragePool,
    Binary,
    BinaryOperator,
    Bounded,
    Clip,
    Conv,
    Convert,
    ConvTranspose,
    Features,
    Gemm,
    Graph,
    L2Normalize,
    LogSoftmax,
    Lookup,
    MaxPool,
    Node,
    PRelu,
    Reduce,
    ReduceOperator,
    Reshape,
    Softmax,
    StateLink,
    Transpose,
    Window,
    elements,
)
from tinyfleet_compiler.kernels.float_gates import GATE_RUNNERS
from tinyfleet_compiler.kernels.float_moves import MOVE_RUNNERS
from tinyfleet_compiler.kernels.float_products import PRODUCT_RUNNERS
from tinyfleet_compiler.kernels.windows import Geometry, convolve, pad_image, tap_counts, taps, transpose_convolve

Floats = npt.NDArray[np.float32]
CHUNK_ELEMENTS = 4_000_000


def run_float(graph: Graph, inputs: dict[str, Floats]) -> dict[str, Floats]:
    """Outputs (N, ...) in device order for inputs (N, ...) in device order."""
    parts: dict[str, list[Floats]] = {name: [] for name in graph.outputs}
    for tensors in run_tensors(graph, inputs):
        for name in graph.outputs:
            parts[name].append(tensors[name])
    return {name: np.concatenate(p) for name, p in parts.items()}


def run_tensors(graph: Graph, inputs: dict[str, Floats]) -> Iterator[dict[str, Floats]]:
    """Every tensor of the graph, batch by batch, so that memory stays bounded.

    Samples are a stream, in order, where the graph keeps state, unless `inputs` say what each of them finds there.
    """
    if any(state.read not in inputs for state in graph.states):
        yield from _run_stream(graph, inputs)
        return
    count = len(next(iter(inputs.values())))
    largest = max(elements(shape) for shape in graph.shapes.values())
    step = max(1, CHUNK_ELEMENTS // (largest * 4))
    for start in range(0, count, step):
        tensors = {name: x[start : start + step].astype(np.float32) for name, x in inputs.items()}
        for node in graph.nodes:
            for name in node.inputs:
                _resolve(graph, tensors, name)
            tensors[node.output] = run_node(graph, node, [tensors[i] for i in node.inputs])
        for name in graph.outputs:
            _resolve(graph, tensors, name)
        yield tensors


def _run_stream(graph: Graph, inputs: dict[str, Floats]) -> Iterator[dict[str, Floats]]:
    """Sample by sample: what one leaves in `kept` the next one finds in `read`."""
    held = {state.read: initial_value(graph, state)[None] for state in graph.states}
    for index in range(len(next(iter(inputs.values())))):
        sample = {name: x[index : index + 1] for name, x in inputs.items()}
        (tensors,) = run_tensors(graph, sample | held)
        yield tensors
        held = {state.read: tensors[state.kept].reshape(1, *graph.shapes[state.read]) for state in graph.states}


def initial_value(graph: Graph, state: StateLink) -> Floats:
    """(shape of `read`) what a state holds before the first inference."""
    return np.zeros(graph.shapes[state.read], np.float32) if state.initial is None else state.initial


def with_states(graph: Graph, inputs: dict[str, Floats]) -> dict[str, Floats]:
    """`inputs`, and what each sample of this stream finds in the states, so that samples may be taken apart."""
    found: dict[str, list[Floats]] = {state.read: [] for state in graph.states}
    for tensors in run_tensors(graph, inputs) if found else ():
        for name, parts in found.items():
            parts.append(tensors[name])
    return inputs | {name: np.concatenate(parts) for name, parts in found.items()}


def _resolve(graph: Graph, tensors: dict[str, Floats], name: str) -> None:
    if name not in tensors:
        base = tensors[graph.root(name)]
        tensors[name] = base.reshape(len(base), *graph.shapes[name])


def run_node(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    """One node over a batch."""
    result = _RUNNERS[type(node)](graph, node, values)
    if isinstance(node, Bounded):
        result = np.clip(result, node.low, node.high)
    return result.astype(np.float32, copy=False)


def geometry(graph: Graph, node: Node, window: Window, groups: int = 1) -> Geometry:
    """The window of a node with its shapes."""
    in_h, in_w, in_c = graph.shapes[node.inputs[0]]
    out_h, out_w, out_c = graph.shapes[node.output]
    return Geometry(
        in_h,
        in_w,
        in_c,
        out_h,
        out_w,
        out_c,
        *window.kernel,
        *window.strides,
        *window.dilations,
        *window.pads[:2],
        groups,
    )


def _conv(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Conv)
    g = geometry(graph, node, node.window, node.groups)
    return np.asarray(convolve(pad_image(values[0], g, 0.0), node.weights, g) + node.bias)


def _conv_transpose(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, ConvTranspose)
    return np.asarray(
        transpose_convolve(values[0], node.weights, geometry(graph, node, node.window, node.groups)) + node.bias
    )


def _gemm(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Gemm)
    return np.asarray(values[0] @ node.weights.T + node.bias)


def _add(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Add)
    if node.constant is None:
        return values[0] + values[1]
    flat = values[0].reshape(-1, node.constant.size) + node.constant
    return flat.reshape(values[0].shape)


def _max_pool(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, MaxPool)
    g = geometry(graph, node, node.window)
    return np.asarray(np.maximum.reduce(list(taps(pad_image(values[0], g, -np.inf), g))))


def _average_pool(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, AveragePool)
    g = geometry(graph, node, node.window)
    total = np.zeros((len(values[0]), g.out_h, g.out_w, g.out_c), np.float64)
    for tap in taps(pad_image(values[0], g, 0.0), g):
        total += tap
    return np.asarray(total / (g.kernel_h * g.kernel_w if node.include_pad else tap_counts(g)), dtype=np.float32)


def _softmax(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Softmax)
    e = np.exp(np.float32(node.beta) * (values[0] - values[0].max(axis=-1, keepdims=True)))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _transpose(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Transpose)
    return np.ascontiguousarray(values[0].transpose(0, *(axis + 1 for axis in node.perm)))


def _features(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Features)
    return node.front.features(values[0])


def _lookup(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Lookup)
    return node.function(values[0].astype(np.float64)).astype(np.float32)


def _prelu(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, PRelu)
    flat = values[0].reshape(-1, node.slopes.size)
    return np.where(flat >= 0, flat, flat * node.slopes.reshape(-1)).reshape(values[0].shape)


_FUNCTIONS: dict[BinaryOperator, Callable[[Floats, Floats], Floats]] = {
    BinaryOperator.ADD: np.add,
    BinaryOperator.SUB: np.subtract,
    BinaryOperator.MUL: np.multiply,
    # Endless quotients would leave calibration without a range; the device clamps them to the range's end.
    BinaryOperator.DIV: lambda a, b: np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0),
    BinaryOperator.MIN: np.minimum,
    BinaryOperator.MAX: np.maximum,
    BinaryOperator.SQUARED_DIFFERENCE: lambda a, b: np.square(a - b),
}


def _binary(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Binary)
    a, b = values[0], values[-1] if node.constant is None else node.constant[None]
    return _FUNCTIONS[node.operator](b, a) if node.swapped else _FUNCTIONS[node.operator](a, b)


_REDUCERS: dict[ReduceOperator, Callable[..., Floats]] = {
    ReduceOperator.MEAN: np.mean,
    ReduceOperator.SUM: np.sum,
    ReduceOperator.MAX: np.max,
    ReduceOperator.MIN: np.min,
}


def _reduce(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, Reduce)
    axes = tuple(axis + 1 for axis in node.axes)
    return np.asarray(_REDUCERS[node.operator](values[0].astype(np.float64), axis=axes, keepdims=True), np.float32)


def _arg_max(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    assert isinstance(node, ArgMax)
    find = np.argmin if node.smallest else np.argmax
    return np.asarray(find(values[0], axis=node.axis + 1, keepdims=True), np.float32)


def _log_softmax(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    shifted = values[0] - values[0].max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _l2_normalize(graph: Graph, node: Node, values: list[Floats]) -> Floats:
    x = values[0].astype(np.float64)
    return np.asarray(x / np.sqrt(np.maximum(np.square(x).sum(axis=-1, keepdims=True), 1e-12)))


_RUNNERS: dict[type[Node], Callable[[Graph, Node, list[Floats]], Floats]] = {
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Gemm: _gemm,
    Add: _add,
    Clip: lambda graph, node, values: values[0],
    Features: _features,
    Convert: lambda graph, node, values: values[0],
    Lookup: _lookup,
    PRelu: _prelu,
    Binary: _binary,
    LogSoftmax: _log_softmax,
    L2Normalize: _l2_normalize,
    Reduce: _reduce,
    ArgMax: _arg_max,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    Softmax: _softmax,
    Transpose: _transpose,
    **MOVE_RUNNERS,
    **PRODUCT_RUNNERS,
    **GATE_RUNNERS,
    Reshape: lambda graph, node, values: values[0].reshape(len(values[0]), *graph.shapes[node.output]),
}
