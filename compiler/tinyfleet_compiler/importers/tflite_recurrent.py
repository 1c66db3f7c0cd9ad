"""Importers of TFLite operators that remember."""

import numpy as np
import tflite

from tinyfleet_compiler.graph import Svdf
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_context import TfNode
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN, TfTensor
from tinyfleet_compiler.numerics import INT32_MAX, quantize_multiplier

_MOST_SHIFT = 22


def import_svdf(node: TfNode) -> None:
    """SVDF with int8 weights over the input and an int8 or int16 state; a fused activation has no say in TFLM."""
    if not node.quantized:
        raise UnsupportedError("works on float numbers", "quantise the model to int8")
    rank = node.item.options(tflite.SVDFOptions).Rank()
    filters, over_time, bias, state = (node.tensor(index) for index in range(1, 5))
    _check_types(filters, over_time, bias, state)
    if len(filters.shape) != 2 or len(over_time.shape) != 2 or filters.shape[0] != over_time.shape[0]:
        raise UnsupportedError(f"has weights {filters.shape} and {over_time.shape}", EXPORT_AGAIN)
    units = filters.shape[0] // rank if rank > 0 and filters.shape[0] % rank == 0 else 0
    if not units or bias.shape != (units,) or node.shape() != (filters.shape[1],):
        raise UnsupportedError(f"has rank {rank} for {filters.shape}, input {node.shape()}", EXPORT_AGAIN)
    output = node.context.define(node.output.index)
    source, result = np.float32(node.quantization().scale), np.float32(node.context.parameters[output].scale)
    kept = np.float32(state.scales[0])
    # TFLM multiplies these scales as float32.
    scales = float(source * filters.scales[0] / kept), float(kept * over_time.scales[0] / result)
    svdf = Svdf(
        node.name,
        (node.data(),),
        output,
        filters=filters.values,
        over_time=over_time.values,
        bias=bias.values,
        scales=scales,
        state_zero_point=int(state.zero_points[0]),
    )
    _check_sums(svdf)
    node.add(svdf, (units,))


def _check_types(filters: TfTensor, over_time: TfTensor, bias: TfTensor, state: TfTensor) -> None:
    if (filters.type, bias.type) != ("INT8", "INT32") or over_time.type not in ("INT8", "INT16"):
        raise UnsupportedError(
            f"has weights {filters.type}, {over_time.type}", "use int8 weights and int8 or int16 state"
        )
    if state.type != over_time.type or state.raw is not None:
        raise UnsupportedError(f"keeps a state of {state.type}", "give the state the type of the weights over time")
    for tensor in (filters, over_time, state):
        if tensor.scales.size != 1 or not np.isfinite(tensor.scales).all() or tensor.scales[0] <= 0:
            raise UnsupportedError(f"'{tensor.name}' has no usable scale", "quantise per tensor")
    low, high = (-128, 127) if state.type == "INT8" else (0, 0)
    if filters.zero_points.any() or over_time.zero_points.any() or not low <= state.zero_points[0] <= high:
        raise UnsupportedError("has weights or a state with a zero point", "quantise them symmetrically")


def _check_sums(node: Svdf) -> None:
    """Left shifts stay in int32. Sums over an int16 state wrap beyond it: hardly a file could promise otherwise."""
    wide = node.over_time.dtype == np.int16
    first = np.abs(node.filters.astype(np.int64)).sum(axis=1).max() * 255
    units = np.abs(node.over_time.astype(np.int64)).sum(axis=1).reshape(len(node.bias), -1).sum(axis=1)
    second = INT32_MAX if wide else (units * 255 + np.abs(node.bias.astype(np.int64))).max()
    for total, scale in zip((first, second), node.scales, strict=True):
        shift = quantize_multiplier(scale)[1]
        if shift > _MOST_SHIFT or int(total) << max(shift, 0) > INT32_MAX:
            raise UnsupportedError("can reach sums beyond int32", "quantise again with typical samples")
