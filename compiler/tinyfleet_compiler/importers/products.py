"""Importers of products of two activations, of TopK, and of normalisations that measure their input."""

import numpy as np

from tinyfleet_compiler.check_products import MOST_CLASSES
from tinyfleet_compiler.graph import Floats, L2Normalize, MatMul, Normalize, Reshape, Shape, TopK
from tinyfleet_compiler.importers.along import along_last
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError


def import_product(node: OnnxNode) -> None:
    """MatMul-9/13 of two activations, or with a batch of constant matrices on either side."""
    constants = [i for i in (0, 1) if node.has_input(i) and node.inputs[i] in node.context.constants]
    if len(constants) == 2:
        raise UnsupportedError("has two constants", "fold constants before export")
    constant = _matrices(node, constants[0]) if constants else None
    shapes = [constant.shape if constant is not None and i in constants else node.shape(i) for i in (0, 1)]
    rank = max(map(len, shapes))
    if min(map(len, shapes)) < 2 or rank > 4:
        raise UnsupportedError(
            f"multiplies {shapes[0]} and {shapes[1]} per sample", "use (N, ..., rows, depth) tensors"
        )
    result = _product_shape(node, *((1,) * (rank - len(s)) + s for s in shapes))
    names = tuple(_raised(node, i, rank) for i in (0, 1) if i not in constants)
    straight, turned = tuple(range(rank)), (*range(rank - 2), rank - 1, rank - 2)
    if constant is not None:
        constant = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    # A constant on the left is one on the right of the transposed product.
    axes = turned if constants == [0] else straight
    matmul = MatMul(node.name, names, node.output, a_axes=axes, b_axes=axes, out_axes=axes, constant=constant)
    node.context.add(matmul, result)


def _matrices(node: OnnxNode, index: int) -> Floats:
    values = node.floats(index, "the constant side")
    if values.ndim > 2 and values.ndim > len(node.shape(1 - index)) and values.shape[0] == 1:
        values = values[0]
    if values.ndim < 2 or not np.isfinite(values).all():
        raise UnsupportedError(f"multiplies by a constant of shape {values.shape}", "use finite matrices")
    return values


def _product_shape(node: OnnxNode, a: Shape, b: Shape) -> Shape:
    try:
        batches = tuple(int(d) for d in np.broadcast_shapes(a[:-2], b[:-2]))
    except ValueError:
        raise UnsupportedError(f"multiplies batches {a[:-2]} and {b[:-2]}", "give equal batches, or 1") from None
    if a[-1] != b[-2]:
        raise UnsupportedError(f"multiplies {a} and {b}", "export the model again")
    return (*batches, a[-2], b[-1])


def _raised(node: OnnxNode, index: int, rank: int) -> str:
    """The operand with leading axes of 1 up to `rank`."""
    name, shape = node.data(index), node.shape(index)
    if len(shape) == rank:
        return name
    target = (1,) * (rank - len(shape)) + shape
    raised = f"{node.output}/operand{index}"
    node.context.add(Reshape(f"{node.name}/operand{index}", (name,), raised, shape=target), target)
    return raised


def import_lp_normalization(node: OnnxNode) -> None:
    """LpNormalization-1/22 with p = 2 over any axis."""
    shape, p = node.shape(), node.integer("p", 2)
    rank, axis = len(shape) + 1, node.integer("axis", -1)
    if p != 2 or not -rank <= axis < rank or axis % rank == 0:
        raise UnsupportedError(f"has p = {p} over axis {axis}", "use p = 2 over an axis after the batch")
    axis = axis % rank - 1
    along_last(node, axis, lambda source, output, at: L2Normalize(node.name, (source,), output, axis=at), shape)


