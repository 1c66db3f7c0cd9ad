"""How two operands of an element-wise operator are walked: output sizes, and the axes either operand repeats along."""

from dataclasses import dataclass

from tinyfleet_compiler.graph import Shape

AXES = 3


@dataclass(frozen=True)
class Walk:
    """Sizes of the output's axes, outermost first, and per operand a bit for every axis it repeats along."""

    dims: tuple[int, ...]
    repeats: int
    repeats_b: int


def broadcast_walk(a: Shape, b: Shape, out: Shape) -> Walk:
    """Walk over shapes of one rank, neighbouring axes joined where both operands treat them alike.

    Sizes of 1 repeat (ONNX multidirectional broadcasting).
    """
    axes: list[tuple[int, bool, bool]] = []
    for size, size_a, size_b in zip(out, a, b, strict=True):
        if size == 1:
            continue
        alike = (size_a == 1, size_b == 1)
        if axes and axes[-1][1:] == alike:
            axes[-1] = (axes[-1][0] * size, *alike)
        else:
            axes.append((size, *alike))
    if len(axes) > AXES:
        raise ValueError(f"{len(axes)} axes broadcast in their own ways")
    axes = [(1, False, False)] * (AXES - len(axes)) + axes
    masks = [
        sum(repeated << axis for axis, repeated in enumerate(column)) for column in list(zip(*axes, strict=True))[1:]
    ]
    return Walk(tuple(size for size, *_ in axes), *masks)
