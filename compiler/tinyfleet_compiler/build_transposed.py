"""Builder of transposed convolutions."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_scope import Op, Scope, layer_weights, make_op
from tinyfleet_compiler.float_run import geometry
from tinyfleet_compiler.graph import ConvTranspose, Node
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.operators import OpCode


def _conv_transpose(scope: Scope, node: Node) -> Op:
    assert isinstance(node, ConvTranspose)
    g = geometry(scope.graph, node, node.window, node.groups)
    source = scope.quantization(node.inputs[0])
    block = layer_weights(scope, node)
    # Which taps reach an output pixel differs from pixel to pixel, so the zero point is not folded into the bias.
    sums = source.zero_point * block.rows.astype(np.int64).sum(axis=1)
    weights = replace(block, biases=block.biases + sums)
    fields = {name: getattr(g, name) for name in Geometry.__dataclass_fields__}
    macs = g.in_h * g.in_w * node.weights.size
    return make_op(scope, node, OpCode.TRANSPOSE_CONV_2D, layout.NO_OVERLAP, fields, weights=weights, macs=macs)


BUILDERS: dict[type[Node], Callable[[Scope, Node], Op]] = {ConvTranspose: _conv_transpose}
