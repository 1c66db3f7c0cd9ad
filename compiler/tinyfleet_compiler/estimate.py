"""What an inference may cost on a device class: a simple table per operator, labelled as an estimate.

Fitted to counts of the portable kernels under QEMU (Cortex-M4: kws 29.8 M, ResNet-8 83.5 M, autoencoder 1.4 M);
the other classes scale it by their `instructions_per_mac`.
"""

from dataclasses import dataclass

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.operators import INT4_FORMS, INT16_FORMS, OPERATORS, OpCode

_PER_OUTPUT = {
    OpCode.CONV_2D: 40.0,
    OpCode.DEPTHWISE_CONV_2D: 40.0,
    OpCode.FULLY_CONNECTED: 40.0,
    OpCode.ADD: 90.0,
    OpCode.SOFTMAX: 320.0,
    OpCode.RESCALE: 35.0,
    OpCode.TRANSPOSE: 8.0,
    OpCode.PAD: 2.0,
    OpCode.CONCAT: 2.0,
    OpCode.STRIDED_COPY: 6.0,
    OpCode.GATHER: 3.0,
    OpCode.RESIZE_BILINEAR: 30.0,
    OpCode.TRANSPOSE_CONV_2D: 60.0,
    OpCode.LUT_INT8: 6.0,
    OpCode.PRELU: 45.0,
    OpCode.ADD_BROADCAST: 95.0,
    OpCode.SUB: 95.0,
    OpCode.MUL: 45.0,
    OpCode.DIV: 75.0,
    OpCode.MINIMUM: 65.0,
    OpCode.MAXIMUM: 65.0,
    OpCode.REDUCE_SUM: 40.0,
    OpCode.REDUCE_MAX: 20.0,
    OpCode.REDUCE_MIN: 20.0,
    OpCode.ARG_MAX: 20.0,
    OpCode.LOG_SOFTMAX: 250.0,
    OpCode.STATE_READ: 2.0,
    OpCode.STATE_WRITE: 2.0,
    OpCode.SVDF: 60.0,
    OpCode.FEATURES: 0.0,
    OpCode.BATCH_MATMUL: 40.0,
    OpCode.TOP_K: 10.0,
    OpCode.TOP_K_INDICES: 10.0,
    OpCode.NORMALIZE: 70.0,
    OpCode.ARG_MIN: 20.0,
    OpCode.SQUARED_DIFFERENCE: 95.0,
    OpCode.MAX_POOL_2D: 15.0,
    OpCode.AVERAGE_POOL_2D: 30.0,
}
_PER_OUTPUT |= {form: _PER_OUTPUT[code] for forms in (INT16_FORMS, INT4_FORMS) for code, form in forms.items()}
_PER_OUTPUT |= {OpCode.LOGISTIC_INT16: 30.0, OpCode.TANH_INT16: 30.0, OpCode.LUT_INT16: 25.0}
_PER_TAP = 6.0
_TAP_IN_MACS = 3.7
"""Addressing one tap of a window costs as much as this many multiply-accumulates."""
_PER_OP = 250.0


@dataclass(frozen=True)
class Estimate:
    """Cost of one inference."""

    instructions: int
    latency_ms: float
    energy_uj: float


def op_instructions(op: Op, out_elements: int, device: DeviceClass) -> int:
    """Estimated instructions of one operator with portable kernels."""
    macs: float = op.macs
    if "groups" in op.fields and op.macs:
        macs += op.macs / (op.fields["in_c"] // op.fields["groups"]) * _TAP_IN_MACS
    taps = 0
    if OPERATORS[op.code].record in ("op_pool", "op_pool_int16"):
        taps = out_elements * op.fields["kernel_h"] * op.fields["kernel_w"]
    if "k" in op.fields:
        taps = out_elements * op.fields["columns"]
    if OPERATORS[op.code].record in ("op_reduce", "op_reduce_int16"):
        taps = out_elements * op.fields["count"]
    return int(macs * device.instructions_per_mac + taps * _PER_TAP + out_elements * _PER_OUTPUT[op.code] + _PER_OP)


def estimate(instructions: int, device: DeviceClass) -> Estimate:
    """Latency from clock and cycles per instruction, energy from the class's coefficient."""
    seconds = instructions * device.cycles_per_instruction / device.clock_hz
    energy = instructions * device.energy_pj_per_instruction
    return Estimate(instructions, round(seconds * 1e3, 4), round(energy * 1e-6, 4))
