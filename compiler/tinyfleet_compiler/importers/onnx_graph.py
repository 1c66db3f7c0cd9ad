"""ONNX model -> float graph, with every problem of every node collected in one pass."""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import Graph, Shape, elements
from tinyfleet_compiler.importers import (
    attention,
    audio,
    binary,
    dense,
    moves,
    pads,
    products,
    qdq,
    recurrent,
    reduce,
    repeats,
    resize,
    shapes,
    transposed,
    unary,
    wide,
    windows,
)
from tinyfleet_compiler.importers.audio_levels import LEVEL_STEPS
from tinyfleet_compiler.importers.audio_spectrum import SPECTRUM_STEPS, begin_audio
from tinyfleet_compiler.importers.batch_axis import TAKE_MOVED, batch_second, keep_moved, takes_moved
from tinyfleet_compiler.importers.context import Context, OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.fold_constants import FOLDERS, SIZES, fold_constant
from tinyfleet_compiler.importers.imported import Imported
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS, load_onnx, read_tensors
from tinyfleet_compiler.importers.onnx_inputs import read_inputs
from tinyfleet_compiler.importers.states import METADATA_KEY, Pairs, link_states, read_pairs, refuse_backwards
from tinyfleet_compiler.importers.untaken import ONNX_HELP, what_helps

IMPORTERS: dict[str, Callable[[OnnxNode], None]] = {
    "Attention": attention.import_attention,
    "AveragePool": windows.import_average_pool,
    "BatchNormalization": dense.import_batch_normalization,
    "Clip": dense.import_clip,
    "Concat": moves.import_concat,
    "Conv": windows.import_conv,
    "ConvTranspose": transposed.import_conv_transpose,
    "DepthToSpace": moves.import_depth_to_space,
    "DequantizeLinear": qdq.import_dequantize,
    "Dropout": shapes.import_identity,
    "Flatten": dense.import_flatten,
    "Gather": moves.import_gather,
    "Gemm": dense.import_gemm,
    "GlobalMaxPool": windows.import_global_max_pool,
    "GlobalAveragePool": windows.import_global_average_pool,
    "GRU": recurrent.import_gru,
    "Identity": shapes.import_identity,
    "LSTM": recurrent.import_lstm,
    "MatMul": dense.import_matmul,
    "MaxPool": windows.import_max_pool,
    "Pad": pads.import_pad,
    "QuantizeLinear": qdq.import_quantize,
    "Relu": dense.import_relu,
    "Reshape": dense.import_reshape,
    "Resize": resize.import_resize,
    "Slice": moves.import_slice,
    "LogSoftmax": dense.import_softmax,
    "Softmax": dense.import_softmax,
    "SpaceToDepth": moves.import_space_to_depth,
    "Split": moves.import_split,
    "Squeeze": dense.import_squeeze,
    "Transpose": shapes.import_transpose,
    "Unsqueeze": dense.import_unsqueeze,
    "PRelu": unary.import_prelu,
    **dict.fromkeys(unary.MAKERS, unary.import_unary),
    **dict.fromkeys(binary.OPERATORS, binary.import_binary),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), binary.import_several),
    **dict.fromkeys(reduce.OPERATORS, reduce.import_reduce),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare"), reduce.import_reduce_norm),
    "ArgMax": reduce.import_arg_max,
    "ArgMin": reduce.import_arg_max,
    "Cast": repeats.import_cast,
    "CastLike": repeats.import_cast,
    "Expand": repeats.import_expand,
    "GroupNormalization": products.import_channel_normalization,
    "InstanceNormalization": products.import_channel_normalization,
    "LayerNormalization": products.import_layer_normalization,
    "LpNormalization": products.import_lp_normalization,
    "RMSNormalization": products.import_layer_normalization,
    "Tile": repeats.import_tile,
    "TopK": products.import_top_k,
    "Where": repeats.import_where,
}


_AUDIO_STEPS = SPECTRUM_STEPS | LEVEL_STEPS
_ONLY_AUDIO = sorted({"STFT", *(operator for _, operator in _AUDIO_STEPS)} - IMPORTERS.keys())


def import_onnx(path: Path, dims: Mapping[str, int] | None = None, pairs: Pairs = ()) -> Imported:
    """Read an ONNX file (opset 11 to 25); `dims` gives sizes of symbolic dimensions by name, `pairs` as
    importers/states.py, beside those in its metadata.

    Raises `ModelError` when it is no model at all.
    """
    model = load_onnx(path)
    arrays, problems = read_tensors(model, path.parent)
    steps = qdq.expand_qlinear(model.graph, arrays)
    read = frozenset((*(i for s in steps for i in s.input), *(o.name for o in model.graph.output)))
    real = qdq.read_real(model.graph, steps)
    context = Context(opset=_opset(model), constants=dict(arrays), read=read, read_real=real)
    declared = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in declared]
    problems += read_inputs(context, inputs, dims or {}, batch_second(steps))
    failed = declared - arrays.keys() | {i.name for i in inputs if i.name not in context.shapes}
    nodes, unordered = _sorted(steps, set(declared) | arrays.keys() | {i.name for i in inputs})
    problems += unordered
    for index, proto in enumerate(nodes):
        problems += _import_node(OnnxNode(proto, context, index), failed)
    return _finish(model, context, [i.name for i in inputs], problems, pairs)


def _opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def elements_float(shape: Shape) -> float:
    """Elements without integer overflow, for bounds on hostile shapes."""
    product = 1.0
    for size in shape:
        product *= float(size)
    return product