def import_top_k(node: OnnxNode) -> None:
    """TopK-10/11 along any axis but the batch, with k a constant; indices count to 255."""
    shape, k = node.shape(), int(np.ravel(node.constant(1, "k"))[0])
    rank = len(shape) + 1
    axis = node.integer("axis", -1)
    if not -rank <= axis < rank or axis % rank == 0:
        raise UnsupportedError(f"chooses along axis {axis} of {rank}", "use an axis after the batch")
    axis = axis % rank - 1
    if not 1 <= k <= shape[axis]:
        raise UnsupportedError(f"takes {k} of {shape[axis]} values", "take at least one, and no more than there are")
    largest = bool(node.integer("largest", 1))
    result = (*shape[:axis], k, *shape[axis + 1 :])
    for index, output in enumerate(node.proto.output):
        if not output or (index == 1 and not node.context.is_read(output)):
            continue
        if index == 1 and shape[axis] > MOST_CLASSES:
            raise UnsupportedError(f"gives indices of {shape[axis]} values", f"choose among {MOST_CLASSES} at most")

        def made(source: str, written: str, at: int, index: int = index) -> TopK:
            name = node.name if index == 0 else f"{node.name}/indices"
            return TopK(name, (source,), written, axis=at, k=k, largest=largest, indices=index == 1)

        along_last(node, axis, made, result, output)


def import_layer_normalization(node: OnnxNode) -> None:
    """LayerNormalization-17 and RMSNormalization-23 over the last axes."""
    shape = node.shape()
    if any(node.context.is_read(o) for o in node.proto.output[1:] if o):
        raise UnsupportedError("gives out mean and deviation", "use its first output only")
    rank = len(shape) + 1
    first = node.integer("axis", -1)
    if not -rank <= first < rank or first % rank == 0:
        raise UnsupportedError(f"normalises from axis {first} of {rank}", "start at an axis after the batch")
    axes = tuple(range(first % rank - 1, len(shape)))
    gamma = _factors(node, 1, shape, axes, 1.0)
    beta = _factors(node, 2, shape, axes, 0.0)
    centred = node.operator == "LayerNormalization"
    _add(
        node,
        Normalize(
            node.name,
            (node.data(0),),
            node.output,
            gamma=gamma,
            beta=beta,
            epsilon=_epsilon(node),
            axes=axes,
            centred=centred,
        ),
    )


def import_channel_normalization(node: OnnxNode) -> None:
    """InstanceNormalization-6/22 and GroupNormalization-18/21."""
    shape = node.shape()
    if len(shape) < 2:
        raise UnsupportedError(f"works on {len(shape) + 1} dimensions", "use (N, C, L) or (N, C, H, W)")
    groups = shape[0] if node.operator == "InstanceNormalization" else node.integer("num_groups", 0)
    if groups < 1 or shape[0] % groups:
        raise UnsupportedError(f"makes {groups} groups of {shape[0]} channels", "use a divisor of the channels")
    gamma, beta = (_per_channel(node, i, shape, groups) for i in (1, 2))
    _add(
        node,
        Normalize(
            node.name, (node.data(0),), node.output, gamma=gamma, beta=beta, epsilon=_epsilon(node), groups=groups
        ),
    )


def _per_channel(node: OnnxNode, index: int, shape: Shape, groups: int) -> Floats:
    """(C, 1, ...); GroupNormalization-18 has one value a group."""
    values = node.floats(index, "the factor")
    if node.operator == "GroupNormalization" and values.size == groups != shape[0]:
        values = np.repeat(values.reshape(-1), shape[0] // groups)
    if values.size != shape[0] or not np.isfinite(values).all():
        raise UnsupportedError(f"has {values.size} factors for {shape[0]} channels", "export the model again")
    return np.asarray(values.reshape(-1, *[1] * (len(shape) - 1)))


def _factors(node: OnnxNode, index: int, shape: Shape, axes: Shape, default: float) -> Floats:
    """Factors with the input's rank, 1 along what is not normalised."""
    if not node.has_input(index):
        return np.full((1,) * len(shape), default, np.float32)
    values = node.floats(index, "the factor")
    wanted = tuple(shape[a] for a in axes)
    try:
        full = np.broadcast_to(values, wanted)
    except ValueError:
        raise UnsupportedError(f"has factors {values.shape} for {wanted}", "export the model again") from None
    if not np.isfinite(full).all():
        raise UnsupportedError("has factors that are not finite", "export the model again")
    return np.ascontiguousarray(full).reshape((1,) * (len(shape) - len(axes)) + wanted)


def _epsilon(node: OnnxNode) -> float:
    epsilon = node.real("epsilon", 1e-5)
    if not np.isfinite(epsilon) or epsilon < 0.0:
        raise UnsupportedError(f"has epsilon {epsilon}", "use a small positive number")
    return epsilon


def _add(node: OnnxNode, made: Normalize) -> None:
    node.context.add(made, node.shape())
