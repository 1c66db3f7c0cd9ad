"""TFLite model -> channels-last graph, float or with its own quantisation, every problem collected in one pass."""

from collections.abc import Callable
from pathlib import Path

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import AveragePool, Conv, Gemm, Graph, MaxPool, Node, elements
from tinyfleet_compiler.importers import tflite_bidirectional as bidirectional
from tinyfleet_compiler.importers import tflite_binary as binary
from tinyfleet_compiler.importers import tflite_dense as dense
from tinyfleet_compiler.importers import tflite_lstm as lstm
from tinyfleet_compiler.importers import tflite_moves as moves
from tinyfleet_compiler.importers import tflite_products as products
from tinyfleet_compiler.importers import tflite_rearrange as rearrange
from tinyfleet_compiler.importers import tflite_recurrent as recurrent
from tinyfleet_compiler.importers import tflite_reduce as reduce
from tinyfleet_compiler.importers import tflite_tables as tables
from tinyfleet_compiler.importers import tflite_variables as variables
from tinyfleet_compiler.importers import tflite_windows as windows
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.imported import Imported
from tinyfleet_compiler.importers.states import Linked, Pairs, link_states
from tinyfleet_compiler.importers.tflite_context import CODES, TfContext, TfNode
from tinyfleet_compiler.importers.tflite_dilation import fold_dilations
from tinyfleet_compiler.importers.tflite_file import DAMAGED, EXPORT_AGAIN, TfModel, TfOperator, load_tflite
from tinyfleet_compiler.importers.tflite_shapes import fold_shapes
from tinyfleet_compiler.importers.untaken import what_helps
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.quantize.taken import QuantizedGraph

MAX_MACS = 1 << 33
"""One inference of a larger model takes minutes on any microcontroller, and its check here too long."""

IMPORTERS: dict[str, Callable[[TfNode], None]] = {
    "ADD": binary.import_binary,
    "AVERAGE_POOL_2D": windows.import_average_pool_2d,
    "CONCATENATION": moves.import_concatenation,
    "CONV_2D": windows.import_conv_2d,
    "DEPTHWISE_CONV_2D": windows.import_depthwise_conv_2d,
    "DIV": binary.import_binary,
    "DEQUANTIZE": dense.import_dequantize,
    "EXPAND_DIMS": dense.import_reshape,
    "FULLY_CONNECTED": dense.import_fully_connected,
    "LEAKY_RELU": tables.import_leaky_relu,
    "L2_NORMALIZATION": dense.import_l2_normalization,
    "LOG_SOFTMAX": dense.import_log_softmax,
    "LOGISTIC": tables.import_logistic,
    "MAXIMUM": binary.import_binary,
    "MAX_POOL_2D": windows.import_max_pool_2d,
    "MEAN": reduce.import_reduce,
    "MINIMUM": binary.import_binary,
    "MUL": binary.import_binary,
    "PAD": moves.import_pad,
    "PADV2": moves.import_pad,
    "QUANTIZE": dense.import_quantize,
    "REDUCE_MAX": reduce.import_reduce,
    "RELU": dense.import_relu,
    "RELU6": dense.import_relu,
    "RELU_N1_TO_1": dense.import_relu,
    "RESHAPE": dense.import_reshape,
    "SLICE": moves.import_slice,
    "SOFTMAX": dense.import_softmax,
    "SQUEEZE": dense.import_reshape,
    "STRIDED_SLICE": moves.import_strided_slice,
    "SUB": binary.import_binary,
    "SUM": reduce.import_reduce,
    "TANH": tables.import_tanh,
    "TRANSPOSE": dense.import_transpose,
    "SVDF": recurrent.import_svdf,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm.import_lstm,
    "VAR_HANDLE": variables.import_var_handle,
    "READ_VARIABLE": variables.import_read_variable,
    "ASSIGN_VARIABLE": variables.import_assign_variable,
    "CALL_ONCE": variables.import_call_once,
    "ABS": tables.import_abs,
    "ARG_MAX": products.import_arg_max,
    "ARG_MIN": products.import_arg_max,
    "BATCH_MATMUL": products.import_batch_matmul,
    "BIDIRECTIONAL_SEQUENCE_LSTM": bidirectional.import_bidirectional_lstm,
    "BROADCAST_TO": rearrange.import_tile,
    "CAST": dense.import_cast,
    "DEPTH_TO_SPACE": rearrange.import_depth_to_space,
    "ELU": tables.import_elu,
    "GATHER": rearrange.import_gather,
    "HARD_SWISH": tables.import_hard_swish,
    "MIRROR_PAD": rearrange.import_mirror_pad,
    "PACK": rearrange.import_pack,
    "PRELU": tables.import_prelu,
    "RSQRT": tables.import_rsqrt,
    "REDUCE_MIN": reduce.import_reduce,
    "RESIZE_BILINEAR": rearrange.import_resize,
    "RESIZE_NEAREST_NEIGHBOR": rearrange.import_resize,
    "REVERSE_V2": rearrange.import_reverse,
    "SPACE_TO_DEPTH": rearrange.import_depth_to_space,
    "SPLIT": rearrange.import_split,
    "SPLIT_V": rearrange.import_split,
    "SQUARED_DIFFERENCE": binary.import_binary,
    "TILE": rearrange.import_tile,
    "TOPK_V2": products.import_top_k,
    "TRANSPOSE_CONV": products.import_transpose_conv,
    "UNPACK": rearrange.import_unpack,
    **dict.fromkeys(tables.FUNCTIONS, tables.import_function),
}


