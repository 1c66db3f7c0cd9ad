"""ONNX models that come quantised: QuantizeLinear and DequantizeLinear pairs, and the QLinear operators.

Pairs vanish from the graph. What they said is kept beside it: the parameters of each tensor, the scales of each layer's
integer weights. `quantize.take` puts both together once the graph is simplified.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx

from tinyfleet_compiler.graph import Clip, ConvTranspose, Node
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.quantize.parameters import MIN_SCALE, Quantization
from tinyfleet_compiler.quantize.taken import Dequantized, LayerScales

Array = npt.NDArray[np.generic]
UINT8_SHIFT = 128
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RENAME = ("Cast", "Dropout", "Identity")
_READ_NO_NUMBERS = ("QuantizeLinear", "Shape", "Size")
DYNAMIC = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM")
EXPAND = {
    "QLinearConv": "Conv",
    "QLinearMatMul": "MatMul",
    "QLinearAdd": "Add",
    "QLinearMul": "Mul",
    "QGemm": "Gemm",
}
"""Quantised operators of ONNX and of ONNX Runtime (com.microsoft), and the float ones inside."""
UNARY = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}


def read_real(graph: onnx.GraphProto, steps: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Tensors that are given out, or that others than QuantizeLinear compute with, also under another name."""
    found = {output.name for output in graph.output}
    for node in reversed(steps):
        if node.op_type in _RENAME:
            found.update(node.input[:1] if any(name in found for name in node.output) else ())
        elif node.op_type not in _READ_NO_NUMBERS:
            found.update(node.input)
    return frozenset(found)


def import_quantize(node: OnnxNode) -> None:
    """QuantizeLinear-10/13/19/21 of an activation: its tensor has these parameters from now on; where somebody computes
    with its real numbers, a copy of it has them."""
    source = node.data(0)
    wanted = _activation_parameters(node, _output_type(node))
    known = node.context.taken.parameters.get(source)
    real = known is None and source in node.context.read_real
    if real or (known is not None and known != wanted):  # or a second grid for the same tensor
        copy = f"{node.output}/grid"
        node.context.add(Clip(node.name, (source,), copy), node.shape())
        source = copy
    node.context.taken.parameters[source] = wanted
    node.context.aliases[node.output] = source


def import_dequantize(node: OnnxNode) -> None:
    """DequantizeLinear of an activation: the tensor its QuantizeLinear came from, or an integer model input."""
    source, taken = node.data(0), node.context.taken
    kind = taken.input_types.get(source, "")
    if kind in ("int8", "uint8"):
        wanted = _activation_parameters(node, np.dtype(kind))
        if taken.parameters.setdefault(source, wanted) != wanted:
            raise UnsupportedError("reads a model input with other parameters than before", "use one scale an input")
    elif source in taken.input_types and source not in taken.parameters:
        raise UnsupportedError("reads a tensor that nothing quantised", "export the model again")
    elif source not in taken.parameters:  # codes that were moved about: a reshape, a pool between the two
        taken.parameters[source] = _activation_parameters(node, _output_type(node))
    elif _scale_of(node) != np.float32(taken.parameters[source].scale):
        raise UnsupportedError("has another scale than the QuantizeLinear before it", "export the model again")
    node.context.aliases[node.output] = source


def read_number(node: OnnxNode, index: int, what: str) -> float:
    """A constant of one number. Beside codes (ONNX Runtime's Pad, Clip of narrow integers) it is a code, too: what it
    stands for on the grid of the node's first input, which may have been moved about."""
    values = node.constant(index, what).reshape(-1)
    if values.size != 1:
        raise UnsupportedError(f"{what} has {values.size} values", "use one number")
    if values.dtype not in (np.int8, np.uint8):
        return float(values[0])
    source, makers = node.data(0), {one.output: one for one in node.context.nodes}
    while source not in node.context.taken.parameters and source in makers:
        source = node.context.resolve(makers[source].inputs[0])
    grid = node.context.taken.parameters.get(source)
    if grid is None:
        raise UnsupportedError(f"{what} is a code, and nothing says of which scale", "begin with QuantizeLinear")
    return (int(values[0]) - (UINT8_SHIFT if values.dtype == np.uint8 else 0) - grid.zero_point) * grid.scale


