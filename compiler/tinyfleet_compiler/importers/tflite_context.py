"""What a TFLite operator's importer sees: activations under IR names, constants, parameters, fused activations."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import INFINITY, Floats, Node, Shape, StateLink, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN, TfModel, TfOperator, TfTensor
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import FLOAT, MIN_SCALE, MIN_SCALE_INT16, Quantization
from tinyfleet_compiler.quantize.taken import TakenConstant
from tinyfleet_compiler.quantize.weights import WeightBlock

CODES = ("INT8", "UINT8", "INT16")
_WEIGHT_CODES = ("INT8", "UINT8", "INT4")
_ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: (-INFINITY, INFINITY),
    tflite.ActivationFunctionType.RELU: (0.0, INFINITY),
    tflite.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
    tflite.ActivationFunctionType.RELU6: (0.0, 6.0),
}


@dataclass
class Variable:
    """A resource variable: what it begins with, the tensor it was first read into, and what it holds by now."""

    name: str
    initial: TfTensor | None = None
    read: int = -1
    current: int = -1


@dataclass
class Variables:
    """Resource variables by name, and by the tensors that are handles to them."""

    by_name: dict[str, Variable] = field(default_factory=dict)
    handles: dict[int, Variable] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """IR name of the tensor a variable was first read into -> its name."""

    def reads(self) -> tuple[str, ...]:
        """IR names of tensors that begin an inference with what the one before left."""
        return tuple(self.names)

    def states(self, context: "TfContext", shown: tuple[str, ...]) -> tuple[StateLink, ...]:
        """One link per variable that an inference reads before it writes it."""
        found = []
        for read, name in self.names.items():
            variable = self.by_name[name]
            kept = context.names[context.resolve(variable.current)] if variable.current >= 0 else read
            found.append(StateLink(name, read, kept, kept not in shown, initial_value(variable, context, read)))
        return tuple(found)


def initial_value(variable: Variable, context: "TfContext", read: str) -> Floats | None:
    """(shape of the variable) real values its initialiser gives, None for none. Codes come back exactly."""
    if variable.initial is None:
        return None
    values = variable.initial.values
    if context.quantized:
        q = context.parameters[read]
        shift = 128 if variable.initial.type == "UINT8" else 0
        values = (values.astype(np.int64) - shift - q.zero_point).astype(np.float32) * np.float32(q.scale)
    return np.asarray(values, np.float32).reshape(context.shapes[read])


@dataclass
class TfContext:
    """The import in progress. Tensors are known by their index in the file, IR tensors by name."""

    model: TfModel
    quantized: bool
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    aliases: dict[int, int] = field(default_factory=dict)
    """Tensor -> the tensor it is a copy of: QUANTIZE and DEQUANTIZE at the borders."""
    known: set[int] = field(default_factory=set)
    """Activations that are written already."""
    parameters: dict[str, Quantization] = field(default_factory=dict)
    weights: dict[str, WeightBlock] = field(default_factory=dict)
    constants: dict[str, TakenConstant] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    variables: Variables = field(default_factory=Variables)
    islands: list[Problem] = field(default_factory=list)
    """Operators of a quantised model that compute real numbers."""
    macs: int = 0

    def __post_init__(self) -> None:
        taken: set[str] = set()
        for tensor in self.model.tensors:
            name = tensor.name if tensor.name not in taken else f"{tensor.name}#{tensor.index}"
            self.names[tensor.index] = name
            taken.add(name)

    def resolve(self, index: int) -> int:
        """The tensor that a chain of border copies leads to."""
        while index in self.aliases:
            index = self.aliases[index]
        return index

    def define(self, index: int, quantization: Quantization | None = None) -> str:
        """An activation the graph may read from now on: its shape, and in a quantised graph its parameters."""
        tensor, name = self.model.tensors[index], self.names[index]
        self.shapes[name] = sample_shape(tensor)
        if self.quantized and tensor.type == "FLOAT32" and quantization is None:
            self.parameters[name] = FLOAT
        elif self.quantized:
            self.parameters[name] = quantization or read_quantization(tensor)
        elif tensor.type != "FLOAT32" and quantization is None:
            raise UnsupportedError(f"'{tensor.name}' is {tensor.type}", "use float32 or int8 for all activations")
        self.known.add(index)
        return name


class TfNode:
    """One operator with typed access to its parts."""

    def __init__(self, item: TfOperator, context: TfContext) -> None:
        self.item = item
        self.context = context
        self.sources = item.inputs
        self.inputs = tuple(context.resolve(i) for i in item.inputs)
        self.operator = item.operator
        self.name = context.names[item.outputs[0]] if item.outputs else f"operator {item.index}"

    @property
    def quantized(self) -> bool:
        """Whether the operator works on codes: in a quantised model, not between a DEQUANTIZE and a QUANTIZE."""
        outputs = self.item.outputs
        return self.context.quantized and not (outputs and self.context.model.tensors[outputs[0]].type == "FLOAT32")

    @property
    def output(self) -> TfTensor:
        """The only output. Raises `UnsupportedError` for several."""
        if len(self.item.outputs) != 1:
            raise UnsupportedError(f"has {len(self.item.outputs)} outputs", EXPORT_AGAIN)
        return self.context.model.tensors[self.item.outputs[0]]

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] >= 0

    def tensor(self, index: int) -> TfTensor:
        """An input. Raises `UnsupportedError` when it is not there."""
        if not self.has(index):
            raise UnsupportedError(f"input {index} is missing", EXPORT_AGAIN)
        return self.context.model.tensors[self.inputs[index]]

    def is_constant(self, index: int) -> bool:
        """Whether an input comes with the file."""
        return self.tensor(index).raw is not None and self.inputs[index] not in self.context.known

    def data(self, index: int = 0) -> str:
        """IR name of an activation input. Raises `UnsupportedError` for anything else."""
        tensor = self.tensor(index)
        if self.inputs[index] not in self.context.known:
            what = "is a constant" if tensor.raw is not None else "is read before it is written"
            raise UnsupportedError(f"input '{tensor.name}' {what}", "fold constants and export the model again")
        if self.quantized and self.source_type(index) not in CODES:
            raise UnsupportedError(f"reads '{tensor.name}' as {self.source_type(index)}", "quantise the whole model")
        if self.context.quantized and not self.quantized and self.source_type(index) != "FLOAT32":
            raise UnsupportedError(f"turns {self.source_type(index)} into float32", "quantise its output")
        return self.context.names[self.inputs[index]]

    def source_type(self, index: int) -> str:
        """Element type of an input as the file says, before borders are followed."""
        return self.context.model.tensors[self.sources[index]].type

    def shape(self, index: int = 0) -> Shape:
        """Shape of an activation, batch left out."""
        return self.context.shapes[self.data(index)]

    def image_shape(self, index: int = 0) -> tuple[int, int, int]:
        """(H, W, C) of an activation (1, H, W, C). Raises `UnsupportedError`."""
        full = self.tensor(index).shape
        if len(full) != 4:
            raise UnsupportedError(f"works on {len(full)} dimensions", "use (1, H, W, C)")
        height, width, channels = self.shape(index)
        return height, width, channels

    def integers(self, index: int) -> tuple[int, ...]:
        """A constant input as plain integers (axes, shapes, pads)."""
        values = self.tensor(index).values
        if values.dtype.kind not in "iu" or values.size > 16:
            raise UnsupportedError(f"input {index} is no list of integers", EXPORT_AGAIN)
        return tuple(int(v) for v in values.reshape(-1))

    def quantization(self, index: int = 0) -> Quantization:
        """Parameters of an activation input."""
        return self.context.parameters[self.data(index)]

    def add(self, node: Node, shape: Shape | None = None) -> None:
        """Append a node that writes the output, whose shape in the file must be `shape` where one is given."""
        if shape is not None and shape != sample_shape(self.output):
            raise UnsupportedError(
                f"gives {shape}, the file says {sample_shape(self.output)}", "export the model with static shapes"
            )
        self.context.define(self.output.index)
        self.context.nodes.append(node)
        self.note_island()

    def note_island(self) -> None:
        """Remember an operator that works on real numbers between quantised tensors."""
        if self.context.quantized and not self.quantized:
            help = "quantise it too, or use a class with an FPU"
            self.context.islands.append(Problem(self.name, self.operator, "computes real numbers", help))

    def reorder(self, order: tuple[int, ...]) -> None:
        """Inputs `order` become inputs 0, 1, ...: for operators whose data is not the first."""
        self.inputs = tuple(self.inputs[i] for i in order)
        self.sources = tuple(self.sources[i] for i in order)

    def is_read(self, index: int) -> bool:
        """Whether an operator reads a tensor or the model gives it out."""
        model = self.context.model
        return index in model.outputs or any(index in o.inputs for o in model.operators)

    def output_shape(self, index: int) -> Shape:
        """Shape of one of several outputs, batch left out."""
        return sample_shape(self.context.model.tensors[index])

    def define_output(self, index: int, source: int = 0) -> str:
        """Define an output that keeps the quantisation of an input. Raises `UnsupportedError` when it does not."""
        name = self.context.define(index)
        if self.quantized and self.context.parameters[name] != self.quantization(source):
            raise UnsupportedError("changes scale or zero point", "keep the quantisation of its input")
        return name

    def put(self, node: Node, shape: Shape) -> None:
        """Append a node; a tensor that the file does not name takes the first input's quantisation."""
        self.context.shapes.setdefault(node.output, shape)
        if self.context.quantized:
            self.context.parameters.setdefault(node.output, self.quantization())
        self.context.nodes.append(node)

    def view(self, index: int, shape: Shape, name: str) -> str:
        """An input under another shape: itself where it has that shape."""
        source = self.data(index)
        if self.context.shapes[source] == shape:
            return source
        self.context.shapes[name], self.context.views[name] = shape, source
        return name

    def add_behind_view(self, index: int, kept: Shape, make: Callable[[str], Node]) -> None:
        """Append what `make` gives for a tensor of shape `kept`, of which the output, already defined, is a view."""
        name = self.context.names[index]
        if kept == self.context.shapes[name]:
            self.context.nodes.append(make(name))
            return
        whole = f"{name}/kept"
        self.context.shapes[whole], self.context.views[name] = kept, whole
        if self.quantized:
            self.context.parameters[whole] = self.context.parameters[name]
        self.context.nodes.append(make(whole))

    def add_view(self, index: int = 0) -> None:
        """The output is an input's bytes under another shape."""
        source, output = self.data(index), self.output
        if elements(self.shape(index)) != elements(sample_shape(output)):
            raise UnsupportedError(f"turns {self.shape(index)} into {sample_shape(output)}", EXPORT_AGAIN)
        name = self.context.define(output.index)
        self.keep_quantization(index)
        self.context.views[name] = source

    def is_wide(self, index: int = 0) -> bool:
        """Whether an activation input is int16."""
        return self.quantized and self.quantization(index).element is Element.INT16

    def is_any_int16(self) -> bool:
        """Whether an activation that is read or written is int16."""
        read = [i for i in self.inputs if i in self.context.known]
        return self.quantized and any(
            self.context.model.tensors[i].type == "INT16" for i in (*read, *self.item.outputs)
        )

    def keep_type(self) -> None:
        """Raises `UnsupportedError` when activations of different types meet."""
        types = {self.context.model.tensors[i].type for i in self.inputs if i in self.context.known}
        types |= {self.context.model.tensors[i].type for i in self.item.outputs}
        if self.quantized and "INT16" in types and types & {"INT8", "UINT8"}:
            raise UnsupportedError("mixes int16 and int8 activations", "put a QUANTIZE between them")

    def keep_quantization(self, index: int = 0) -> None:
        """Raises `UnsupportedError` when the output, already defined, has other parameters than an input."""
        if self.quantized and self.context.parameters[self.name] != self.quantization(index):
            raise UnsupportedError("changes scale or zero point", "keep the quantisation of its input")


