"""Graph -> graph, one idea a module; `simplify` runs them in order with a verifier after each."""

from collections.abc import Callable
from dataclasses import replace

from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.passes.fold_affine import fold_affine
from tinyfleet_compiler.passes.fold_transposes import fold_transposes
from tinyfleet_compiler.passes.fuse_activation import fuse_activation
from tinyfleet_compiler.passes.fuse_constant_add import fuse_constant_add
from tinyfleet_compiler.passes.fuse_constant_multiply import fuse_constant_multiply
from tinyfleet_compiler.passes.fuse_gather import fuse_gather
from tinyfleet_compiler.passes.fuse_l2_normalize import fuse_l2_normalize
from tinyfleet_compiler.passes.fuse_lookup import fuse_lookup
from tinyfleet_compiler.passes.fuse_normalize import fuse_normalize
from tinyfleet_compiler.passes.fuse_pad import fuse_pad
from tinyfleet_compiler.passes.fuse_scale import fuse_scale
from tinyfleet_compiler.passes.lower_layout import lower_layout
from tinyfleet_compiler.passes.narrow_cells import narrow_cells
from tinyfleet_compiler.passes.remove_dead import drop_unread, remove_dead
from tinyfleet_compiler.passes.rescale_joined import rescale_joined
from tinyfleet_compiler.passes.split_floats import split_floats
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.verify_graph import verify_graph, verify_lowered

PASSES = (
    remove_dead,
    fuse_normalize,
    fuse_l2_normalize,
    fold_transposes,
    fuse_scale,
    fuse_pad,
    fold_affine,
    fuse_constant_multiply,
    fuse_constant_add,
    fuse_activation,
    fuse_lookup,
    fuse_gather,
)


def simplify(graph: Graph) -> Graph:
    """Imported graph -> channels-last graph of fused nodes. Raises `VerifyError` when a pass breaks a rule."""
    return finish_lowered(lower_layout(_fuse(graph)), lower_layout.__name__)


def simplify_float(graph: Graph) -> Graph:
    """The same for a graph that stays float32: functions of one element keep their kernels, joins need no scales."""
    lowered = lower_layout(
        _fuse(graph, tuple(p for p in PASSES if p not in (fuse_lookup, fuse_normalize, fuse_l2_normalize)))
    )
    return finish_float(verify_lowered(lowered, lower_layout.__name__))


def finish_float(graph: Graph) -> Graph:
    """What a channels-last float graph still needs to run over float32 tensors."""
    return verify_lowered(split_floats(graph), split_floats.__name__)


def simplify_quantized(graph: Graph, barriers: tuple[str, ...]) -> Graph:
    """The same for a graph whose numbers come with it; `barriers` are tensors that stay as they are."""
    # A tensor somebody outside reads is not fused away.
    held = replace(graph, outputs=tuple(dict.fromkeys((*graph.outputs, *barriers))))
    fused = drop_unread(replace(_fuse(held), outputs=graph.outputs))
    return verify_lowered(lower_layout(fused), lower_layout.__name__)


def _fuse(graph: Graph, passes: tuple[Callable[[Graph], Graph], ...] = PASSES) -> Graph:
    verify_graph(graph, "import")
    for run in passes:
        graph = verify_graph(run(graph), run.__name__)
    return graph


def finish_lowered(graph: Graph, stage: str = "import") -> Graph:
    """What a channels-last graph of fused nodes still needs; one that comes quantised, where its numbers are real."""
    verify_lowered(graph, stage)
    if isinstance(graph, QuantizedGraph):
        return finish_float(graph)
    graph = verify_lowered(narrow_cells(graph), narrow_cells.__name__)
    return verify_lowered(rescale_joined(graph), rescale_joined.__name__)


__all__ = ["PASSES", "finish_float", "finish_lowered", "simplify", "simplify_float", "simplify_quantized"]
