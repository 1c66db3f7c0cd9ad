"""A small model with the nine basic operators, golden vectors right: images for tests that need a whole model."""

from functools import cache

import numpy as np

from agent.runtime.images import Channels, ImageBuilder, Io, Op
from tinyfleet_compiler import numerics
from tinyfleet_compiler.image import Golden, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.simulate import golden_crc

LABELS = ("no", "yes", "maybe")
INPUT = (6, 6, 2)
SEEDS = (1, 0xDEADBEEF)


@cache
def build() -> bytes:
    """Image of the model, sealed; its golden CRC is the compiler's, so who wants the image alone needs no C."""
    return _builder(golden_of(_builder(Golden(SEEDS, 0)).build())).build()


def golden_of(image: bytes) -> Golden:
    """What the compiler's engine gives for the seeds."""
    return Golden(SEEDS, golden_crc(read_image(image), SEEDS))


def _channels(count: int, taps: int) -> Channels:
    multiplier, shift = numerics.quantize_multiplier(1 / taps / 40)
    return Channels(np.full(count, multiplier), np.full(count, shift), np.arange(count) * 300 - 200)


def _window(in_h: int, in_c: int, out_h: int, out_c: int, kernel: int, stride: int, pad: int) -> dict[str, int]:
    op = {"in_h": in_h, "in_w": in_h, "in_c": in_c, "out_h": out_h, "out_w": out_h, "out_c": out_c, "groups": 1}
    op |= {"kernel_h": kernel, "kernel_w": kernel, "stride_h": stride, "stride_w": stride}
    return op | {"dilation_h": 1, "dilation_w": 1, "pad_top": pad, "pad_left": pad}


def _builder(golden: Golden) -> ImageBuilder:
    """72 bytes in at 0; conv to 144 at 128; add in place; depthwise, pools, rescale, transpose, dense, softmax."""
    rng = np.random.default_rng(7)
    one, zero = numerics.quantize_multiplier(0.5), {"input_zero_point": 3, "output_zero_point": 3}
    add = {"input_multiplier": one[0], "input_b_multiplier": one[0], "input_shift": one[1], "input_b_shift": one[1]}
    add |= {"output_multiplier": 2**30, "output_shift": -18, "input_b_zero_point": 0}
    soft = {"multiplier": 2**30, "left_shift": 24, "diff_min": -124}
    ops = [
        Op(OpCode.CONV_2D, _window(6, 2, 6, 4, 3, 1, 1) | {"output": 128}, _int8(rng, 4, 18), _channels(4, 18)),
        Op(
            OpCode.ADD,
            add | {"input": 128, "output": 128, "size": 144, "size_b": 4, "overlap_bytes": 0, "flags": 1},
            constant=_int8(rng, 4),
        ),
        Op(
            OpCode.DEPTHWISE_CONV_2D,
            _window(6, 4, 6, 4, 3, 1, 1) | zero | {"input": 128, "output": 272, "groups": 4},
            _int8(rng, 4, 9),
            _channels(4, 9),
        ),
        Op(OpCode.MAX_POOL_2D, _window(6, 4, 3, 4, 2, 2, 0) | {"input": 272, "output": 0}),
        Op(OpCode.AVERAGE_POOL_2D, _window(3, 4, 2, 4, 2, 1, 0) | {"input": 0, "output": 64}),
        Op(
            OpCode.RESCALE,
            {"input": 64, "output": 64, "size": 16, "multiplier": 2**30, "shift": 1, "overlap_bytes": 0},
        ),
        Op(OpCode.TRANSPOSE, {"input": 64, "output": 80, "dims": [1, 4, 2, 2], "strides": [0, 1, 8, 4]}),
        Op(
            OpCode.FULLY_CONNECTED,
            {"input": 80, "output": 96, "rows": 1, "in_features": 16, "out_features": 3},
            _int8(rng, 3, 16),
            _channels(3, 16),
        ),
        Op(OpCode.SOFTMAX, soft | {"input": 96, "output": 96, "rows": 1, "columns": 3, "overlap_bytes": 0}),
    ]
    inputs = [Io(0, INPUT, 0.05, -10, "image")]
    outputs = [Io(96, (3,), 1 / 256, -128, "probabilities")]
    return ImageBuilder(416, inputs, outputs, ops, LABELS, "small", "v7", golden)


def _int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)
