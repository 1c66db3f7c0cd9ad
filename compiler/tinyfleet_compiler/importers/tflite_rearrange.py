"""Importers of TFLite's operators that cut, stack, repeat, resize and rearrange."""

from dataclasses import replace
from functools import partial

import numpy as np
import tflite

from tinyfleet_compiler.graph import DepthToSpace, Gather, Resize, Shape, Slice, SpaceToDepth
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.pads import places_of, take_places
from tinyfleet_compiler.importers.tflite_context import TfNode, sample_shape
from tinyfleet_compiler.importers.tflite_file import EXPORT_AGAIN
from tinyfleet_compiler.importers.tflite_moves import add_joins, sample_axes

MOST_INDEX = 32_767


def sample_axis(node: TfNode, axis: int, index: int = 0) -> int:
    """Axis of one sample that an axis of the file names. Raises `UnsupportedError` for the batch."""
    rank = len(node.tensor(index).shape)
    found = axis + (rank if axis < 0 else 0) - (rank - len(node.shape(index)))
    if not 0 <= found < len(node.shape(index)):
        raise UnsupportedError(f"works along axis {axis} of {rank}", "use an axis after the batch")
    return found


def import_split(node: TfNode) -> None:
    """SPLIT into equal parts and SPLIT_V into given ones: a slice per output."""
    whole = 1 if node.operator == "SPLIT" else 0
    source, shape = node.data(whole), node.shape(whole)
    axis = sample_axis(node, node.integers(0 if whole else 2)[0], whole)
    start = 0
    for index in node.item.outputs:
        name, size = node.define_output(index, whole), node.output_shape(index)[axis]
        starts = tuple(start if at == axis else 0 for at in range(len(shape)))
        wanted = tuple(size if at == axis else d for at, d in enumerate(shape))
        if node.output_shape(index) != wanted or start + size > shape[axis]:
            raise UnsupportedError(f"gives {node.output_shape(index)} of {shape}", EXPORT_AGAIN)
        node.context.nodes.append(Slice(name, (source,), name, starts=starts, steps=(1,) * len(shape)))
        start += size


def import_reverse(node: TfNode) -> None:
    """REVERSE_V2: a slice with negative steps along its axes."""
    shape, axes = node.shape(), {sample_axis(node, axis) for axis in node.integers(1)}
    name = node.define_output(node.output.index)
    starts = tuple(size - 1 if axis in axes else 0 for axis, size in enumerate(shape))
    steps = tuple(-1 if axis in axes else 1 for axis in range(len(shape)))
    node.add(Slice(node.name, (node.data(),), name, starts=starts, steps=steps), shape)


def import_unpack(node: TfNode) -> None:
    """UNPACK: a slice of one along the axis per output, the axis dropped."""
    shape, axis = node.shape(), sample_axis(node, node.item.options(tflite.UnpackOptions).Axis())
    for number, index in enumerate(node.item.outputs):
        name = node.define_output(index)
        starts = tuple(number if at == axis else 0 for at in range(len(shape)))
        kept = tuple(1 if at == axis else d for at, d in enumerate(shape))
        if number >= shape[axis] or np.prod(kept) != np.prod(node.output_shape(index)):
            raise UnsupportedError(f"gives {node.output_shape(index)} of {shape}", EXPORT_AGAIN)
        cut = Slice(name, (node.data(),), name, starts=starts, steps=(1,) * len(shape))
        node.add_behind_view(index, kept, partial(_written_to, cut))


def _written_to(node: Slice, output: str) -> Slice:
    return replace(node, output=output)


def import_pack(node: TfNode) -> None:
    """PACK: the inputs with an axis of one, joined along it."""
    node.context.define(node.output.index)
    full = len(node.output.shape)
    axis = node.item.options(tflite.PackOptions).Axis()
    axis = axis + (full if axis < 0 else 0) - (full - len(sample_shape(node.output)))
    shapes = [sample_shape(node.tensor(index)) for index in range(len(node.inputs))]
    if any(not 0 <= axis <= len(shape) for shape in shapes):
        raise UnsupportedError(f"stacks {shapes} along axis {axis}", "stack along an axis after the batch")
    add_joins(node, [(*shape[:axis], 1, *shape[axis:]) for shape in shapes], axis)


def import_gather(node: TfNode) -> None:
    """GATHER with constant indices along an axis of one sample."""
    options = node.item.options(tflite.GatherOptions)
    if options.BatchDims():
        raise UnsupportedError("gathers per batch", "gather with batch_dims 0")
    shape, axis = node.shape(), sample_axis(node, options.Axis())
    indices = tuple(int(i) for i in node.tensor(1).values.reshape(-1))
    if not indices or max(indices) >= shape[axis] or min(indices) < 0 or shape[axis] > MOST_INDEX:
        raise UnsupportedError(f"takes indices outside 0 .. {shape[axis] - 1}", "use indices that exist")
    kept = (*shape[:axis], len(indices), *shape[axis + 1 :])
    name = node.define_output(node.output.index)
    if np.prod(kept) != np.prod(sample_shape(node.output)):
        raise UnsupportedError(f"gives {sample_shape(node.output)} of {kept}", EXPORT_AGAIN)
    node.add_behind_view(
        node.output.index, kept, lambda out: Gather(name, (node.data(),), out, axis=axis, indices=indices)
    )


