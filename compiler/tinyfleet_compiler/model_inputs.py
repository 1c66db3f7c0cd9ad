"""What data of a model has to look like: its inputs in the model file's own layout and type."""

from tinyfleet_compiler.dataset import Codes, InputSpec
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.passes.attach_front_end import FEATURES, INPUT, full_scale
from tinyfleet_compiler.quantize.taken import QuantizedGraph


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """Model inputs in the model file's layout."""

    codes = _input_codes(graph)
    return tuple(
        InputSpec(name, source_shape(graph, name), graph.source_layouts[name], codes.get(name, Codes()))
        for name in graph.live_inputs
    )


def source_shape(graph: Graph, name: str) -> tuple[int, ...]:
    """Of one input, batch left out."""
    shape = graph.shapes[name]
    first = graph.source_layouts[name] is SourceLayout.CHANNELS_FIRST
    return (shape[-1], *shape[:-1]) if first else shape


def _input_codes(graph: Graph) -> dict[str, Codes]:
    """What integer arrays mean for the inputs of a quantised model."""
    if not isinstance(graph, QuantizedGraph):
        if INPUT not in graph.inputs or FEATURES not in graph.shapes:
            return {}
        full = full_scale(graph)
        return {INPUT: Codes(full.element.name.lower(), full.scale, 0)}
    found = {}
    for name, kind in graph.input_types.items():
        q = graph.parameters[name]
        found[name] = Codes(kind, q.scale, q.zero_point + (128 if kind == "uint8" else 0))
    return found
