"""From a model file to the graph that a compile starts from: imported, simplified, behind its front end."""

from collections.abc import Mapping
from pathlib import Path

from tinyfleet_compiler.build_float import has_float_kernel
from tinyfleet_compiler.compile_graph import FLOAT32
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.front_end_file import read_front_end
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.importers import Imported, import_model
from tinyfleet_compiler.importers.states import Pairs
from tinyfleet_compiler.passes import finish_float, finish_lowered, simplify, simplify_float, simplify_quantized
from tinyfleet_compiler.passes.attach_front_end import attach_front_end
from tinyfleet_compiler.quantize.take import barriers, take_quantized
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.verify_graph import verify_lowered

MOST_NODES = 1_000
"""Once simplified: more than any microcontroller runs. What planning costs grows with the square."""


def load_graph(
    model: Path,
    front_end: str = "",
    dims: Mapping[str, int] | None = None,
    states: Pairs = (),
    type: str = "int8",
) -> Graph:
    """Import and simplify a model file for tensors of `type`, behind a front end (TOML text).

    `dims`, `states` as `CompileOptions`. Raises `ModelError` with every problem at once.
    """
    graph = _load_model(model, dims, states, type)
    text = front_end or graph.metadata.get("front_end", "")
    if text and type == FLOAT32:
        help = "compile it for int8, or leave the front end out"
        problem = Problem(model.name, "front end", "writes int8 features", help)
        raise ModelError(f"{model.name} cannot be compiled:", [problem])
    return attach_front_end(graph, *read_front_end(text)) if text else graph


def _load_model(model: Path, dims: Mapping[str, int] | None, states: Pairs, type: str) -> Graph:
    imported = import_model(model, dims, states)
    if imported.graph is None:
        raise ModelError(f"{model.name} cannot be compiled:", imported.problems)
    graph = _float_graph(model, imported) if type == FLOAT32 else _simplified(imported.graph, imported)
    if len(graph.nodes) > MOST_NODES:
        raise ModelError(f"{model.name} has {len(graph.nodes)} operators, at most {MOST_NODES} are planned; split it")
    if not graph.nodes:
        raise ModelError(
            f"{model.name} computes nothing: it only gives its input another shape; deploy a model that does"
        )
    return graph


def _simplified(graph: Graph, imported: Imported) -> Graph:
    if imported.lowered:
        return finish_lowered(graph)
    if not imported.taken.parameters:
        return simplify(graph)
    taken = take_quantized(simplify_quantized(graph, barriers(graph, imported.taken)), imported.taken)
    return finish_lowered(taken)


def _float_graph(model: Path, imported: Imported) -> Graph:
    assert imported.graph is not None
    graph = imported.graph
    if isinstance(graph, QuantizedGraph) or imported.taken.parameters:
        help = "leave out --type float32, or give the float model"
        raise ModelError(f"{model.name} is quantised:", [Problem(model.name, "model", "holds integers already", help)])
    lowered = finish_float(verify_lowered(graph, "import")) if imported.lowered else simplify_float(graph)
    if missing := [node for node in lowered.nodes if not has_float_kernel(node)]:
        help = "compile it for int8, with calibration data"
        problems = [Problem(n.name, type(n).__name__, "has no float32 kernel", help) for n in missing]
        raise ModelError(f"{model.name} cannot be compiled:", problems)
    return lowered


def require_float(model: Path, device_class: DeviceClass) -> None:
    """Raises `ModelError` for a class whose core would compute floats in software."""
    if "fpu" not in device_class.features:
        help = "use a class with feature fpu, or quantise to int8 with calibration data (--calibration)"
        reason = f"needs an FPU as float32, {device_class.name} has none"
        raise ModelError(f"{model.name} cannot be compiled:", [Problem(model.name, "model", reason, help)])


def check_islands(graph: Graph, model: Path, device_class: DeviceClass) -> None:
    """Raises `ModelError` where a quantised model computes real numbers in between and the class has no FPU."""
    if isinstance(graph, QuantizedGraph) and graph.islands and "fpu" not in device_class.features:
        text = f"{model.name} computes real numbers between quantised tensors, {device_class.name} has no FPU:"
        raise ModelError(text, graph.islands)


def needs_calibration(graph: Graph) -> bool:
    """Whether scales have to be found from samples: not for a model that comes quantised."""
    return not isinstance(graph, QuantizedGraph)
