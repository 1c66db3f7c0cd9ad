"""Weighted ops laid out for CMSIS-NN: random ones it takes, and one for every reason not to call it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from agent.runtime import reference
from agent.runtime.images import Channels, ImageBuilder, Io, Op
from agent.runtime.test_runtime_dsp import limits, random_bytes, scales, window
from tinyfleet_compiler.build_scope import Op as CompilerOp
from tinyfleet_compiler.fit_cmsis_nn import fit_cmsis_nn
from tinyfleet_compiler.image import Golden, Image, read_image
from tinyfleet_compiler.layout import NO_OFFSET
from tinyfleet_compiler.operators import Element, OpCode, Packing
from tinyfleet_compiler.quantize.weights import WeightBlock
from tinyfleet_compiler.simulate import golden_crc

ARENA = 24_000
SCRATCH = 280_000
"""The columns of a row of 65,536 weights."""
BEHIND = 64
"""Bytes behind the scratch that nothing may write: an input and an output of the image."""


def weighted(rng: Any, code: OpCode, op: dict[str, Any], helium: bool, *, one_scale: bool = False) -> Op:
    """As the compiler lays it out: input and output apart, and just the scratch CMSIS-NN asks for, BEHIND after it."""
    shape = _weight_shape(code, op)
    weights = random_bytes(rng, *shape)
    rows = weights.reshape(shape[0], -1)
    channels = scales(rng, shape[0], rows.shape[1])
    if one_scale:
        low = int(np.argmin(channels.shifts))  # extreme biases belong to right shifts
        same = (np.full(shape[0], values[low]) for values in (channels.multipliers, channels.shifts))
        channels = Channels(*same, channels.biases)
    block = WeightBlock(rows, channels.biases, channels.multipliers, channels.shifts, Element.INT8)
    fitted = fit_cmsis_nn([CompilerOp("op", code, ("x",), "y", op, 0, weights=block)], helium)[0]
    if fitted.packing is Packing.CHANNELS_LAST:
        weights = np.ascontiguousarray(rows.T).reshape(shape)
    places = {"input": int(rng.integers(0, 999)), "output": int(rng.integers(ARENA // 2, ARENA // 2 + 999))}
    if fitted.scratch_bytes:
        at = ARENA + (SCRATCH - fitted.scratch_bytes) // 4 * 4
        places |= {"scratch": at, "scratch_bytes": fitted.scratch_bytes}
    return Op(code, op | places | {"packing": int(fitted.packing)}, weights, channels)


def _weight_shape(code: OpCode, op: dict[str, Any]) -> tuple[int, ...]:
    if code is OpCode.FULLY_CONNECTED:
        return op["out_features"], op["in_features"]
    return op["out_c"], op["kernel_h"], op["kernel_w"], op["in_c"] // op["groups"]


def inside(op: dict[str, int]) -> dict[str, int]:
    """The window as layers have them: no further out than one column of a window of three."""
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        reach = (op[f"kernel_{axis}"] - 1) * op[f"dilation_{axis}"]
        op[pad] = min(op[pad], reach)
        last = op[f"in_{axis}"] + op[pad] - 1 - (reach + 1) // 2
        op[pad] += max(0, -last)
        op[f"out_{axis}"] = max(0, last) // op[f"stride_{axis}"] + 1
    return op


def conv(rng: Any, helium: bool) -> Op:
    in_c, out_c = int(rng.choice([1, 3, 4, 8, 12, 20, 31])), int(rng.integers(1, 20))
    return weighted(rng, OpCode.CONV_2D, inside(window(rng)) | {"in_c": in_c, "out_c": out_c, "groups": 1}, helium)


def depthwise(rng: Any, helium: bool) -> Op:
    channels = int(rng.choice([1, 3, 4, 7, 8, 64, 70, 130]))
    out_c = channels * int(rng.choice([1, 1, 1, 2, 4]) if channels < 9 else 1)
    op = inside(window(rng)) | {"in_c": channels, "out_c": out_c, "groups": channels}
    return weighted(rng, OpCode.DEPTHWISE_CONV_2D, op, helium)


def fully_connected(rng: Any, helium: bool) -> Op:
    rows, features, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 200)), int(rng.integers(1, 40))
    op = {"rows": rows, "in_features": features, "out_features": outputs} | limits(rng)
    return weighted(rng, OpCode.FULLY_CONNECTED, op, helium, one_scale=bool(rng.random() < 0.5))


def random_ops(seed: int, count: int, helium: bool) -> list[Op]:
    """Ops that CMSIS-NN takes."""
    rng = np.random.default_rng(seed)
    makers = (conv, conv, depthwise, depthwise, fully_connected)
    return [makers[int(rng.integers(len(makers)))](rng, helium) for _ in range(count)]


def square(kernel: int, size: int, channels: int, groups: int = 1, **more: int) -> dict[str, int]:
    """Fields of a window over a square input, without padding unless `more` says so."""
    op = {f"{name}_{axis}": value for axis in "hw" for name, value in (("in", size), ("kernel", kernel))}
    op |= {f"{name}_{axis}": 1 for axis in "hw" for name in ("stride", "dilation")}
    op |= {"pad_top": 0, "pad_left": 0, "in_c": channels, "out_c": channels, "groups": groups}
    op |= {"out_h": size - kernel + 1, "out_w": size - kernel + 1} | more
    return op | limits(np.random.default_rng(1))


def refused(helium: bool) -> Iterator[tuple[str, Op]]:
    """(why CMSIS-NN must not be called, an op that would suit it but for that)."""
    rng = np.random.default_rng(9)

    def made(code: OpCode, fields: dict[str, int], **changed: int) -> Op:
        op = weighted(rng, code, fields, helium)
        op.values |= changed
        return op

    plain, planes = square(3, 6, 8), square(3, 6, 8, 8)
    dense = {"rows": 2, "in_features": 20, "out_features": 9} | limits(rng)
    conv_2d, depthwise_2d = OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D
    yield "two groups", made(conv_2d, square(3, 6, 8, 2), scratch=ARENA, scratch_bytes=4096)
    wide = {"in_h": 1, "in_w": 1, "out_c": 2, "pad_top": 15, "pad_left": 15, "out_h": 16, "out_w": 16}
    yield "a row of 65,536 weights", made(conv_2d, square(16, 1, 256, **wide))
    yield "one pixel, fewer outputs than inputs", made(conv_2d, square(1, 6, 8, out_h=4))
    beyond = {"stride_h": 4, "out_h": 3}
    yield "a window that never reaches the input", made(conv_2d, square(2, 6, 8, **beyond))
    yield "a depthwise window that never reaches it", made(depthwise_2d, square(2, 6, 8, 8, **beyond))
    yield "weights in rows", made(depthwise_2d, planes, packing=Packing.ROW_MAJOR)
    yield "the second column outside", made(depthwise_2d, square(3, 6, 8, 8, stride_w=5, out_w=2))
    for name, code, fields in (("conv", conv_2d, plain), ("depthwise", depthwise_2d, planes)):
        right = made(code, fields)
        short = right.values["scratch_bytes"] - 1
        yield f"{name}: a byte of scratch too few", made(code, fields, scratch_bytes=short)
        yield f"{name}: no scratch", made(code, fields, scratch=NO_OFFSET, scratch_bytes=0)
        yield f"{name}: misaligned scratch", made(code, fields, scratch=right.values["scratch"] - 2)
        near = reference.window_distance(fields)
        yield f"{name}: overlap", made(code, fields, input=2000, output=2000 - near, overlap_bytes=near)
    yield "rows of two scales without scratch", made(OpCode.FULLY_CONNECTED, dense, scratch=NO_OFFSET, scratch_bytes=0)
    yield "dense: overlap", made(OpCode.FULLY_CONNECTED, dense, input=2000, output=1991, overlap_bytes=9)


def image_of(ops: list[Op], seed: int) -> Image:
    """An image of these ops whose golden record covers what each writes."""
    io = [Io(0, (ARENA,)), Io(ARENA + SCRATCH, (BEHIND,), name="behind")]
    builder = ImageBuilder(ARENA + SCRATCH + BEHIND, io, [Io(0, (ARENA,), name="y"), io[1]], ops)
    builder.header = {"scratch_bytes": max(op.values.get("scratch_bytes", 0) for op in ops)}
    builder.golden = Golden((seed,), golden_crc(read_image(builder.build()), (seed,)))
    return read_image(builder.build())
