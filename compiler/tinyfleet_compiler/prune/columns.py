"""What the weighted layers of a float graph read on calibration samples, as the columns their weights multiply."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import Conv, ConvTranspose, Gemm, Graph, Node
from tinyfleet_compiler.quantize.fake import LayerView, run_in_parts
from tinyfleet_compiler.quantize.parameters import Quantization

Reals = npt.NDArray[np.float64]


def is_fitted(node: Node) -> bool:
    """Whether pruning and repair know a layer: convolutions and fully-connected ones, not transposed ones."""
    return isinstance(node, (Conv, Gemm)) and not isinstance(node, ConvTranspose)


def layer_columns(graph: Graph, inputs: dict[str, Floats], most: int) -> Iterator[tuple[Conv | Gemm, Reals]]:
    """(layer, an even sample of about `most` rows of its columns (P, groups, K)), in graph order."""
    tensors = {name: x.astype(np.float32) for name, x in inputs.items()}
    for node in graph.nodes:
        values = [tensor(graph, tensors, name) for name in node.inputs]
        tensors[node.output] = run_in_parts(graph, node, values)
        if is_fitted(node):
            assert isinstance(node, (Conv, Gemm))
            yield node, sample_columns(graph, node, values[0], tensors[node.output], most)[0]


def sample_columns(
    graph: Graph, node: Conv | Gemm, delivered: Floats, wanted: Floats, most: int
) -> tuple[Reals, Reals]:
    """About `most` places of a layer: its columns there (P, groups, K) and `wanted` (P, O)."""
    view = LayerView(graph, node, Quantization(1.0, 0), delivered, wanted, lambda other: wanted)
    columns, outputs = view.columns(most)
    return columns.astype(np.float64), outputs.astype(np.float64)


def tensor(graph: Graph, tensors: dict[str, Floats], name: str) -> Floats:
    """A tensor or view (N, ...) from the tensors by name."""
    found = tensors[name] if name in tensors else tensors[graph.root(name)]
    return found.reshape(len(found), *graph.shapes[name])