_DILATION = "write the dilated convolution between the two as one with a dilation, stride 1, and nothing else between"
HELP = {
    "ADD_N": "chain ADD operators",
    "BATCH_TO_SPACE_ND": _DILATION,
    "CUMSUM": "multiply by a triangular matrix",
    "GATHER_ND": "use GATHER or SLICE",
    "IF": "fold conditions before conversion",
    "L2_POOL_2D": "use SQUARE, AVERAGE_POOL_2D and SQRT",
    "SELECT_V2": "multiply by a mask of zeros and ones",
    "SPACE_TO_BATCH_ND": _DILATION,
    "WHILE": "unroll loops before conversion",
    **dict.fromkeys(("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"), "compare on the host"),
    **dict.fromkeys(("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"), "use MINIMUM, MAXIMUM or arithmetic on 0 and 1"),
    **dict.fromkeys(("FLOOR_DIV", "FLOOR_MOD"), "divide, and use FLOOR"),
    "LSTM": "use UNIDIRECTIONAL_SEQUENCE_LSTM (Keras layers.LSTM)",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "use UNIDIRECTIONAL_SEQUENCE_LSTM (Keras layers.LSTM)",
    **dict.fromkeys(("FILL", "ZEROS_LIKE"), "give it a shape and a value that are constants"),
}
"""What helps with operators that are known and not taken."""

_CHANGE_TYPE = ("QUANTIZE", "DEQUANTIZE")
INT16_OPERATORS = frozenset(
    (
        *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "LEAKY_RELU", "TRANSPOSE_CONV"),
        *("EXPAND_DIMS", "FULLY_CONNECTED", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D"),
        *("MEAN", "MINIMUM", "MUL", "PAD", "RELU"),
        *("RELU6", "RESHAPE", "SLICE", "SOFTMAX", "SQUEEZE"),
        *("STRIDED_SLICE", "SUB", "TANH", "TRANSPOSE"),
    )
)
"""Operators whose int16 form gives TFLM's bytes."""


def import_tflite(path: Path, pairs: Pairs = ()) -> Imported:
    """Read a .tflite file, float32 or int8 (uint8 shifts to int8); `pairs` as importers/states.py.

    Raises `ModelError` when it is no model at all.
    """
    model = fold_dilations(fold_shapes(load_tflite(path)))
    context = TfContext(model, _is_quantized(model))
    failed: set[int] = set()
    problems = [p for index in model.inputs for p in _define_input(context, index, failed)]
    for item in model.operators:
        problems += _import_operator(context, item, failed)
    inputs = [context.names[i] for i in model.inputs]
    named = {context.names[o]: context.names[context.resolve(o)] for o in model.outputs}
    linked = link_states(pairs, inputs, named, context.shapes)
    problems += [*linked.problems, *_check_ends(context, linked)] if not problems else []
    if problems:
        return Imported(None, tuple(problems))
    return Imported(_finish(context, linked), (), lowered=True)


def _is_quantized(model: TfModel) -> bool:
    """Whether any operator writes codes, or the model is given some."""
    written = [t for o in model.operators for t in o.outputs]
    return any(model.tensors[t].type in CODES for t in (*model.inputs, *written))


def _define_input(context: TfContext, index: int, failed: set[int]) -> list[Problem]:
    tensor = context.model.tensors[index]
    try:
        if tensor.raw is not None or index in context.known:
            raise UnsupportedError("is a constant or named twice", EXPORT_AGAIN)
        if len(tensor.shape) > 1 and tensor.shape[0] != 1:
            raise UnsupportedError(f"has a batch of {tensor.shape[0]}", "export with a batch of 1")
        if not (context.quantized and tensor.type == "FLOAT32" and _is_only_quantized(context, index)):
            context.define(index)
    except UnsupportedError as error:
        failed.add(index)
        return [Problem(tensor.name, "input", error.reason, error.help)]
    return []


