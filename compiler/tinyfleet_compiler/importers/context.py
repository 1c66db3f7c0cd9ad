"""What a node importer sees: constants, shapes, attributes, and the way to say what is unsupported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tinyfleet_compiler.graph import Node, Shape
from tinyfleet_compiler.quantize.taken import Dequantized, Taken

MAX_TENSOR = 1 << 24
"""Elements of an activation: more than any microcontroller has memory for."""


class UnsupportedError(Exception):
    """This node cannot be taken: why, and what would help. Becomes one `Problem`."""

    def __init__(self, reason: str, help: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.help = help


@dataclass
class Context:
    """The import in progress."""

    opset: int
    constants: dict[str, np.ndarray]
    shapes: dict[str, Shape] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    taken: Taken = field(default_factory=Taken)
    """What QuantizeLinear and DequantizeLinear said (importers/qdq.py)."""
    audio: dict[str, Any] = field(default_factory=dict)
    """Tensors on the way from samples to features, by name (importers/audio.py)."""
    wide: dict[str, Any] = field(default_factory=dict)
    """Tensors of more than four dimensions, or without a batch, on the way to others, by name (importers/wide.py)."""
    read: frozenset[str] = frozenset()
    """Tensors that a node reads or the model gives out."""
    read_real: frozenset[str] = frozenset()
    """Those that are read as real numbers, not only to be quantised (`qdq.read_real`)."""
    batch_axes: dict[str, int] = field(default_factory=dict)
    """Tensors whose batch is not axis 0 -> its axis in the file; `shapes` leaves it out all the same."""
    backwards: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What layers that run backwards begin with -> name and operator of the layer."""
    dequantized: dict[str, Dequantized] = field(default_factory=dict)
    """Constants that came as integers, by the name of their real values."""

    def resolve(self, tensor: str) -> str:
        """The tensor an Identity chain leads to."""
        while tensor in self.aliases:
            tensor = self.aliases[tensor]
        return tensor

    def is_written(self, tensor: str) -> bool:
        """Whether a node or an initializer has written a tensor."""
        return any(tensor in written for written in (self.shapes, self.constants, self.wide))

    def is_read(self, tensor: str) -> bool:
        """Whether anybody needs a tensor."""
        return tensor in self.read

    def add(self, node: Node, shape: Shape) -> None:
        """Append an IR node and the shape of its output."""
        self.nodes.append(node)
        self.shapes[node.output] = shape


class OnnxNode:
    """One ONNX node with typed access to its parts."""

    def __init__(self, proto: onnx.NodeProto, context: Context, index: int) -> None:
        self.proto = proto
        self.context = context
        self.name = proto.name or proto.output[0] if proto.output else proto.name or f"node {index}"
        self.operator = proto.op_type
        self.inputs = [context.resolve(i) for i in proto.input]
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in proto.attribute}

    def part(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> "OnnxNode":
        """One of the steps that this node is taken in; the last one writes its output and has its name."""
        name = self.name if output == self.output else output
        return OnnxNode(helper.make_node(operator, inputs, [output], name=name, **attributes), self.context, 0)

    @property
    def output(self) -> str:
        """Name of the first output."""
        return str(self.proto.output[0])

    def has_input(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def data(self, index: int) -> str:
        """Name of an input that is an activation. Raises `UnsupportedError` for a constant."""
        if not self.has_input(index):
            raise UnsupportedError(f"input {index} is missing", "export the model again")
        if self.inputs[index] in self.context.constants:
            raise UnsupportedError(f"input {index} is a constant", "fold the constant part before export")
        return self.inputs[index]

    def shape(self, index: int = 0) -> Shape:
        """Shape of an activation input, batch left out."""
        return self.context.shapes[self.data(index)]

    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the first input. Raises `UnsupportedError` for another rank."""
        shape = self.shape()
        if len(shape) != 3:
            raise UnsupportedError(
                f"works on a tensor of {len(shape) + 1} dimensions", "use images (N, C, H, W) or sequences (N, C, L)"
            )
        return shape[0], shape[1], shape[2]

    def window_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the first input, (C, 1, L) of a sequence. Raises `UnsupportedError` for another rank."""
        shape = self.shape()
        return (shape[0], 1, shape[1]) if len(shape) == 2 else self.image_shape()

    def window_result(self, channels: int, rows: int, columns: int) -> Shape:
        """Shape of what a window gives, of the first input's rank."""
        return (channels, columns) if len(self.shape()) == 2 else (channels, rows, columns)

    def require_size(self, shape: Shape) -> None:
        """Raises `UnsupportedError` for a tensor that no device could hold, before anything of its size is made."""
        if float(np.prod([float(d) for d in shape])) > MAX_TENSOR:
            raise UnsupportedError(f"makes a tensor of shape {shape}", "use smaller tensors")

    def constant(self, index: int, what: str) -> np.ndarray:
        """An input that must be a constant. Raises `UnsupportedError` otherwise."""
        if not self.has_input(index) or self.inputs[index] not in self.context.constants:
            raise UnsupportedError(f"{what} is not a constant", f"export the model with {what} as an initializer")
        return self.context.constants[self.inputs[index]]

    def floats(self, index: int, what: str) -> np.ndarray:
        """A constant float input as float32."""
        array = self.constant(index, what)
        if not np.issubdtype(array.dtype, np.floating):
            raise UnsupportedError(f"{what} has type {array.dtype}", "export a float32 model")
        return array.astype(np.float32)

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        value = self.attributes.get(name)
        return default if value is None else tuple(int(v) for v in value)

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one integer."""
        return int(self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """An attribute that is one real number."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self.attributes.get(name)
        return default if value is None else bytes(value).decode("utf-8", "replace")