def import_depth_to_space(node: TfNode) -> None:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH."""
    height, width, channels = node.image_shape()
    output = node.define_output(node.output.index)
    if node.operator == "DEPTH_TO_SPACE":
        block = node.item.options(tflite.DepthToSpaceOptions).BlockSize()
        if block < 1 or channels % (block * block):
            raise UnsupportedError(f"block {block} does not divide {channels} channels", EXPORT_AGAIN)
        shape = (height * block, width * block, channels // (block * block))
        node.add(DepthToSpace(node.name, (node.data(),), output, block=block), shape)
        return
    block = node.item.options(tflite.SpaceToDepthOptions).BlockSize()
    if block < 1 or height % block or width % block:
        raise UnsupportedError(f"block {block} does not divide {height} x {width}", EXPORT_AGAIN)
    shape = (height // block, width // block, channels * block * block)
    node.add(SpaceToDepth(node.name, (node.data(),), output, block=block), shape)


def import_mirror_pad(node: TfNode) -> None:
    """MIRROR_PAD: REFLECT leaves the edge out of the mirror, SYMMETRIC takes it in."""
    mode = node.item.options(tflite.MirrorPadOptions).Mode()
    pairs = node.integers(1)
    before, after = (sample_axes(node, pairs[start::2], (0,)) for start in (0, 1))
    kind = "reflect" if mode == tflite.MirrorPadMode.REFLECT else "symmetric"
    _take(node, places_of(kind, node.shape(), before, after))


def import_tile(node: TfNode) -> None:
    """TILE: the tensor again and again along its axes; BROADCAST_TO: axes of one repeated."""
    shape, result = node.shape(), sample_shape(node.output)
    if node.operator == "TILE":
        result = tuple(d * r for d, r in zip(shape, sample_axes(node, node.integers(1), (1,)), strict=True))
    shape = (1,) * (len(result) - len(shape)) + shape
    if len(shape) != len(result) or max(result) > MOST_INDEX or any(r % d for d, r in zip(shape, result, strict=True)):
        raise UnsupportedError(f"repeats {shape} to {result}", "repeat along the axes of one sample")
    _take(node, [tuple(i % d for i in range(r)) for d, r in zip(shape, result, strict=True)], shape)


def _take(node: TfNode, places: list[tuple[int, ...]], shape: Shape | None = None) -> None:
    output = node.define_output(node.output.index)
    source = node.data() if shape in (None, node.shape()) else node.view(0, shape or (), f"{output}/raised")
    result = tuple(map(len, places))
    if result != sample_shape(node.output):
        raise UnsupportedError(f"gives {result}, the file says {sample_shape(node.output)}", EXPORT_AGAIN)
    for made, written in take_places(node.name, source, output, shape or node.shape(), places, image_axes=(0, 1)):
        node.put(made, written)


def import_resize(node: TfNode) -> None:
    """RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR, with corners aligned or pixels centred."""
    height, width, channels = node.image_shape()
    linear = node.operator == "RESIZE_BILINEAR"
    options = node.item.options(tflite.ResizeBilinearOptions if linear else tflite.ResizeNearestNeighborOptions)
    rows, columns = node.integers(1)
    if min(rows, columns) < 1 or max(rows, columns, height, width) > MOST_INDEX:
        raise UnsupportedError(f"resizes {height} x {width} to {rows} x {columns}", f"use sizes of 1 to {MOST_INDEX}")
    place = _bilinear_places if linear else _nearest_places
    flags = bool(options.AlignCorners()), bool(options.HalfPixelCenters())
    made = Resize(
        node.name,
        (node.data(),),
        node.define_output(node.output.index),
        rows=place(height, rows, *flags),
        columns=place(width, columns, *flags),
        linear=linear,
    )
    node.add(made, (rows, columns, channels))


def _nearest_places(size: int, count: int, align: bool, centred: bool) -> tuple[float, ...]:
    """As TFLM, in float32."""
    ratio = (
        np.float32(size - 1) / np.float32(count - 1) if align and count > 1 else np.float32(size) / np.float32(count)
    )
    at = (np.arange(count, dtype=np.float32) + np.float32(0.5 if centred else 0.0)) * ratio
    whole = np.trunc(at + np.copysign(np.float32(0.5), at)) if align else np.floor(at)
    return tuple(float(p) for p in np.clip(whole, 0, size - 1))


def _bilinear_places(size: int, count: int, align: bool, centred: bool) -> tuple[float, ...]:
    """As TFLM, in steps of 1/1024."""
    step = (1024 * size + count // 2) // count
    if align and count > 1:
        step = (1024 * (size - 1) + (count - 1) // 2) // (count - 1)
    at = np.arange(count, dtype=np.int64) * step + (step // 2 - 512 if centred else 0)
    return tuple(float(p) / 1024.0 for p in np.clip(at, 0, 1024 * (size - 1)))