def _is_only_quantized(context: TfContext, index: int) -> bool:
    """Whether a float input is read by QUANTIZE alone, which then says how the device holds it."""
    readers = [operator for operator in context.model.operators if index in operator.inputs]
    return bool(readers) and all(operator.operator == "QUANTIZE" for operator in readers)


def _import_operator(context: TfContext, item: TfOperator, failed: set[int]) -> list[Problem]:
    before = len(context.nodes)
    node = TfNode(item, context)
    try:
        if item.operator not in IMPORTERS:
            raise UnsupportedError("is not supported", what_helps(item.operator, IMPORTERS, HELP))
        if any(i in failed for i in node.inputs):
            failed.update(item.outputs)
            return []
        silent = not item.outputs and item.operator not in variables.SILENT
        if silent or any(o in context.known or context.resolve(o) != o for o in item.outputs):
            raise UnsupportedError("writes nothing, or a tensor that is written already", EXPORT_AGAIN)
        if any(context.model.tensors[o].raw is not None for o in item.outputs):
            raise UnsupportedError("writes a constant", EXPORT_AGAIN)
        IMPORTERS[item.operator](node)
        if item.operator not in _CHANGE_TYPE:
            node.keep_type()
            if node.is_any_int16() and item.operator not in INT16_OPERATORS:
                raise UnsupportedError("is int16", "quantise it to int8")
        _check_cost(context.nodes[before:], context)
    except UnsupportedError as error:
        problem = Problem(node.name, item.operator, error.reason, error.help)
    except (*DAMAGED, ZeroDivisionError) as error:
        problem = Problem(node.name, item.operator, f"is malformed ({error})", EXPORT_AGAIN)
    else:
        return []
    del context.nodes[before:]
    failed.update(item.outputs)
    return [problem]


def _check_cost(nodes: list[Node], context: TfContext) -> None:
    for node in nodes:
        if isinstance(node, (Conv, Gemm)):
            times = elements(context.shapes[node.output]) // len(node.weights)
            context.macs += times * node.weights.size
        elif isinstance(node, (MaxPool, AveragePool)):
            taps = node.window.kernel[0] * node.window.kernel[1]
            context.macs += taps * elements(context.shapes[node.output])
    if context.macs > MAX_MACS:
        raise UnsupportedError(f"brings the model to {context.macs} multiplications", "use a smaller model")


def _check_ends(context: TfContext, linked: Linked) -> list[Problem]:
    model, found = context.model, []
    outputs = [o for o in model.outputs if context.names[o] in linked.shown]
    names = [context.names[context.resolve(o)] for o in outputs]
    for index in model.inputs:
        if context.names[index] not in context.shapes:
            found.append(Problem(context.names[index], "input", "is not read", "remove it"))
    written = {node.output for node in context.nodes} | set(context.variables.reads())
    for index, name in zip(outputs, names, strict=True):
        root = name
        while root in context.views:
            root = context.views[root]
        if root not in written:
            found.append(Problem(context.names[index], "output", "is no result of any operator", EXPORT_AGAIN))
    if len(set(names)) != len(names):
        found.append(Problem(names[0], "model", "gives one tensor out twice", "remove the second output"))
    return found


def _finish(context: TfContext, linked: Linked) -> Graph:
    model = context.model
    shown = tuple(context.names[context.resolve(o)] for o in model.outputs if context.names[o] in linked.shown)
    states = (*linked.states, *context.variables.states(context, shown))
    inputs = (*(context.names[i] for i in model.inputs), *context.variables.reads())
    outputs = tuple(dict.fromkeys((*shown, *(state.kept for state in states))))
    nodes = _reachable(context, outputs)
    graph = Graph(
        nodes,
        inputs,
        outputs,
        context.shapes,
        source_layouts=dict.fromkeys((*inputs, *outputs), SourceLayout.SAME),
        output_names=linked.shown,
        views=context.views,
        states=states,
    )
    if not context.quantized:
        return graph
    return QuantizedGraph(
        **{name: getattr(graph, name) for name in Graph.__dataclass_fields__},
        parameters={name: q for name, q in context.parameters.items() if name not in context.views},
        weights=context.weights,
        constants=context.constants,
        islands=tuple(context.islands),
        input_types={context.names[i]: model.tensors[i].type.lower() for i in model.inputs},
    )


def _reachable(context: TfContext, outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """Nodes that some output needs, in order."""

    def root(name: str) -> str:
        while name in context.views:
            name = context.views[name]
        return name

    needed, kept = {root(name) for name in outputs}, []
    for node in reversed(context.nodes):
        if node.output in needed:
            needed.update(root(i) for i in node.inputs)
            kept.append(node)
    return tuple(lstm.begin_anew(kept[::-1], root))
