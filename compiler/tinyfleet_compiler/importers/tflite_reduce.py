"""Importers of TFLite's MEAN, SUM and REDUCE_MAX over neighbouring axes."""

import tflite

from tinyfleet_compiler.graph import Reduce, ReduceOperator, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode, sample_shape
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN

_OPERATORS = {"MEAN": ReduceOperator.MEAN, "SUM": ReduceOperator.SUM, "REDUCE_MAX": ReduceOperator.MAX}
_OPERATORS["REDUCE_MIN"] = ReduceOperator.MIN


def import_reduce(node: TfNode) -> None:
    """The node keeps its axes as 1; the output is a view of that."""
    node.item.options(tflite.ReducerOptions)
    axes = _axes(node)
    shape, name = node.shape(), node.context.define(node.output.index)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if elements(kept) != elements(sample_shape(node.output)):
        raise UnsupportedError(f"turns {shape} over {axes} into {sample_shape(node.output)}", EXPORT_AGAIN)
    if node.operator in ("REDUCE_MAX", "REDUCE_MIN"):
        node.keep_quantization()
    whole = f"{name}/kept"
    node.context.shapes[whole] = kept
    node.context.views[name] = whole
    if node.quantized:
        node.context.parameters[whole] = node.context.parameters[name]
    reduce = Reduce(node.name, (node.data(),), whole, operator=_OPERATORS[node.operator], axes=axes)
    node.context.nodes.append(reduce)


def _axes(node: TfNode) -> tuple[int, ...]:
    """Axes of one sample, in order. Raises `UnsupportedError` unless they are neighbours."""
    rank, missing = len(node.tensor(0).shape), len(node.tensor(0).shape) - len(node.shape())
    axes = sorted({axis + (rank if axis < 0 else 0) - missing for axis in node.integers(1)})
    if missing and axes and axes[0] == -1:
        raise UnsupportedError("reduces the batch", "leave axis 0 out")
    if not axes or axes[0] < 0 or axes[-1] >= len(node.shape()) or axes[-1] - axes[0] != len(axes) - 1:
        raise UnsupportedError(f"reduces axes {axes}", "reduce neighbouring axes")
    return tuple(axes)
