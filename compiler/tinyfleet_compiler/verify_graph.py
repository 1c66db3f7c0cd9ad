"""The check that runs between two stages: a graph is what graph.py says, or `VerifyError` names where it is not."""

from tinyfleet_compiler.errors import VerifyError
from tinyfleet_compiler.graph import (
    Affine,
    ArgMax,
    Binary,
    Concat,
    Conv,
    Features,
    Gated,
    Gather,
    Gemm,
    Graph,
    Lookup,
    MatMul,
    Node,
    Normalize,
    Pad,
    PRelu,
    Reduce,
    Shape,
    Slice,
    TopK,
    elements,
)


def verify_graph(graph: Graph, stage: str) -> Graph:
    """Return `graph` unchanged. Raises `VerifyError` naming stage, node and tensor."""
    defined = set(graph.inputs)
    for node in graph.nodes:
        for tensor in node.inputs:
            _require(
                graph.root(tensor) in defined or tensor in defined,
                stage,
                node,
                f"reads '{tensor}' before it is written",
            )
        _require(node.output not in defined, stage, node, f"writes '{node.output}' a second time")
        _require(node.output in graph.shapes, stage, node, f"'{node.output}' has no shape")
        defined.add(node.output)
        _check_weights(graph, node, stage)
        _check_shapes(graph, node, stage)
        _check_moves(graph, node, stage)
    for tensor in graph.outputs:
        _require(graph.root(tensor) in defined or tensor in defined, stage, None, f"output '{tensor}' is never written")
    for tensor, shape in graph.shapes.items():
        _require(all(d > 0 for d in shape), stage, None, f"'{tensor}' has shape {shape}")
    return graph


def verify_lowered(graph: Graph, stage: str) -> Graph:
    """As `verify_graph`, and no node is left that only exists before lowering."""
    for node in graph.nodes:
        _require(not isinstance(node, Affine), stage, node, "should have been fused or lowered")
    for view, base in graph.views.items():
        same = elements(graph.shapes[view]) == elements(graph.shapes[base])
        _require(same, stage, None, f"view '{view}' and '{base}' differ in size")
    return verify_graph(graph, stage)


def _check_weights(graph: Graph, node: Node, stage: str) -> None:
    if isinstance(node, Gemm):
        features = graph.shapes[node.inputs[0]][-1]
        _require(
            node.weights.shape[1] == features, stage, node, f"weights {node.weights.shape} meet {features} features"
        )
    if isinstance(node, (Conv, Gemm)):
        _require(node.bias.shape == (node.weights.shape[0],), stage, node, f"bias has shape {node.bias.shape}")


def _check_shapes(graph: Graph, node: Node, stage: str) -> None:
    if isinstance(node, Features):
        result, heard = graph.shapes[node.output], node.inputs[0] in graph.inputs
        _require(heard and result == node.front.shape, stage, node, f"hears '{node.inputs[0]}' and makes {result}")
    if isinstance(node, (Lookup, PRelu)):
        source, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
        _require(source == result, stage, node, f"turns shape {source} into {result}")
    if isinstance(node, (Reduce, ArgMax)):
        source, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
        axes = node.axes if isinstance(node, Reduce) else (node.axis,)
        wanted = tuple(1 if axis in axes else size for axis, size in enumerate(source))
        _require(bool(axes) and result == wanted, stage, node, f"reduces axes {axes} of {source} to {result}")
    if isinstance(node, Binary):
        shapes = [graph.shapes[name] for name in node.inputs]
        shapes += [] if node.constant is None else [node.constant.shape]
        result = graph.shapes[node.output]
        fits = len(shapes) == 2 and all(len(s) == len(result) for s in shapes) and _broadcasts(shapes, result)
        _require(fits, stage, node, f"makes {result} of shapes {shapes}")
    if isinstance(node, MatMul):
        _check_product(graph, node, stage)
    if isinstance(node, Normalize):
        shape = graph.shapes[node.output]
        fits = graph.shapes[node.inputs[0]] == shape and len(node.gamma.shape) == len(node.beta.shape) == len(shape)
        _require(fits and bool(node.axes or node.groups), stage, node, f"normalises axes {node.axes} of {shape}")
    if isinstance(node, Gated):
        steps, features = graph.shapes[node.inputs[0]]
        units = node.weights.shape[1]
        fits = graph.shapes[node.output] == (steps, units) and node.weights.shape[2] == features
        _require(fits, stage, node, f"reads {features} features into {graph.shapes[node.output]}")
    if isinstance(node, TopK):
        source, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
        wanted = tuple(node.k if axis == node.axis % len(source) else size for axis, size in enumerate(source))
        _require(result == wanted and node.k <= source[node.axis], stage, node, f"takes {node.k} of {source}")
    if isinstance(node, PRelu):
        size = node.slopes.size
        _require(size > 0 and elements(graph.shapes[node.output]) % size == 0, stage, node, f"has {size} slopes")


def _check_product(graph: Graph, node: MatMul, stage: str) -> None:
    first, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    second = graph.shapes[node.inputs[-1]] if node.constant is None else node.constant.shape
    a, b, y = (
        tuple(shape[axis] for axis in axes)
        for shape, axes in ((first, node.a_axes), (second, node.b_axes), (result, node.out_axes))
    )
    fits = 2 <= len(a) == len(b) == len(y) <= 4 and a[-1] == b[-2] and y[-2:] == (a[-2], b[-1])
    fits = fits and all({m, n} <= {1, o} for m, n, o in zip(a[:-2], b[:-2], y[:-2], strict=True))
    _require(fits, stage, node, f"multiplies {a} and {b} to {y}")


def _check_moves(graph: Graph, node: Node, stage: str) -> None:
    source, result = graph.shapes[node.inputs[0]], graph.shapes[node.output]
    if isinstance(node, Pad):
        wanted = tuple(sum(parts) for parts in zip(node.before, source, node.after, strict=False))
        _require(wanted == result, stage, node, f"pads {source} to {result}")
    if isinstance(node, Concat):
        parts = [graph.shapes[name] for name in node.inputs] + ([] if node.constant is None else [node.constant.shape])
        fits = 2 <= len(parts) <= (4 if node.constant is None else 2)
        rest = {(*shape[: node.axis], *shape[node.axis + 1 :]) for shape in (*parts, result)}
        total = sum(shape[node.axis] for shape in parts)
        _require(fits and len(rest) == 1 and total == result[node.axis], stage, node, f"joins {parts} to {result}")
    if isinstance(node, Slice):
        ends = [s + (n - 1) * t for s, n, t in zip(node.starts, result, node.steps, strict=True)]
        inside = all(0 <= p < d for ends_of in (node.starts, ends) for p, d in zip(ends_of, source, strict=True))
        _require(inside, stage, node, f"reads outside of {source}")
    if isinstance(node, Gather):
        _require(max(node.indices) < source[node.axis], stage, node, f"takes indices outside of {source}")


def _broadcasts(shapes: list[Shape], result: Shape) -> bool:
    return all(set(sizes) <= {1, wanted} and wanted in sizes for *sizes, wanted in zip(*shapes, result, strict=True))


def _require(condition: bool, stage: str, node: Node | None, what: str) -> None:
    if not condition:
        where = f"{type(node).__name__} '{node.name}' " if node else ""
        raise VerifyError(f"after {stage}: {where}{what}; this is a bug of the compiler, please report the model")
