"""What an image for firmware with CMSIS-NN's kernels must look like: no overlap, their scratch, their packing.

The rules are those of CMSIS-NN 4.0.0 on a core with the DSP extension or with Helium (`*_get_buffer_size`), plus what
the adapters in `device_agent/runtime/vendor/cmsis_nn` need: shifts as int32, and biases without the zero point where
taps are padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.layout import NO_OVERLAP
from tinyfleet_compiler.operators import OpCode, Packing

_HELIUM_CHANNELS = 124
"""CMSIS-NN's CH_IN_BLOCK_MVE."""


def fit_cmsis_nn(ops: Sequence[Op], helium: bool = False) -> tuple[Op, ...]:
    """The ops, with those that CMSIS-NN takes laid out as it wants them on a core with or without Helium."""
    return tuple(_fit(op, helium) for op in ops)


def _fit(op: Op, helium: bool) -> Op:
    grouped = op.code is OpCode.CONV_2D and op.fields["groups"] != 1
    if op.code not in _SCRATCH or grouped:
        return op
    depthwise = op.code is OpCode.DEPTHWISE_CONV_2D
    return replace(
        op,
        overlap_bytes=NO_OVERLAP,
        reversed_overlap_bytes=None,
        overlapping_inputs=(),
        packing=Packing.CHANNELS_LAST if depthwise else Packing.ROW_MAJOR,
        scratch_bytes=max(op.scratch_bytes, _SCRATCH[op.code](op, helium)),
    )


def _conv_scratch(op: Op, helium: bool) -> int:
    """Two columns of int16 (Helium: four of whole groups of 8 bytes), but for windows of one pixel without padding."""
    f = op.fields
    one_pixel = f["kernel_h"] == f["kernel_w"] == 1 and not f["pad_top"] and not f["pad_left"]
    if one_pixel and _dilation(op) == (1, 1):
        return _channel_bytes(op)
    row = int(f["kernel_h"] * f["kernel_w"] * f["in_c"])
    return _channel_bytes(op) + 4 * (-(-row // 8) * 8 if helium else row)


def _depthwise_scratch(op: Op, helium: bool) -> int:
    """One column of int16 (Helium: four of bytes, 124 channels at a time) where there is one output a channel."""
    f = op.fields
    if f["in_c"] != f["out_c"] or _dilation(op) != (1, 1):
        return _channel_bytes(op)
    taps = int(f["kernel_h"] * f["kernel_w"])
    return _channel_bytes(op) + taps * (4 * _HELIUM_CHANNELS if helium else 2 * int(f["in_c"]))


def _fully_connected_scratch(op: Op, helium: bool) -> int:
    """Nothing where all rows have one scale: CMSIS-NN's own kernel takes no other layer, a 1x1 convolution does."""
    assert op.weights is not None
    same = all(np.unique(values).size == 1 for values in (op.weights.multipliers, op.weights.shifts))
    return 0 if same else 4 * int(op.fields["out_features"])


def _channel_bytes(op: Op) -> int:
    """Shifts, and biases where a window leaves the input."""
    f = op.fields
    padded = any(
        f[pad] or (f[f"out_{a}"] - 1) * f[f"stride_{a}"] + (f[f"kernel_{a}"] - 1) * f[f"dilation_{a}"] >= f[f"in_{a}"]
        for a, pad in (("h", "pad_top"), ("w", "pad_left"))
    )
    return 4 * int(f["out_c"]) * (2 if padded else 1)


def _dilation(op: Op) -> tuple[int, int]:
    return op.fields["dilation_h"], op.fields["dilation_w"]


_SCRATCH: dict[OpCode, Callable[[Op, bool], int]] = {
    OpCode.CONV_2D: _conv_scratch,
    OpCode.DEPTHWISE_CONV_2D: _depthwise_scratch,
    OpCode.FULLY_CONNECTED: _fully_connected_scratch,
}
