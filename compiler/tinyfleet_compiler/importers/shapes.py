"""Importers that move or rename data: Transpose, Identity, Dropout."""

from tinyfleet_compiler.graph import Transpose
from tinyfleet_compiler.importers.batch_moves import transpose_batch
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError


def import_transpose(node: OnnxNode) -> None:
    """Transpose-1/13; a batch of 1 may move, as around recurrent layers."""
    if transpose_batch(node):
        return
    rank = len(node.shape()) + 1
    perm = node.ints("perm", tuple(reversed(range(rank))))
    if sorted(perm) != list(range(rank)) or perm[0] != 0:
        raise UnsupportedError(f"permutes axes {perm}", "leave the batch as first axis")
    inner = tuple(p - 1 for p in perm[1:])
    shape = tuple(node.shape()[p] for p in inner)
    node.context.add(Transpose(node.name, (node.data(0),), node.output, perm=inner), shape)


def import_identity(node: OnnxNode) -> None:
    """Identity, and Dropout in inference: the same tensor under another name."""
    node.context.aliases[node.output] = node.data(0)
