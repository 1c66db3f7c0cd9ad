"""model(features) -> model(FEATURES(samples)): the model's input becomes the output of an audio front end."""

from dataclasses import replace

from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.front_end import FrontEnd
from tinyfleet_compiler.graph import Features, Graph, Transpose
from tinyfleet_compiler.operators import Element, SourceLayout
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.verify_graph import verify_lowered

INPUT = "audio"
FEATURES = "audio/features"
_TURNED = "audio/turned"


def attach_front_end(graph: Graph, front: FrontEnd, samples: int) -> Graph:
    """A channels-last graph with input `audio` (samples,). Raises `ModelError` when the shapes do not meet."""
    if len(graph.live_inputs) != 1:
        raise _misfit(f"the model has {len(graph.live_inputs)} inputs", "attach a front end to a model of one input")
    model_input = graph.live_inputs[0]
    wanted = tuple(size for size in graph.shapes[model_input] if size > 1)
    made = tuple(size for size in front.shape if size > 1)
    if wanted not in (made, made[::-1]):
        reason = (
            f"makes {front.shape[0]} frames of {front.shape[1]} features, the model takes {graph.shapes[model_input]}"
        )
        raise _misfit(reason, "change samples, hop or the number of features")
    turned = wanted != made
    shapes = graph.shapes | {INPUT: (samples,), FEATURES: front.shape}
    nodes = [Features("audio front end", (INPUT,), FEATURES, front=front)]
    moved = [Transpose("audio/turn", (FEATURES,), _TURNED, perm=(1, 0))] if turned else []
    if turned:
        shapes[_TURNED] = front.shape[::-1]
    attached = graph.with_nodes(
        (*nodes, *moved, *graph.nodes),
        inputs=(INPUT, *(state.read for state in graph.states)),
        shapes=shapes,
        views=graph.views | {model_input: _TURNED if turned else FEATURES},
        source_layouts=graph.source_layouts | {INPUT: SourceLayout.SAME},
    )
    return verify_lowered(_with_parameters(attached, model_input, turned), attach_front_end.__name__)


def behind_front_end(graph: Graph) -> Graph:
    """An attached graph from its features on: what calibration on features runs."""
    nodes = [node for node in graph.nodes if not isinstance(node, Features)]
    return graph.with_nodes(nodes, inputs=(FEATURES, *(state.read for state in graph.states)))


def full_scale(graph: Graph) -> Quantization:
    """Codes of an attached front end's samples: they span [-1, 1)."""
    wide = any(isinstance(node, Features) and node.front.wide for node in graph.nodes)
    return Quantization(2.0**-31, 0, Element.INT32) if wide else Quantization(2.0**-15, 0, Element.INT16)


def _with_parameters(graph: Graph, model_input: str, turned: bool) -> Graph:
    if not isinstance(graph, QuantizedGraph):
        return graph
    taken = graph.parameters[model_input]
    added = {INPUT: full_scale(graph), FEATURES: taken} | ({_TURNED: taken} if turned else {})
    return replace(
        graph, parameters=graph.parameters | added, input_types={INPUT: full_scale(graph).element.name.lower()}
    )


def _misfit(reason: str, help: str) -> ModelError:
    return ModelError("the front end does not fit the model:", [Problem(INPUT, "front end", reason, help)])
