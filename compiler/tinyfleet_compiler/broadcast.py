"""How two operands of an element-wise operator are walked: output sizes, and one step per axis for either operand."""

from dataclasses import dataclass

from tinyfleet_compiler.graph import Shape, elements

AXES = 4


@dataclass(frozen=True)
class Walk:
    """Four axes, outermost first; a step of 0 repeats the operand along that axis."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    strides_b: tuple[int, ...]
    full: bool
    """The first operand has every element of the output, in order."""
    full_b: bool


def broadcast_walk(a: Shape, b: Shape, out: Shape) -> Walk:
    """Walk over shapes of one rank, neighbouring axes joined where both operands allow it.

    Sizes of 1 repeat (ONNX multidirectional broadcasting).
    """
    axes: list[tuple[int, int, int]] = []
    for size, step_a, step_b in zip(out, _strides(a, out), _strides(b, out), strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == step_a * size and axes[-1][2] == step_b * size:
            axes[-1] = (axes[-1][0] * size, step_a, step_b)
        else:
            axes.append((size, step_a, step_b))
    if len(axes) > AXES:
        raise ValueError(f"{len(axes)} axes broadcast in their own ways")
    axes = [(1, 0, 0)] * (AXES - len(axes)) + axes
    dims, strides, strides_b = zip(*axes, strict=True)
    return Walk(dims, strides, strides_b, elements(a) == elements(out), elements(b) == elements(out))


def _strides(shape: Shape, out: Shape) -> tuple[int, ...]:
    steps, step = [], 1
    for size, wanted in zip(reversed(shape), reversed(out), strict=True):
        steps.append(step if size == wanted and size != 1 else 0)
        step *= size
    return tuple(reversed(steps))