def sample_shape(tensor: TfTensor) -> Shape:
    """Shape without a leading 1; a scalar is (1,). Raises `UnsupportedError` for an empty tensor."""
    shape = tensor.shape
    if any(d < 1 for d in shape):
        raise UnsupportedError(f"'{tensor.name}' has shape {shape}", "export the model with static, positive sizes")
    stripped = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    if len(stripped) > 4:
        raise UnsupportedError(f"'{tensor.name}' has {len(shape)} dimensions", "use at most four and a batch of 1")
    return stripped or (1,)


def read_quantization(tensor: TfTensor) -> Quantization:
    """Parameters of an activation; uint8 shifts to int8, which changes no real number. Raises `UnsupportedError`."""
    if tensor.type not in CODES:
        raise UnsupportedError(f"'{tensor.name}' is {tensor.type}", "quantise all activations to int8")
    if tensor.scales.size != 1 or tensor.zero_points.size != 1:
        raise UnsupportedError(f"'{tensor.name}' has {tensor.scales.size} scales", "give every activation one scale")
    scale = float(tensor.scales[0])
    wide = tensor.type == "INT16"
    zero_point = int(tensor.zero_points[0]) - (128 if tensor.type == "UINT8" else 0)
    smallest, zero_points = (MIN_SCALE_INT16, (0, 0)) if wide else (MIN_SCALE, (-128, 127))
    if not np.isfinite(scale) or scale < smallest or not zero_points[0] <= zero_point <= zero_points[1]:
        raise UnsupportedError(
            f"'{tensor.name}' has scale {scale:g} and zero point {int(tensor.zero_points[0])}",
            "quantise again with typical samples",
        )
    return Quantization(scale, zero_point, Element.INT16 if wide else Element.INT8)


