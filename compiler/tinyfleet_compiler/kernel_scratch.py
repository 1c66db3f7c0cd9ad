"""Scratch that the kernels of a device class ask for (SPEC.md section 6)."""

from collections.abc import Sequence
from dataclasses import replace

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.operators import OpCode

_STACK_ROW = 96
"""Longest row of weights whose columns the kernels keep on the stack (`conv_2d.c` of `runtime/dsp`, `runtime/mve`)."""
_MAX_ROW = 16384
_COLUMN_BYTES = {"dsp": 4, "mve": 3}
"""Per value of a row: two columns of halfwords, three columns of bytes."""


def give_scratch(ops: Sequence[Op], kernels: str) -> tuple[Op, ...]:
    """The ops with the scratch that `kernels` (of a device class) are faster with; they run without it too."""
    if kernels not in _COLUMN_BYTES:
        return tuple(ops)
    return tuple(replace(op, scratch_bytes=max(op.scratch_bytes, _columns_bytes(op, kernels))) for op in ops)


def _columns_bytes(op: Op, kernels: str) -> int:
    """Bytes of the columns of a dense convolution; 0 where the kernel takes the stack or the portable way."""
    f = op.fields
    if op.code is not OpCode.CONV_2D or f["groups"] != 1 or (kernels == "dsp" and f["in_c"] % 4):
        return 0
    row = int(f["kernel_h"] * f["kernel_w"] * f["in_c"])
    return row * _COLUMN_BYTES[kernels] if _STACK_ROW < row <= _MAX_ROW else 0
