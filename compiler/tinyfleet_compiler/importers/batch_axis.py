"""Tensors whose batch is not their first axis, as recurrent layers have them: (steps, batch, features)."""

from collections.abc import Sequence

import onnx

from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError

_KEEP = frozenset({"Cast", "Dropout", "Identity", "Relu", "Slice", "Split", "Tanh"})
"""Operators on the way to a layer that leave the batch where it is."""
ELEMENTWISE = frozenset(
    {
        *("Abs", "Cast", "Celu", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "QuantizeLinear", "Relu", "Selu", "Sigmoid"),
        *("Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
    }
)
_ALONG = {"LayerNormalization": -1, "LogSoftmax": -1, "RMSNormalization": -1, "Softmax": -1}
"""Operators that work along one axis -> where they look for it by default."""
TAKE_MOVED = frozenset(
    {"Concat", "GRU", "Gather", "LSTM", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
    | {"Shape", "Size"}  # of which only numbers are read
)
"""Operators whose importers ask where the batch is, and say where it goes."""
_OPERANDS = frozenset({"Add", "Div", "MatMul", "Max", "Min", "Mul", "Sub"})


def batch_second(steps: Sequence[onnx.NodeProto]) -> frozenset[str]:
    """Tensors that recurrent layers read, as they are or almost, with the batch as second axis."""
    found: set[str] = set()
    for node in reversed(steps):
        if node.op_type in ("GRU", "LSTM") and not any(a.name == "layout" and a.i for a in node.attribute):
            found.update(name for index, name in enumerate(node.input) if name and index in (0, 5, 6))
        elif node.op_type in _KEEP and any(name in found for name in node.output):
            found.update(node.input[:1])
    return frozenset(found)


def takes_moved(node: OnnxNode) -> bool:
    """Whether an operator works the same on a tensor whose batch is another axis than the first."""
    batch_axes = node.context.batch_axes
    data = [i for i in node.inputs if i and i not in node.context.constants]
    if node.operator in TAKE_MOVED:
        return True
    if any(batch_axes.get(i) != batch_axes.get(data[0]) for i in data):
        return False
    rank, at = len(node.shape(node.inputs.index(data[0]))) + 1, batch_axes[data[0]]
    if node.operator in ELEMENTWISE:
        return True
    if node.operator in _ALONG:
        axis = node.integer("axis", _ALONG[node.operator])
        return at != rank - 1 and axis in (-1, rank - 1)
    if node.operator in _OPERANDS:
        constants = [node.context.constants[i] for i in node.inputs if i in node.context.constants]
        most = 2 if node.operator == "MatMul" else 1  # one number, a row, or weights of the last axis
        return at != rank - 1 and all(c.ndim <= most for c in constants)
    return False


def moved_axis(node: OnnxNode, index: int = 0) -> int:
    """The axis of the batch of an input."""
    return node.context.batch_axes.get(node.data(index), 0)


def keep_moved(node: OnnxNode) -> None:
    """What the node gives has its batch where its first activation has it."""
    given = (node.context.batch_axes[i] for i in node.inputs if i in node.context.batch_axes)
    if at := next(given, 0):
        node.context.batch_axes |= {node.context.resolve(name): at for name in node.proto.output if name}


def inner_axis(axis: int, rank: int, batch: int) -> int:
    """An axis of the file as one of a shape that leaves the batch out. Raises `UnsupportedError` for the batch."""
    if not -rank <= axis < rank or axis % rank == batch:
        raise UnsupportedError(f"works along axis {axis} of {rank}", "use an axis other than the batch's")
    axis %= rank
    return axis - (axis > batch)
