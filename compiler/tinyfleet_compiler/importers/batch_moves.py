"""Moves around recurrent layers that carry the batch past other axes, as the importers of those moves ask for them."""

from tinyfleet_compiler.graph import Reshape, Transpose, elements
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError


def transpose_batch(node: OnnxNode) -> bool:
    """Transpose where the batch moves: only the other axes, in their new order, move data. False: it stays first."""
    rank = len(node.shape()) + 1
    perm = node.ints("perm", tuple(reversed(range(rank))))
    at = node.context.batch_axes.get(node.data(0), 0)
    if sorted(perm) != list(range(rank)) or (perm[0] == 0 and at == 0):
        return False
    inner = tuple(p - (p > at) for p in perm if p != at)
    shape = tuple(node.shape()[p] for p in inner)
    if inner == tuple(range(len(inner))):
        node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    else:
        node.context.add(Transpose(node.name, (node.data(0),), node.output, perm=inner), shape)
    if perm.index(at):
        node.context.batch_axes[node.output] = perm.index(at)
    return True


def squeeze_batch(node: OnnxNode, axes: tuple[int, ...]) -> bool:
    """Squeeze of a tensor whose batch is not its first axis. False: it is."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    old = [*node.shape()[:at], 1, *node.shape()[at:]]
    if at in axes or any(old[a] != 1 for a in axes) or len(old) - len(axes) < 2:
        raise UnsupportedError(f"squeezes axes {axes} of {tuple(old)}", "keep the batch, squeeze only axes of 1")
    shape = tuple(d for i, d in enumerate(old) if i not in axes and i != at)
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    if now := at - sum(a < at for a in axes):
        node.context.batch_axes[node.output] = now
    return True


def unsqueeze_batch(node: OnnxNode, axes: tuple[int, ...]) -> bool:
    """Unsqueeze of a tensor whose batch is not its first axis. False: it is."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    places = [("batch", 1) if i == at else ("", d) for i, d in enumerate((*node.shape()[:at], 1, *node.shape()[at:]))]
    for axis in sorted(axes):
        places.insert(axis, ("", 1))
    if len(places) > 4:
        raise UnsupportedError(f"makes {len(places)} dimensions", "use two to four dimensions")
    shape = tuple(d for name, d in places if not name)
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    node.context.batch_axes[node.output] = places.index(("batch", 1))
    return True


def reshape_batch(node: OnnxNode, target: list[int]) -> bool:
    """Reshape where the batch is not the first axis: it stays, or becomes the first (wide.py takes the others). False:
    it is the first."""
    at = node.context.batch_axes.get(node.data(0), 0)
    if at == 0:
        return False
    if at < len(target) and target[at] == 1 and elements(tuple(target[:at])) == elements(node.shape()[:at]):
        shape = tuple(d for i, d in enumerate(target) if i != at)
        node.context.batch_axes[node.output] = at
    else:
        shape = tuple(target[1:])
    node.context.add(Reshape(node.name, (node.data(0),), node.output, shape=shape), shape)
    return True
