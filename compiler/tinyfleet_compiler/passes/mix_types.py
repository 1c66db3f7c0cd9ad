"""Some nodes work on int16 tensors; where they meet the others, a change of type is put between.

conv -> conv (wide) -> conv   =>   conv -> Clip to int16 -> conv (wide) -> Clip to int8 -> conv
"""

from dataclasses import dataclass, field, replace

from tinyfleet_compiler.graph import (
    Add,
    AveragePool,
    Binary,
    BinaryOperator,
    Clip,
    Conv,
    Gemm,
    Graph,
    Lookup,
    MaxPool,
    Node,
    Reduce,
    Shape,
    Softmax,
)

_WIDE = (Conv, Gemm, Add, Binary, Clip, Lookup, MaxPool, AveragePool, Reduce, Softmax)

_WIDE_BINARY = (BinaryOperator.ADD, BinaryOperator.SUB, BinaryOperator.MUL, BinaryOperator.MIN, BinaryOperator.MAX)


def can_be_wide(node: Node) -> bool:
    """Whether a node has an int16 kernel."""
    return isinstance(node, _WIDE) and not (isinstance(node, Binary) and node.operator not in _WIDE_BINARY)


@dataclass
class _Mixer:
    graph: Graph
    wide: set[str]
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, wide: bool) -> str:
        """`name`, or its copy of the other type."""
        if (self.graph.root(name) in self.wide) == wide:
            return name
        copy = f"{name}/{'int16' if wide else 'int8'}"
        if copy not in self.shapes:
            self.shapes[copy] = self.graph.shapes[name]
            self.sources[copy] = self.graph.root(name)
            self.nodes.append(Clip(copy, (name,), copy))
        return copy

    def add(self, node: Node) -> None:
        wide = node.output in self.wide
        self.nodes.append(replace(node, inputs=tuple(self.read(name, wide) for name in node.inputs)))


def mix_types(graph: Graph, wide: frozenset[str]) -> tuple[Graph, dict[str, str]]:
    """The graph with the nodes that write `wide` on int16, and for each copy it made the tensor it is a copy of.

    Inputs and outputs of the model stay int8.
    """
    mixer = _Mixer(graph, set(wide), shapes=dict(graph.shapes))
    for node in graph.nodes:
        mixer.add(node)
    outputs = tuple(mixer.read(name, wide=False) for name in graph.outputs)
    copies = {name for name in mixer.sources if name.endswith("/int16")}
    layouts = graph.source_layouts | {
        new: graph.source_layouts[old] for new, old in zip(outputs, graph.outputs, strict=True)
    }
    mixed = graph.with_nodes(
        mixer.nodes,
        outputs=outputs,
        output_names=graph.output_names or graph.outputs,
        shapes=mixer.shapes,
        source_layouts=layouts,
        wide=wide | copies,
    )
    return mixed, mixer.sources
