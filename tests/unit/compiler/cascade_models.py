"""Random graphs that run by rows, and one model executed with every tensor in memory of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from tinyfleet_compiler import Image, read_image
from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.cascade import Cascade, build_cascade
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.image import Golden
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.layout import NO_OVERLAP
from tinyfleet_compiler.operators import OpFlag
from tinyfleet_compiler.passes import simplify
from tinyfleet_compiler.plan_memory import choose_order, plan_memory
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.simulate import collect_outputs, golden_crc
from tinyfleet_compiler.verify_plan import verify_plan
from tinyfleet_compiler.write_image import ImageSpec, TensorSpec, write_image
from unit.compiler.onnx_models import node, save_model

SEEN = Observed(-1.0, 1.0, np.linspace(-1, 1, 64, dtype=np.float32))
POISON = 77


@st.composite
def row_graphs(draw: Any) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[str]]:
    """Nodes, constants and outputs: windows of any stride, pad and dilation, sums, tables, slopes, softmax between."""
    shapes: dict[str, tuple[int, int, int]] = {"x": (4, 9, 5)}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for index in range(draw(st.integers(2, 9))):
        # Mostly the newest tensor, so that chains grow long.
        source = draw(st.sampled_from([list(shapes)[-1]] * 3 + sorted(shapes)))
        _grow(draw, rng, index, source, shapes, nodes, constants)
    read = {name for n in nodes for name in n.input}
    return nodes, constants, [n.output[0] for n in nodes if n.output[0] not in read]


def _grow(
    draw: Any, rng: np.random.Generator, index: int, source: str, shapes: Any, nodes: Any, constants: Any
) -> None:
    channels, height, width = shapes[source]
    name = f"t{index}"
    kind = draw(st.sampled_from(["conv", "depthwise", "max", "average", "add", "bias", "sigmoid", "prelu", "softmax"]))
    mates = sorted(t for t in shapes if shapes[t] == shapes[source])
    shapes[name] = shapes[source]
    if kind == "add":
        nodes.append(node("Add", [source, draw(st.sampled_from(mates))], name))
    elif kind == "bias":
        constants[f"c{index}"] = rng.normal(size=(channels, 1, 1)).astype(np.float32)
        nodes.append(node("Add", [source, f"c{index}"], name))
    elif kind == "prelu":
        constants[f"c{index}"] = rng.uniform(0.1, 0.5, (channels, 1, 1)).astype(np.float32)
        nodes.append(node("PRelu", [source, f"c{index}"], name))
    elif kind == "sigmoid":
        nodes.append(node("Sigmoid", [source], name))
    elif kind == "softmax":
        nodes.append(node("Softmax", [source], name, axis=1))
    else:
        size = draw(st.integers(1, 3))
        stride = draw(st.integers(1, 2))
        dilation = draw(st.integers(1, 2)) if kind in ("conv", "depthwise") else 1
        reach = (size - 1) * dilation + 1
        pads = [draw(st.integers(0, reach - 1)) for _ in range(4)]
        out = [(s + pads[a] + pads[a + 2] - reach) // stride + 1 for a, s in enumerate((height, width))]
        if min(height + pads[0] + pads[2], width + pads[1] + pads[3]) < reach:
            nodes.append(node("Sigmoid", [source], name))
            return
        window = {"pads": pads, "strides": [stride] * 2}
        if kind in ("max", "average"):
            operator = "MaxPool" if kind == "max" else "AveragePool"
            nodes.append(node(operator, [source], name, kernel_shape=[size] * 2, **window))
        else:
            groups = channels if kind == "depthwise" else 1
            outputs = channels if kind == "depthwise" else draw(st.sampled_from([2, 4, 8]))
            constants[f"w{index}"] = rng.normal(size=(outputs, channels // groups, size, size)).astype(np.float32)
            nodes.append(node("Conv", [source, f"w{index}"], name, group=groups, dilations=[dilation] * 2, **window))
            channels = outputs
        shapes[name] = (channels, *out)


def load(path: Path, drawn: tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[str]]) -> Graph:
    nodes, constants, outputs = drawn
    imported = import_onnx(save_model(path, nodes, [1, 4, 9, 5], constants, outputs=outputs))
    assert imported.graph is not None, [str(p) for p in imported.problems]
    return simplify(imported.graph)


def compiled_for_ram(graph: Graph, device_class: str = "host", arena_bytes: int | None = None) -> Compiled:
    """Proved by the verifier on the way; in strips where it needs more than `arena_bytes`."""
    seen = dict.fromkeys([*graph.inputs, *(n.output for n in graph.nodes)], SEEN)
    identity = Identity("m", "v", device_class, arena_bytes=arena_bytes)
    return compile_graph(graph, seen, "min-max", identity, golden_vectors=1, optimize="ram")


def with_cascades(compiled: Compiled, *spans: tuple[int, int], strips: int = 1) -> Compiled:
    """The same ops with cascades [first, end) in strips instead of the ones the planner chose."""
    graph, whole = compiled.graph, {op.output: _bytes(compiled, op.output) for op in compiled.ops}
    whole |= {name: _bytes(compiled, name) for name in graph.inputs}
    outputs = [graph.root(name) for name in graph.outputs]
    # Their distances are those of the order that was chosen: ops outside cascades do not overlap at all.
    ops = [replace(op, flags=op.flags & ~OpFlag.REVERSED, overlap_bytes=NO_OVERLAP) for op in compiled.ops]
    cascades = []
    for first, end in spans:
        cascade = _cascade(compiled, ops, first, end, strips)
        assert cascade is not None
        cascades.append(cascade)
    plan = plan_memory(ops, whole, graph.inputs, outputs, cascades)
    ordered = choose_order(ops, plan)
    draft = replace(image_spec(compiled, ops=ordered, plan=plan), golden=Golden((1,), 0))
    crc = golden_crc(read_image(write_image(draft)), (1,))
    data = write_image(replace(draft, golden=Golden((1,), crc)))
    image = read_image(data)
    verify_plan(image, ordered, whole, graph.inputs, outputs)
    return replace(compiled, ops=ordered, plan=plan, data=data, image=image)


def wide_model(path: Path) -> Path:
    """Two inverted residuals on (6, 24) pixels of 8 channels: a ring of three rows of 48 is larger than the input."""
    rng, nodes, weights, source = np.random.default_rng(0), [], {}, "x"
    for i in range(2):
        weights[f"e{i}"] = rng.normal(size=(48, 8, 1, 1)).astype(np.float32)
        weights[f"d{i}"] = rng.normal(size=(48, 1, 3, 3)).astype(np.float32)
        weights[f"p{i}"] = rng.normal(size=(8, 48, 1, 1)).astype(np.float32)
        nodes += [
            node("Conv", [source, f"e{i}"], f"wide{i}"),
            node("Relu", [f"wide{i}"], f"r{i}"),
            node("Conv", [f"r{i}", f"d{i}"], f"deep{i}", pads=[1] * 4, group=48),
            node("Conv", [f"deep{i}", f"p{i}"], f"narrow{i}"),
            node("Add", [source, f"narrow{i}"], f"y{i}"),
        ]
        source = f"y{i}"
    return save_model(path, nodes, [1, 8, 6, 24], weights, outputs=["y1"])


def bottleneck(folder: Path) -> Graph:
    """The graph of `wide_model`."""
    imported = import_onnx(wide_model(folder / "b.onnx"))
    assert imported.graph is not None
    return simplify(imported.graph)


def sequence(folder: Path) -> Graph:
    """Convolutions over 200 steps of 4 values, 32 inside: rows would be all there is."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (32, 4, 5), "w1": (32, 32, 5), "w2": (8, 32, 5)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        node("Conv", ["x", "w0"], "a", pads=[2, 2]),
        node("Sigmoid", ["a"], "s"),
        node("Conv", ["s", "w1"], "b", pads=[2, 2], dilations=[2], strides=[2]),
        node("MaxPool", ["b"], "p", kernel_shape=[2], strides=[2]),
        node("Conv", ["p", "w2"], "c", pads=[2, 2]),
        node("ReduceMean", ["c"], "y", axes=[2]),
    ]
    imported = import_onnx(save_model(folder / "s.onnx", nodes, [1, 4, 200], weights, outputs=["y"]))
    assert imported.graph is not None
    return simplify(imported.graph)


