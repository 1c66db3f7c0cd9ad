"""Importers of element-wise operators over two operands, broadcast as ONNX does."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Add, Binary, BinaryOperator, Clip, Floats, Reshape, Shape
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.fold_numbers import NUMBER_FOLDERS

OPERATORS = {
    "Add": BinaryOperator.ADD,
    "Sub": BinaryOperator.SUB,
    "Mul": BinaryOperator.MUL,
    "Div": BinaryOperator.DIV,
    "Min": BinaryOperator.MIN,
    "Max": BinaryOperator.MAX,
    "Sum": BinaryOperator.ADD,
}
MOST_OPERANDS = 64


def import_several(node: OnnxNode) -> None:
    """Sum, Max, Min, Mean (8 to 13): constants become one, operands are joined two by two; a mean is a sum / n."""
    names, constants = _operands(node)
    operator = "Sum" if node.operator == "Mean" else node.operator
    if len(constants) > 1:
        together = f"{node.output}/constant"
        node.context.constants[together] = NUMBER_FOLDERS[operator](node.part(operator, constants, together))
        constants = [together]
    joined, *others = [*(n for n in names if n not in node.context.constants), *constants]
    for index, other in enumerate(others):
        last = index == len(others) - 1 and operator == node.operator
        part = node.output if last else f"{node.output}/part{index}"
        import_binary(node.part(operator, [joined, other], part))
        joined = part
    if operator != node.operator:
        share = f"{node.output}/share"
        node.context.constants[share] = np.asarray(1.0 / len(names), np.float32)
        import_binary(node.part("Mul", [joined, share], node.output))
    elif joined != node.output:
        node.context.aliases[node.output] = joined


def _operands(node: OnnxNode) -> tuple[list[str], list[str]]:
    """All of them, and those that are constant."""
    if "" in node.inputs:
        raise UnsupportedError("leaves one of its inputs out", "export the model again")
    if not 1 <= len(node.inputs) <= MOST_OPERANDS:
        raise UnsupportedError(f"has {len(node.inputs)} inputs", f"join at most {MOST_OPERANDS} at a time")
    return node.inputs, [name for name in node.inputs if name in node.context.constants]


def import_binary(node: OnnxNode) -> None:
    """Add, Sub, Mul, Div (opset 7 to 14) of two operands, at most one of them constant."""
    if len(node.inputs) != 2:
        raise UnsupportedError(f"has {len(node.inputs)} inputs", "give it two")
    constants = [i for i in (0, 1) if node.inputs[i] in node.context.constants]
    if constants:
        _with_constant(node, constants[0])
    else:
        _with_activations(node)


def _with_activations(node: OnnxNode) -> None:
    shapes = node.shape(0), node.shape(1)
    operator = OPERATORS[node.operator]
    out = _joined(node, *shapes)
    names = tuple(_raised(node, index, len(out)) for index in (0, 1))
    if operator is BinaryOperator.ADD and shapes[0] == shapes[1]:
        node.context.add(Add(node.name, names, node.output), out)
    else:
        node.context.add(Binary(node.name, names, node.output, operator=operator), out)


def _joined(node: OnnxNode, a: Shape, b: Shape) -> Shape:
    try:
        return tuple(int(d) for d in np.broadcast_shapes(a, b))
    except ValueError:
        raise UnsupportedError(f"joins shapes {a} and {b}", "give both sizes that are equal or 1") from None


def _raised(node: OnnxNode, index: int, rank: int) -> str:
    """The operand with leading axes of 1 up to `rank`."""
    name, shape = node.data(index), node.shape(index)
    if len(shape) == rank:
        return name
    target = (1,) * (rank - len(shape)) + shape
    raised = f"{node.output}/operand{index}"
    node.context.add(Reshape(f"{node.name}/operand{index}", (name,), raised, shape=target), target)
    return raised


def _with_constant(node: OnnxNode, index: int) -> None:
    operator, swapped = OPERATORS[node.operator], index == 0
    shape = node.shape(1 - index)
    constant = _constant(node, index)
    out = _joined(node, shape, constant.shape)
    constant = constant.reshape((1,) * (len(out) - constant.ndim) + constant.shape)
    plain = Binary(
        node.name,
        (_raised(node, 1 - index, len(out)),),
        node.output,
        operator=operator,
        constant=constant,
        swapped=swapped and operator in (BinaryOperator.SUB, BinaryOperator.DIV),
    )
    if operator in (BinaryOperator.MIN, BinaryOperator.MAX) and constant.size == 1:
        bound = float(constant.reshape(-1)[0])
        limits = {"high": bound} if operator is BinaryOperator.MIN else {"low": bound}
        node.context.add(Clip(node.name, plain.inputs, node.output, **limits), out)
    elif operator is BinaryOperator.DIV and not swapped:
        node.context.add(replace(plain, operator=BinaryOperator.MUL, constant=_inverse(constant)), out)
    elif out == shape and (operator is BinaryOperator.ADD or (operator is BinaryOperator.SUB and not swapped)):
        signed = constant if operator is BinaryOperator.ADD else -constant
        full = np.ascontiguousarray(np.broadcast_to(signed, out))
        node.context.add(Add(node.name, plain.inputs, node.output, constant=full), out)
    else:
        node.context.add(plain, out)


def _constant(node: OnnxNode, index: int) -> Floats:
    """The constant operand, its batch axis left out."""
    constant = node.floats(index, "the constant")
    if not np.isfinite(constant).all():
        raise UnsupportedError("has a constant that is not finite", "export the model again")
    rank = len(node.shape(1 - index))
    if constant.ndim > rank:
        if constant.ndim > rank + 1 or constant.shape[0] != 1:
            raise UnsupportedError(f"has a constant {constant.shape}", "give it at most the input's axes, batch 1")
        constant = constant[0]
    return constant


def _inverse(constant: Floats) -> Floats:
    if (constant == 0).any():
        raise UnsupportedError("divides by zero", "export the model again")
    return np.asarray(1.0 / constant.astype(np.float64), dtype=np.float32)
