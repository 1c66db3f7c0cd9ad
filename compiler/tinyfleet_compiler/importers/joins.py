"""Concatenations of any number of tensors and constants as nodes of what one record can join."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyfleet_compiler.graph import Concat, Floats, Shape

MOST_JOINED = 4
"""Tensors of one CONCAT record."""
Operand = str | Floats
"""A tensor's name, or a constant of one sample's shape."""


def joins(operands: Sequence[Operand], axis: int, name: str, output: str) -> list[Concat]:
    """The nodes that join `operands`, at least one of them a tensor, in order; none for a lone tensor.

    A constant is put to the tensor before it, the first one to the tensor behind it; tensors are joined in groups.
    """
    nodes: list[Concat] = []

    def add(inputs: Sequence[str], constant: Floats | None = None, *, swapped: bool = False) -> str:
        if len(inputs) == 1 and constant is None:
            return inputs[0]
        part = f"{output}/part{len(nodes)}"
        nodes.append(Concat(part, tuple(inputs), part, axis=axis, constant=constant, swapped=swapped))
        return part

    names: list[str] = []
    first = None
    for operand in _merged(operands, axis):
        if isinstance(operand, str):
            names.append(add([operand], first, swapped=True))
            first = None
        elif names:
            names[-1] = add([names[-1]], operand)
        else:
            first = operand
    while len(names) > 1:
        names = [add(names[at : at + MOST_JOINED]) for at in range(0, len(names), MOST_JOINED)]
    return [*nodes[:-1], *(replace(last, name=name, output=output) for last in nodes[-1:])]


def joined_shape(node: Concat, shapes: dict[str, Shape]) -> Shape:
    """Shape of what a node of `joins` writes."""
    parts = [shapes[name] for name in node.inputs] + ([] if node.constant is None else [node.constant.shape])
    axis = node.axis
    return (*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :])


def _merged(operands: Sequence[Operand], axis: int) -> list[Operand]:
    """Neighbouring constants as one, empty ones left out."""
    merged: list[Operand] = []
    for operand in operands:
        if isinstance(operand, str):
            merged.append(operand)
        elif operand.size and merged and not isinstance(merged[-1], str):
            merged[-1] = np.concatenate([merged[-1], operand], axis)
        elif operand.size:
            merged.append(operand)
    return merged