def _cascade(compiled: Compiled, ops: Sequence[Op], first: int, end: int, strips: int) -> Cascade | None:
    graph = compiled.graph
    read = {name for op in ops[end:] for name in op.inputs} | {graph.root(name) for name in graph.outputs}
    kept = frozenset(op.output for op in ops[first:end] if op.output in read)
    return build_cascade(ops, first, end, graph.shapes, kept, strips)


def in_strips(compiled: Compiled, count: int) -> Compiled:
    """The same ops, every longest run of them that can be cut into `count` strips of columns a cascade of its own."""
    spans, at, ops = [], 0, compiled.ops
    while at < len(ops):
        ends = range(len(ops), at + 1, -1)
        end = next((end for end in ends if _cascade(compiled, ops, at, end, count)), at + 1)
        spans += [(at, end)] if end > at + 1 else []
        at = end
    return with_cascades(compiled, *spans, strips=count)


def apart(compiled: Compiled) -> Image:
    """The same ops without cascades, every tensor and scratch in memory of its own."""
    offsets, at = {}, 0
    sizes = compiled.plan.sizes | {t: n for op in compiled.ops for t, n in [(op.output, _bytes(compiled, op.output))]}
    for name, size in sizes.items():
        offsets[name] = at
        at += -(-size // 4) * 4
    plan = replace(compiled.plan, offsets=offsets, arena_bytes=at, sizes=sizes, cascades=())
    ops = [replace(op, flags=op.flags & ~OpFlag.REVERSED) for op in compiled.ops]
    return read_image(write_image(image_spec(compiled, plan=plan, ops=ops)))


def image_spec(compiled: Compiled, **changes: Any) -> ImageSpec:
    """What `compiled` was written from, with other ops or another plan."""
    graph, parameters = compiled.graph, compiled.parameters

    def tensor(name: str) -> TensorSpec:
        root = graph.root(name)
        return TensorSpec(name, root, graph.shapes[name], parameters[root], graph.source_layouts[name])

    ends = [tensor(t) for t in graph.inputs], [tensor(t) for t in graph.outputs]
    scales = [parameters[op.output].scale for op in compiled.ops]
    parts: dict[str, Any] = {"ops": compiled.ops, "plan": compiled.plan} | changes
    return ImageSpec(parts["ops"], parts["plan"], *ends, scales, "host", "m", "v")


def poisoned_outputs(image: Image, seed: int, samples: int = 1) -> list[np.ndarray]:
    """Every op's output for random inputs, in an arena that is full of something else."""
    rng = np.random.default_rng(seed)
    arena = np.full((samples, image.arena_bytes), POISON, np.int8)
    for tensor in image.inputs:
        codes = rng.integers(-128, 128, (samples, tensor.size_bytes)).astype(np.int8)
        arena[:, tensor.offset : tensor.offset + tensor.size_bytes] = codes
    return collect_outputs(image, arena)


def _bytes(compiled: Compiled, name: str) -> int:
    return int(np.prod(compiled.graph.shapes[name])) * compiled.parameters[name].bytes