def activation_bounds(kind: int) -> tuple[float, float]:
    """(low, high) of a fused activation function. Raises `UnsupportedError`."""
    if kind not in _ACTIVATIONS:
        raise UnsupportedError(f"has fused activation {kind}", "use none, RELU, RELU_N1_TO_1 or RELU6")
    return _ACTIVATIONS[kind]


def symmetric_codes(tensor: TfTensor) -> npt.NDArray[np.int8]:
    """Integer weights with their zero points taken off, where int8 holds the rest. Raises `UnsupportedError`."""
    if tensor.type not in _WEIGHT_CODES:
        raise UnsupportedError(f"weights '{tensor.name}' are {tensor.type}", "quantise weights to int8")
    if tensor.zero_points.size not in (1, tensor.scales.size):
        raise UnsupportedError(f"weights '{tensor.name}' have {tensor.zero_points.size} zero points", EXPORT_AGAIN)
    shape = [1] * len(tensor.shape)
    if tensor.zero_points.size > 1:
        _check_axis(tensor, tensor.axis)
        shape[tensor.axis] = -1
    wide = tensor.values.astype(np.int64) - tensor.zero_points.reshape(shape or [-1])
    if wide.size and (wide.min() < -128 or wide.max() > 127):
        raise UnsupportedError(
            f"weights '{tensor.name}' leave int8 without their zero point", "quantise weights symmetrically"
        )
    return wide.astype(np.int8)


def channel_scales(tensor: TfTensor, axis: int) -> npt.NDArray[np.float64]:
    """Weight scale per output channel along `axis`. Raises `UnsupportedError`."""
    channels = tensor.shape[axis]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        scales = tensor.scales.astype(np.float64)
    if scales.size == 0 or not np.isfinite(scales).all() or (scales < 0).any():
        raise UnsupportedError(f"weights '{tensor.name}' have no usable scales", "quantise the weights again")
    if scales.size == 1:
        return np.repeat(scales, channels)
    _check_axis(tensor, axis)
    return scales


def _check_axis(tensor: TfTensor, axis: int) -> None:
    if tensor.axis != axis or not 0 <= axis < len(tensor.shape) or tensor.scales.size != tensor.shape[axis]:
        raise UnsupportedError(
            f"weights '{tensor.name}' {tensor.shape} have {tensor.scales.size} scales along axis {tensor.axis}",
            "quantise per output channel or per tensor",
        )
