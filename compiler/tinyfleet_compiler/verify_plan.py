"""Proves a memory plan from the finished image, sharing no code with the planner.

Every arena byte carries the tensor that owns it. An op may only read bytes its producer owns, and where its output
covers its own input, each byte must be written no earlier than the last pixel that reads it. Cascades are replayed
row by row (`verify_cascade.py`), every row a tensor of its own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.errors import VerifyError
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.operators import OpCode, OpFlag, counterpart, tensor_bytes
from tinyfleet_compiler.rows import RowStep
from tinyfleet_compiler.verify_cascade import replay_cascade

Ints = npt.NDArray[np.int64]
_FREE = -1
_ANY_ORDER = (
    *(OpCode.SVDF, OpCode.LSTM, OpCode.GRU),
    *(OpCode.TRANSPOSE, OpCode.CONCAT, OpCode.GATHER, OpCode.RESIZE_BILINEAR, OpCode.FEATURES),
    *(OpCode.TRANSPOSE_CONV_2D, OpCode.TRANSPOSE_CONV_2D_INT16, OpCode.BATCH_MATMUL),
)
_MANY_STEPS = 1 << 40


def verify_plan(
    image: Image, ops: Sequence[Op], sizes: dict[str, int], inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Replay the image's offsets for `ops` in order. Raises `VerifyError` naming the op and the byte."""
    ids = {name: number for number, name in enumerate(sizes)}
    owner = np.full(image.arena_bytes, _FREE, np.int64)
    for name, tensor in zip(inputs, image.inputs, strict=True):
        _own(owner, tensor.offset, sizes[name], ids[name], name)
    _check_states(image, ops)
    cascades = {cascade.first: cascade for cascade in image.cascades}
    inside = {index for c in image.cascades for index in range(c.first, c.first + len(c.links))}
    for index, (op, record) in enumerate(zip(ops, image.ops, strict=True)):
        if index in cascades:
            replay_cascade(owner, image, cascades[index], ops, ids, _check_row_order)
        elif index not in inside:
            _replay_op(owner, op, record, sizes, ids)
    for name, tensor in zip(outputs, image.outputs, strict=True):
        _check_owned(owner, tensor.offset, sizes[name], ids[name], "model output", name)


def _replay_op(owner: Ints, op: Op, record: ImageOp, sizes: dict[str, int], ids: dict[str, int]) -> None:
    for name, offset in _operands(op, record):
        _check_owned(owner, offset, sizes[name], ids[name], op.name, name)
        check_order(op, record, offset, sizes[name], sizes[op.output])
    if record.scratch_bytes:
        _own(owner, record.scratch, record.scratch_bytes, _FREE, op.name)
        for name, offset in _operands(op, record):
            _check_owned(owner, offset, sizes[name], ids[name], op.name, name)
    _own(owner, record.output, sizes[op.output], ids[op.output], op.name)


def _check_row_order(op: Op, step: RowStep, offset: int) -> None:
    window, place = step.window, step.places[0]
    read = (window.end - window.first - 1) * place.pitch + (window.right - window.left) * window.pixel
    check_order(op, step.record, offset, read, window.out_bytes)


def _check_states(image: Image, ops: Sequence[Op]) -> None:
    """Variables share no byte, every record names its own, and an operator that meets
    what another has written says that it runs after it."""
    owner = np.full(image.state_bytes, _FREE, np.int64)
    places = {}
    for number, state in enumerate(image.states):
        places[state.name] = state.offset
        if (owner[state.offset : state.offset + state.size_bytes] != _FREE).any():
            raise VerifyError(f"state '{state.name}' shares bytes with another; this is a bug of the compiler")
        owner[state.offset : state.offset + state.size_bytes] = number
    written: dict[str, str] = {}
    for op, record in zip(ops, image.ops, strict=True):
        for field, variable in op.states.items():
            late = variable.name in written and written[variable.name] not in op.after
            if record.fields[field] != places.get(variable.name) or late:
                raise VerifyError(f"'{op.name}' meets state '{variable.name}' too late; this is a bug of the compiler")
            if op.code is not OpCode.STATE_READ:
                written[variable.name] = op.output


def _operands(op: Op, record: ImageOp) -> list[tuple[str, int]]:
    if not op.inputs:
        return []
    found = [(op.inputs[0], int(record.input))]
    if "inputs_more" in record.fields:
        found += zip(op.inputs[1:], map(int, record.inputs_more), strict=False)
    if "input_b" in record.fields and not record.flags & OpFlag.CONSTANT_B:
        found.append((op.inputs[-1], int(record.input_b)))
    return found


def _own(owner: Ints, offset: int, size: int, tensor: int, name: str) -> None:
    if offset < 0 or offset + size > len(owner):
        raise VerifyError(
            f"memory plan: '{name}' lies outside the arena; this is a bug of the compiler, please report it"
        )
    owner[offset : offset + size] = tensor


