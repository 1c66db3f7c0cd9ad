"""Importers of resource variables: what a streaming model keeps between inferences (VAR_HANDLE and its readers)."""

import tflite

from tinyfleet_compiler.graph import elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, Variable, sample_shape
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN, TfModel, TfOperator, TfTensor

SILENT = ("ASSIGN_VARIABLE", "CALL_ONCE")
"""Operators without an output."""
_HELP = "keep one type, shape and quantisation for everything a variable holds"


def import_var_handle(node: TfNode) -> None:
    """VAR_HANDLE: a name for a variable, known by container and shared name."""
    variables, name = node.context.variables, _variable_name(node.item)
    variables.handles[node.output.index] = variables.by_name.setdefault(name, Variable(name))


def _variable_name(item: TfOperator) -> str:
    options = item.options(tflite.VarHandleOptions)
    parts = [(text or b"").decode("utf-8", "replace") for text in (options.Container(), options.SharedName())]
    name = "/".join(part for part in parts if part)
    return name if name.isprintable() and name else "variable"


def _variable(node: TfNode) -> Variable:
    found = node.context.variables.handles.get(node.inputs[0]) if node.inputs else None
    if found is None:
        raise UnsupportedError("does not name its variable by VAR_HANDLE", EXPORT_AGAIN)
    return found


def import_read_variable(node: TfNode) -> None:
    """READ_VARIABLE: what the inference before left, or what this one has assigned already."""
    variable, output, context = _variable(node), node.output, node.context
    if variable.current >= 0:
        _require_alike(context.model.tensors[variable.current], output)
        context.aliases[output.index] = variable.current
        return
    if variable.initial is not None:
        _require_alike(variable.initial, output)
    variable.read = variable.current = output.index
    context.variables.names[context.define(output.index)] = variable.name


def import_assign_variable(node: TfNode) -> None:
    """ASSIGN_VARIABLE of an activation: the next inference finds it."""
    variable = _variable(node)
    node.data(1)
    if variable.read >= 0:
        _require_alike(node.context.model.tensors[variable.read], node.tensor(1))
    elif variable.initial is not None:
        _require_alike(variable.initial, node.tensor(1))
    variable.current = node.inputs[1]


def _require_alike(held: TfTensor, other: TfTensor) -> None:
    """A variable holds bytes: all that is put in and taken out must mean the same by them."""
    same = held.type == other.type and elements(sample_shape(held)) == elements(sample_shape(other))
    if held.scales.size and other.scales.size:
        same &= (
            held.scales.tolist() == other.scales.tolist() and held.zero_points.tolist() == other.zero_points.tolist()
        )
    if not same:
        raise UnsupportedError(f"a variable holds '{held.name}' and '{other.name}', which differ", _HELP)


def import_call_once(node: TfNode) -> None:
    """CALL_ONCE of a graph that assigns constants: what variables hold before the first inference."""
    index = node.item.options(tflite.CallOnceOptions).InitSubgraphIndex()
    graphs = node.context.model.others
    if not 1 <= index <= len(graphs):
        raise UnsupportedError(f"calls graph {index}, which is not there", EXPORT_AGAIN)
    _initialise(node, graphs[index - 1])


def _initialise(node: TfNode, graph: TfModel) -> None:
    handles: dict[int, str] = {}
    for item in graph.operators:
        if item.operator == "VAR_HANDLE" and len(item.outputs) == 1:
            handles[item.outputs[0]] = _variable_name(item)
        elif item.operator == "ASSIGN_VARIABLE" and len(item.inputs) == 2 and item.inputs[0] in handles:
            _begin_with(node, handles[item.inputs[0]], graph.tensors[item.inputs[1]])
        else:
            raise UnsupportedError(f"its initialiser runs {item.operator}", "initialise variables with constants")


def _begin_with(node: TfNode, name: str, value: TfTensor) -> None:
    variable = node.context.variables.by_name.setdefault(name, Variable(name))
    if value.raw is None:
        raise UnsupportedError("its initialiser assigns no constant", "initialise variables with constants")
    if variable.read >= 0 or variable.current >= 0:
        raise UnsupportedError("initialises a variable that is in use", "call the initialiser first")
    variable.initial = value