def fold_quantize(node: OnnxNode) -> Array:
    """QuantizeLinear of a constant: the codes."""
    values, kind = node.constant(0, "the input"), _output_type(node)
    if kind not in (np.int8, np.uint8):
        raise UnsupportedError(f"quantises to {kind}", "quantise to int8 or uint8")
    scale, zero = (_along(node, values.ndim, array) for array in _scale_and_zero(node))
    low, high = (0, 255) if kind == np.uint8 else (-128, 127)
    codes = np.clip(np.rint(values / scale.astype(np.float32)) + zero, low, high)
    return np.asarray(codes.astype(kind))


def fold_dequantize(node: OnnxNode) -> Array:
    """DequantizeLinear of a constant: real numbers; the codes are remembered for the layer that reads them."""
    codes = node.constant(0, "the input")
    if codes.dtype not in (np.int8, np.uint8, np.int32):
        raise UnsupportedError(f"holds {codes.dtype}", "quantise weights to int8 or uint8, biases to int32")
    scales, zeros = _scale_and_zero(node)
    if scales.size > 1 and scales.size != dict(enumerate(codes.shape)).get(
        node.integer("axis", 1) % max(codes.ndim, 1)
    ):
        raise UnsupportedError(f"has {scales.size} scales for {codes.shape}", "quantise per tensor or per channel")
    plain = codes.astype(np.int64) - _along(node, codes.ndim, zeros).astype(np.int64)
    shift = UINT8_SHIFT if codes.dtype == np.uint8 else 0
    wide = scales.astype(np.float64).reshape(-1)
    kept = zeros.astype(np.int64).reshape(-1) - shift
    node.context.dequantized[node.output] = Dequantized(plain, wide, kept)
    return np.asarray(plain * _along(node, codes.ndim, scales).astype(np.float64), dtype=np.float32)


def note_constants(node: OnnxNode, made: list[Node]) -> None:
    """Remember what the constants of an imported node were as integers. Raises `UnsupportedError`."""
    dequantized, taken = node.context.dequantized, node.context.taken
    found = [dequantized.get(name) for name in node.inputs]
    if node.operator in WEIGHTED and len(found) > 1 and found[1] is not None:
        weights = found[1]
        if weights.codes.size and (weights.codes.min() < -128 or weights.codes.max() > 127):
            return  # int8 does not hold them without their zero point: a float layer, or one to list
        bias = found[2] if len(found) > 2 else None
        scales = weights.scales * (node.real("alpha", 1.0) if node.operator == "Gemm" else 1.0)
        if (scales > 0.0).all():  # else the weights lie on no grid, which is said where they are taken
            taken.layers.update({one.name: LayerScales(scales, bias) for one in made})
    elif node.operator not in WEIGHTED:
        for constant in (one for one in found if one is not None and one.scales.size == 1):
            grid = Quantization(float(constant.scales[0]), int(constant.zero_points[0]))
            taken.operands.update({one.name: grid for one in made})
    if any(isinstance(one, ConvTranspose) for one in made) and found[1] is not None and found[1].scales.size > 1:
        raise UnsupportedError("has a scale per channel", "quantise transposed convolutions per tensor")


def _activation_parameters(node: OnnxNode, kind: np.dtype[np.generic]) -> Quantization:
    if kind not in (np.int8, np.uint8):
        raise UnsupportedError(f"quantises an activation to {kind}", "quantise activations to int8 or uint8")
    scale, zero = _scale_and_zero(node)
    if scale.size != 1 or zero.size != 1:
        raise UnsupportedError(f"gives an activation {scale.size} scales", "quantise activations per tensor")
    value = float(scale.reshape(-1)[0])
    if not np.isfinite(value) or value < MIN_SCALE:
        raise UnsupportedError(f"has scale {value:g}", "quantise again with typical samples")
    return Quantization(value, int(zero.reshape(-1)[0]) - (UINT8_SHIFT if kind == np.uint8 else 0))


def _scale_and_zero(node: OnnxNode) -> tuple[Array, Array]:
    if node.integer("block_size", 0):
        raise UnsupportedError("quantises in blocks", "quantise per tensor or per channel")
    scale = node.floats(1, "the scale")
    zero = node.constant(2, "the zero point") if node.has_input(2) else np.zeros(scale.shape, np.uint8)
    if not np.isfinite(scale).all() or (scale <= 0).any() or zero.size != scale.size:
        raise UnsupportedError("has a scale that is not positive, or another number of zero points", "quantise again")
    return scale, zero


