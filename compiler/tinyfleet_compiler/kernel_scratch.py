"""Scratch that the kernels of a device class ask for (SPEC.md section 6)."""

from collections.abc import Sequence
from dataclasses import replace

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.operators import OpCode

_STACK_ROW = 144
"""Longest row of weights for which the DSP kernels keep two widened columns on the stack (`runtime/dsp/conv_2d.c`)."""
_MAX_ROW = 16384
_COLUMN_BYTES = 4
"""Two columns of halfwords, per value of a row."""


def give_scratch(ops: Sequence[Op], kernels: str) -> tuple[Op, ...]:
    """The ops with the scratch that `kernels` (of a device class) are faster with; they run without it too."""
    if kernels != "dsp":
        return tuple(ops)
    return tuple(replace(op, scratch_bytes=max(op.scratch_bytes, _columns_bytes(op))) for op in ops)


def _columns_bytes(op: Op) -> int:
    """Bytes of two widened columns of a dense convolution; 0 where the kernel takes the stack or the portable way."""
    f = op.fields
    if op.code is not OpCode.CONV_2D or f["groups"] != 1 or f["in_c"] % 4:
        return 0
    row = int(f["kernel_h"] * f["kernel_w"] * f["in_c"])
    return row * _COLUMN_BYTES if _STACK_ROW < row <= _MAX_ROW else 0