def _sorted(steps: list[onnx.NodeProto], known: set[str]) -> tuple[list[onnx.NodeProto], list[Problem]]:
    """Nodes so that inputs come first (Kahn); what is left over is cyclic or reads undefined tensors."""
    waiting: dict[str, list[int]] = {}
    missing: list[int] = []
    ready: list[int] = []
    for index, node in enumerate(steps):
        needs = {i for i in node.input if i and i not in known}
        missing.append(len(needs))
        for name in needs:
            waiting.setdefault(name, []).append(index)
        if not needs:
            ready.append(index)
    order: list[onnx.NodeProto] = []
    for index in ready:  # grows while it runs
        order.append(steps[index])
        for name in steps[index].output:
            for reader in waiting.pop(name, ()):
                missing[reader] -= 1
                if missing[reader] == 0:
                    ready.append(reader)
    done = set(ready)
    left = [n for i, n in enumerate(steps) if i not in done]
    help = "export the model again; its nodes form a cycle or read tensors that nothing writes"
    return order, [Problem(n.name, n.op_type, "never gets all its inputs", help) for n in left]


def _import_node(node: OnnxNode, failed: set[str]) -> list[Problem]:
    before = len(node.context.nodes)
    try:
        if not node.proto.output:
            raise UnsupportedError("has no output", "export the model again")
        if node.proto.domain not in ("", "ai.onnx"):
            raise UnsupportedError(f"is of domain '{node.proto.domain}'", "use only standard ONNX operators")
        if node.operator in qdq.DYNAMIC:
            raise UnsupportedError("finds scales at run time", "quantise statically, with calibration data")
        if node.operator not in IMPORTERS and node.operator not in (*FOLDERS, *SIZES, *_ONLY_AUDIO):
            raise UnsupportedError("is not supported", what_helps(node.operator, IMPORTERS, ONNX_HELP))
        if any(i in failed for i in node.inputs):
            failed.update(node.proto.output)
            return []
        if any(node.context.is_written(o) for o in node.proto.output if o):
            raise UnsupportedError("writes a tensor that is written already", "export the model again")
        if any(i in node.context.batch_axes for i in node.inputs) and not takes_moved(node):
            raise UnsupportedError(
                "reads a tensor whose batch is not its first axis", "transpose it back to (1, steps, ...) first"
            )
        folded = fold_constant(node)
        if folded is not None:
            node.context.constants[node.output] = folded
        elif wide.absorb(node, IMPORTERS) or audio.absorb(node, _AUDIO_STEPS) or begin_audio(node):
            pass
        elif node.operator in _ONLY_AUDIO:
            raise UnsupportedError("is taken only on the way from STFT to features", audio.HELP)
        elif node.operator in IMPORTERS:
            IMPORTERS[node.operator](node)
            if node.operator not in TAKE_MOVED:
                keep_moved(node)
            qdq.note_constants(node, node.context.nodes[before:])
            _check_size(node)
        else:
            raise UnsupportedError("works on an activation", what_helps(node.operator, IMPORTERS, ONNX_HELP))
    except UnsupportedError as error:
        problem = Problem(node.name, node.operator, error.reason, error.help)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
        problem = Problem(node.name, node.operator, f"is malformed ({error})", "export the model again")
    else:
        return []
    del node.context.nodes[before:]
    failed.update(node.proto.output)
    return [problem]


def _check_size(node: OnnxNode) -> None:
    if not node.output:  # a recurrent layer whose last row alone is read
        return
    shape = node.context.shapes[node.context.resolve(node.output)]
    if elements_float(shape) > MAX_ELEMENTS or max(shape) > windows.MAX_EXTENT * 256:
        raise UnsupportedError(f"makes a tensor of shape {shape}", "use smaller tensors")


def _settle_output(context: Context, name: str) -> list[Problem]:
    try:
        audio.settle(context, name)
        if name in context.wide:
            raise wide.left(context.wide[name], "is")
    except UnsupportedError as error:
        return [Problem(name, "output", error.reason, error.help)]
    return []


def _finish(
    model: onnx.ModelProto, context: Context, inputs: list[str], problems: list[Problem], pairs: Pairs
) -> Imported:
    metadata = {p.key: p.value for p in model.metadata_props}
    named = {o.name: context.resolve(o.name) for o in model.graph.output}
    pairs = tuple(dict.fromkeys((*read_pairs(metadata.get(METADATA_KEY, "")), *pairs)))
    linked = link_states(pairs, inputs, named, context.shapes)
    problems = problems or [
        *linked.problems,
        *refuse_backwards(linked.states, context.backwards, context.nodes),
    ]
    outputs = [named[name] for name in linked.shown]
    for name in outputs:
        problems += _settle_output(context, name)
        if name not in context.shapes and not problems:
            problems.append(Problem(name, "output", "is constant or never written", "export the model again"))
    if not inputs:
        problems.append(Problem(model.graph.name, "model", "has no input", "export a model with an input"))
    if not context.nodes and not problems:
        problems.append(Problem(model.graph.name, "model", "computes nothing", "export a model with operators"))
    if len(set(outputs)) != len(outputs) and not problems:
        problems.append(Problem(model.graph.name, "model", "gives one tensor out twice", "remove the second output"))
    if problems:
        return Imported(None, tuple(problems))
    kept = [state.kept for state in linked.states]
    graph = Graph(
        tuple(context.nodes),
        tuple(inputs),
        tuple(dict.fromkeys((*outputs, *kept))),
        context.shapes,
        metadata=metadata,
        output_names=linked.shown,
        states=linked.states,
    )
    return Imported(graph, (), taken=context.taken)


__all__ = ["IMPORTERS", "Imported", "elements", "import_onnx"]
