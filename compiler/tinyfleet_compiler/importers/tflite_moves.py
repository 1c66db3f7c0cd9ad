"""Importers of TFLite's operators that only move elements: PAD, PADV2, CONCATENATION, SLICE, STRIDED_SLICE."""

import numpy as np
import tflite

from tinyfleet_compiler.graph import Pad, Shape, Slice, elements
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.joins import Operand, joined_shape, joins
from tinyfleet_compiler.importers.tflite_context import TfNode, read_quantization, sample_shape
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.numerics import dequantize


def sample_axes(node: TfNode, values: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    """`values`, one per axis, without that of the batch, which must be one of `batch`."""
    full, shape = node.tensor(0).shape, node.shape()
    if len(values) != len(full):
        raise UnsupportedError(f"has {len(values)} values for {len(full)} axes", EXPORT_AGAIN)
    if len(full) > len(shape) and values[0] not in batch:
        raise UnsupportedError("changes the batch", "leave axis 0 as it is")
    return values[len(full) - len(shape) :]


def import_pad(node: TfNode) -> None:
    """PAD with real zero, PADV2 with one number."""
    pairs = node.integers(1)
    before, after = (sample_axes(node, pairs[start::2], (0,)) for start in (0, 1))
    if min(*before, *after) < 0:
        raise UnsupportedError(f"pads {before} and {after}", "pad by no less than 0")
    output = node.context.define(node.output.index)
    node.keep_quantization()
    value = _pad_value(node, output) if node.operator == "PADV2" else 0.0
    shape = tuple(b + d + a for b, d, a in zip(before, node.shape(), after, strict=True))
    node.add(Pad(node.name, (node.data(),), output, before=before, after=after, value=value), shape)


def _pad_value(node: TfNode, output: str) -> float:
    values = node.tensor(2).values.reshape(-1)
    if values.size != 1 or node.tensor(2).type != node.output.type:
        raise UnsupportedError(f"pads with {values.size} values of type {node.tensor(2).type}", EXPORT_AGAIN)
    if not node.quantized:
        return float(values[0])
    q = node.context.parameters[output]  # TFLM writes the code as it stands
    return (int(values[0]) - (128 if node.output.type == "UINT8" else 0) - q.zero_point) * q.scale


def import_concatenation(node: TfNode) -> None:
    """CONCATENATION of activations and constants with one scale."""
    options = node.item.options(tflite.ConcatenationOptions)
    if options.FusedActivationFunction() != tflite.ActivationFunctionType.NONE:
        raise UnsupportedError("has a fused activation", "use a separate activation")
    rank, shapes = len(node.tensor(0).shape), [sample_shape(node.tensor(i)) for i in range(len(node.inputs))]
    axis = options.Axis() + (rank if options.Axis() < 0 else 0) - (rank - len(shapes[0]))
    if not 0 <= axis < len(shapes[0]) or any(
        len(s) != len(shapes[0]) or s[:axis] + s[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for s in shapes
    ):
        raise UnsupportedError(f"joins {shapes} along axis {options.Axis()}", "join along an axis of one sample")
    node.context.define(node.output.index)
    add_joins(node, shapes, axis)


def add_joins(node: TfNode, shapes: list[Shape], axis: int) -> None:
    """The nodes that join the inputs under these shapes to the output, which is defined and whose scale they have."""
    context, output = node.context, node.name
    operands = [_joined(node, index, shape) for index, shape in enumerate(shapes)]
    if len(operands) == 1 and isinstance(operands[0], str):
        context.views[output] = operands[0]
    for part in joins(operands, axis, node.name, output):
        shape = joined_shape(part, context.shapes)
        if part.output == output:
            node.add(part, shape)
        else:
            context.shapes[part.output] = shape
            if node.quantized:
                context.parameters[part.output] = context.parameters[output]
            context.nodes.append(part)


def _joined(node: TfNode, index: int, shape: Shape) -> Operand:
    if not node.is_constant(index):
        node.keep_quantization(index)
        return node.view(index, shape, f"{node.name}/part{index}")
    tensor = node.tensor(index)
    if not node.quantized:
        if tensor.type != "FLOAT32":
            raise UnsupportedError(f"joins a constant of type {tensor.type}", "use float32")
        return tensor.values.reshape(shape)
    quantization = read_quantization(tensor)
    if quantization != node.context.parameters[node.name]:
        raise UnsupportedError("changes scale or zero point", "keep the quantisation of its input")
    codes = tensor.values.astype(np.int64) - (128 if tensor.type == "UINT8" else 0)
    return dequantize(codes, quantization.scale, quantization.zero_point).reshape(shape)


def import_slice(node: TfNode) -> None:
    """SLICE: a box of the input."""
    starts = sample_axes(node, node.integers(1), (0,))
    _add_slice(node, starts, tuple(1 for _ in starts))


def import_strided_slice(node: TfNode) -> None:
    """STRIDED_SLICE with all its masks; the output's shape must be what they say."""
    options = node.item.options(tflite.StridedSliceOptions)
    begins, ends, steps = (node.integers(index) for index in (1, 2, 3))
    full = node.tensor(0).shape
    if not len(begins) == len(ends) == len(steps) or 0 in steps:
        raise UnsupportedError(
            f"starts at {begins} with steps {steps}", "use a start, an end and a step other than 0 per axis"
        )
    cuts, axis = [range(size) for size in full], 0
    added = sum(options.NewAxisMask() >> at & 1 for at in range(len(begins)))
    for at, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        if options.EllipsisMask() >> at & 1:
            axis += max(len(full) - (len(begins) - added - 1), 0)
        elif not options.NewAxisMask() >> at & 1:
            one = options.ShrinkAxisMask() >> at & 1
            first = None if options.BeginMask() >> at & 1 else begin
            last = None if options.EndMask() >> at & 1 else end
            cuts[axis] = _cut(full[axis], first, last, step, bool(one))
            axis += 1
    if any(not c for c in cuts):
        raise UnsupportedError(f"leaves nothing of {full}", "keep at least one element of every axis")
    starts = sample_axes(node, tuple(c.start for c in cuts), (0,))
    kept = sample_axes(node, tuple(len(c) for c in cuts), (1,))
    steps_of = sample_axes(node, tuple(c.step for c in cuts), tuple({c.step for c in cuts[:1]}))
    name = node.define_output(node.output.index)
    if elements(kept) != elements(sample_shape(node.output)):
        raise UnsupportedError(f"gives {kept}, the file says {sample_shape(node.output)}", EXPORT_AGAIN)
    node.add_behind_view(
        node.output.index, kept, lambda out: Slice(name, (node.data(),), out, starts=starts, steps=steps_of)
    )


def _cut(size: int, first: int | None, last: int | None, step: int, one: bool) -> range:
    if one:
        start = (first or 0) + (size if (first or 0) < 0 else 0)
        return range(start, start + 1) if 0 <= start < size else range(0)
    return range(*slice(first, last, step).indices(size))


def _add_slice(node: TfNode, starts: tuple[int, ...], steps: tuple[int, ...]) -> None:
    shape, result = node.shape(), sample_shape(node.output)
    last = [s + (n - 1) * t for s, n, t in zip(starts, result, steps, strict=True)]
    if min(starts) < 0 or any(end >= size for end, size in zip(last, shape, strict=True)):
        raise UnsupportedError(f"reads {starts} to {tuple(last)} of {shape}", EXPORT_AGAIN)
    output = node.context.define(node.output.index)
    node.keep_quantization()
    node.add(Slice(node.name, (node.data(),), output, starts=starts, steps=steps))