def _scale_of(node: OnnxNode) -> np.float32:
    return np.float32(_scale_and_zero(node)[0].reshape(-1)[0])


def _output_type(node: OnnxNode) -> np.dtype[np.generic]:
    """Of the zero point, else of attribute output_dtype, else uint8."""
    if node.has_input(2):
        return node.constant(2, "the zero point").dtype
    kind = node.integer("output_dtype", 0)
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else np.dtype(np.uint8)


def _along(node: OnnxNode, rank: int, values: Array) -> Array:
    """Per-channel values shaped to repeat along every other axis."""
    if values.size == 1:
        return values.reshape(())
    axis = node.integer("axis", 1)
    if not -rank <= axis < rank:
        raise UnsupportedError(f"has axis {axis} of {rank}", "export the model again")
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


# ---- QLinear operators as pairs around float ones


def expand_qlinear(graph: onnx.GraphProto, arrays: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The nodes with the operators of `EXPAND`, `UNARY` and QLinearConcat written as pairs; new constants go into
    `arrays`."""
    return [made for node in graph.node for made in _expand(node, arrays)]


def _expand(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    if node.op_type == "QLinearConcat":
        return _expand_concat(node)
    return _expand_operator(node, arrays) if node.op_type in UNARY | EXPAND else [node]


def _expand_concat(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """com.microsoft: scale and zero point of the result, then each tensor with its own."""
    result, parts = list(node.input[:2]), list(node.input[2:])
    if not node.output or not parts or len(parts) % 3:
        return [node]  # reported as it stands
    name = _name_of(node)
    reals = [f"{name}/{index}" for index in range(len(parts) // 3)]
    made = [
        _pair("DequantizeLinear", parts[3 * index : 3 * index + 3], real, f"{real}_dequantized", 0)
        for index, real in enumerate(reals)
    ]
    body = onnx.helper.make_node("Concat", reals, [f"{name}/y"], name=name)
    body.attribute.extend(node.attribute)
    return [*made, body, _pair("QuantizeLinear", [f"{name}/y", *result], node.output[0], f"{name}/y_quantized", 0)]


def _name_of(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)


def _expand_operator(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    inputs, name = list(node.input), _name_of(node)
    if not node.output or len(inputs) < (5 if node.op_type in UNARY else 8):
        return [node]  # reported as it stands
    if node.op_type in UNARY:
        operands, bias, result = [inputs[0:3]], "", inputs[3:5]
    elif node.op_type == "QGemm":
        operands, bias, result = [inputs[0:3], inputs[3:6]], inputs[6], inputs[7:9]
    else:
        operands, bias, result = [inputs[0:3], inputs[3:6]], (inputs[8:9] or [""])[0], inputs[6:8]
    given = {a.name: a for a in node.attribute} if node.op_type == "QGemm" else {}
    axis = 0 if node.op_type == "QLinearConv" or ("transB" in given and given["transB"].i) else 1
    alpha = np.float32(given["alpha"].f if "alpha" in given else 1.0)  # QGemm adds C before this factor
    reals = [f"{name}/{letter}" for letter, _ in zip("ab", operands, strict=False)]
    made = [
        _pair("DequantizeLinear", part, real, f"{real}_dequantized", axis)
        for part, real in zip(operands, reals, strict=True)
    ]
    if bias:
        scale, scales = f"{name}/bias_scale", [part[1] for part in operands]
        if all(s in arrays for s in scales):
            arrays[scale] = (arrays[scales[0]] * arrays[scales[1]] * alpha).astype(np.float32)
            arrays[f"{scale}/zero"] = np.zeros(arrays[scale].shape, np.int32)
        reals.append(f"{name}/bias")
        made.append(_pair("DequantizeLinear", [bias, scale, f"{scale}/zero"], reals[-1], scale, 0))
    body = onnx.helper.make_node((UNARY | EXPAND)[node.op_type], reals, [f"{name}/y"], name=name)
    body.attribute.extend(a for a in node.attribute if a.name not in ("channels_last", "opset"))
    return [*made, body, _pair("QuantizeLinear", [f"{name}/y", *result], node.output[0], f"{name}/y_quantized", 1)]


def _pair(operator: str, inputs: list[str], output: str, name: str, axis: int) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs, [output], name=name, axis=axis)