def _check_owned(owner: Ints, offset: int, size: int, tensor: int, op: str, name: str) -> None:
    wrong = np.flatnonzero(owner[offset : offset + size] != tensor)
    if offset + size > len(owner) or wrong.size:
        where = offset + int(wrong[0]) if wrong.size else offset + size
        raise VerifyError(
            f"memory plan: '{op}' finds '{name}' overwritten at arena byte {where}; this is a bug of the compiler"
        )


def check_order(op: Op, record: ImageOp, source: int, in_size: int, out_size: int) -> None:
    """Where the output covers the input at `source`, nothing is written before it is read. Raises `VerifyError`."""
    start, end = max(source, record.output), min(source + in_size, record.output + out_size)
    if start >= end:
        return
    if record.flags & OpFlag.REVERSED and "kernel_h" not in record.fields:
        raise VerifyError(f"memory plan: '{op.name}' cannot run in reverse; this is a bug of the compiler")
    in_bytes, out_bytes = tensor_bytes(record.code, record.fields)
    free_from = np.repeat(_free_from(record, in_size // in_bytes), in_bytes)[start - source : end - source]
    steps = np.repeat(_write_steps(record, out_size // out_bytes), out_bytes)
    written = steps[start - record.output : end - record.output]
    early = np.flatnonzero(written < free_from)
    if early.size:
        raise VerifyError(
            f"memory plan: '{op.name}' overwrites its input at byte {start + int(early[0])} before reading it"
        )


def _free_from(record: ImageOp, size: int) -> Ints:
    """First step at which an input element may be overwritten; a step is an output pixel, row or element."""
    if counterpart(record.code) in _ANY_ORDER:
        return np.full(size, max(size, _MANY_STEPS), np.int64)
    if "kernel_h" in record.fields:
        return _window_free_from(record)
    index = np.arange(size, dtype=np.int64)
    if "in_features" in record.fields:
        return np.asarray(index // record.in_features + 1)
    if "k" in record.fields:
        return np.asarray(index // record.columns + 1)
    if record.code is OpCode.NORMALIZE and record.count > 1:
        return np.full(size, _MANY_STEPS, np.int64)
    if "inner" in record.fields:
        return np.asarray(index // (record.count * record.inner) * record.inner + index % record.inner)
    if counterpart(record.code) in (OpCode.PAD, OpCode.STRIDED_COPY):
        return _copy_free_from(record, size)
    return index


def _write_steps(record: ImageOp, size: int) -> Ints:
    """Step at which each output element is written first."""
    index = np.arange(size, dtype=np.int64)
    if "kernel_h" in record.fields:
        pixel = index // record.out_c
        return np.asarray(size // record.out_c - 1 - pixel if record.flags & OpFlag.REVERSED else pixel)
    if "in_features" in record.fields:
        return np.asarray(index // record.out_features)
    if "k" in record.fields:
        return np.asarray(index // record.k)
    return index


def _window_free_from(r: ImageOp) -> Ints:
    last = np.full((r.in_h, r.in_w), -1, np.int64)
    rows, columns = np.arange(r.out_h), np.arange(r.out_w)
    for ky in range(r.kernel_h):
        for kx in range(r.kernel_w):
            y = rows * r.stride_h - r.pad_top + ky * r.dilation_h
            x = columns * r.stride_w - r.pad_left + kx * r.dilation_w
            oy, ox = rows[(y >= 0) & (y < r.in_h)], columns[(x >= 0) & (x < r.in_w)]
            y, x = y[(y >= 0) & (y < r.in_h)], x[(x >= 0) & (x < r.in_w)]
            step = oy[:, None] * r.out_w + ox[None, :]
            if r.flags & OpFlag.REVERSED:
                step = r.out_h * r.out_w - 1 - step
            last[np.ix_(y, x)] = np.maximum(last[np.ix_(y, x)], step)
    # A pixel's taps are read until its last channel is written: they are free from the next pixel on.
    return np.repeat((last + 1).reshape(-1), r.in_c)


def _copy_free_from(r: ImageOp, size: int) -> Ints:
    """Step of the last output element that each input byte becomes; bytes nobody copies are free at once."""
    if counterpart(r.code) is OpCode.PAD:
        shape = [b + d + a for b, d, a in zip(r.before, r.dims, r.after, strict=True)]
        inner = np.ravel_multi_index(np.indices(r.dims).reshape(4, -1) + np.reshape(r.before, (4, 1)), shape)
        return np.asarray(inner, dtype=np.int64)
    free = np.zeros(size, np.int64)
    source = r.start + np.tensordot(np.array(r.strides, np.int64), np.indices(r.dims, np.int64).reshape(4, -1), 1)
    np.maximum.at(free, source, np.arange(source.size))
    return free
