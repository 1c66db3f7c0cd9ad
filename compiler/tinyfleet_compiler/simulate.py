"""Byte-exact numpy engine: an arena machine that executes an image's op records over a batch of samples."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.errors import DatasetError
from tinyfleet_compiler.image import Image, ImageOp, ImageTensor
from tinyfleet_compiler.kernels.state import STATE_KERNELS
from tinyfleet_compiler.kernels.table import KERNELS
from tinyfleet_compiler.layout import GOLDEN_STREAM_STEPS
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import ELEMENT_BYTES, Element
from tinyfleet_compiler.rows import ImageCascade, Move, cascade_steps

Int8 = npt.NDArray[np.int8]
Array = npt.NDArray[Any]
CHUNK_BYTES = 6_000_000
Trace = Callable[[int, Int8], None]


def simulate(
    image: Image, x: npt.ArrayLike | dict[str, npt.NDArray[np.generic]], *, reset_state: bool = False
) -> dict[str, Array]:
    """Outputs (N, ...) by name, of the types the image says, for `x` (N, H, W, C) in device order: codes of the input's
    type, or real numbers to quantise; a dict for several inputs.

    A model with state begins at its initial one and sees the samples as one stream, in order; with `reset_state` every
    sample begins anew. Raises `DatasetError` when shape or type do not fit.
    """
    given = x if isinstance(x, dict) else {image.inputs[0].name: np.asarray(x)}
    codes = {t.name: _codes(t, given) for t in image.inputs}
    if len({len(c) for c in codes.values()}) != 1:
        raise DatasetError("the inputs have different numbers of samples; give one row per sample in each")
    parts: dict[str, list[Array]] = {t.name: [np.zeros((0, *t.shape), t.dtype)] for t in image.outputs}
    for arena in run_stream(image, codes, reset_state=reset_state):
        for tensor in image.outputs:
            parts[tensor.name].append(read_tensor(arena, tensor))
    return {name: np.concatenate(part) for name, part in parts.items()}


def run_stream(
    image: Image, codes: dict[str, Array], trace: Trace | None = None, *, reset_state: bool = False
) -> Iterator[Int8]:
    """Arenas after the last op, for inputs (N, ...) by name: many samples at once, or one where state passes on."""
    state = initial_states(image, 1)
    for arena in _arenas(image, codes, one=bool(image.state_bytes) and not reset_state):
        if reset_state:
            state = initial_states(image, len(arena))
        run_arena(image, arena, trace, state)
        yield arena


def initial_states(image: Image, count: int) -> Int8:
    """(count, state_bytes) int8: state buffers before the first inference."""
    return np.repeat(image.initial_state[None], count, axis=0)


def run_arena(image: Image, arena: Int8, trace: Trace | None = None, state: Int8 | None = None, first: int = 0) -> None:
    """Execute every op from `first` on, on arenas (N, arena_bytes) whose inputs are in place.

    `trace(index, output)` is called after each op, in a cascade after each row: the row is the output then. `state`
    (N, state_bytes) is changed in place; None: the initial one, forgotten afterwards.
    """
    state = initial_states(image, len(arena)) if state is None else state
    for index, op in _records(image, arena, first):
        with np.errstate(all="ignore"):  # floats overflow to infinity, as on the device
            if op.code in STATE_KERNELS:
                output = as_bytes(STATE_KERNELS[op.code](image, op, arena, state))
            else:
                output = as_bytes(KERNELS[op.code](image, op, arena))
        arena[:, op.output : op.output + output.shape[1]] = output
        if trace is not None:
            trace(index, output)


def _records(image: Image, arena: Int8, first: int) -> Iterator[tuple[int, ImageOp]]:
    """What runs, in order: whole ops and rows of ops; rings slide and columns are gathered just before the next row."""
    cascades = {cascade.first: cascade for cascade in image.cascades}
    index = first
    while index < len(image.ops):
        cascade = cascades.get(index)
        if cascade is None:
            yield index, image.ops[index]
            index += 1
            continue
        for step in cascade_steps(image, cascade):
            for move in (step.slide, step.gather):
                if move is not None:
                    _move(arena, move)
            yield step.index, step.record
        index += len(cascade.links)


def _move(arena: Int8, move: Move) -> None:
    starts = [move.source + run * move.pitch for run in range(move.count)]
    moved = np.concatenate([arena[:, start : start + move.size] for start in starts], axis=1)
    arena[:, move.target : move.target + moved.shape[1]] = moved


def collect_outputs(image: Image, arena: Int8, first: int = 0) -> list[Int8]:
    """Run from op `first` on, and give each one's whole output (N, bytes): rows of a cascade joined."""
    parts: list[list[Int8]] = [[] for _ in image.ops]
    run_arena(image, arena, lambda index, output: parts[index].append(output.copy()), first=first)
    for cascade in image.cascades:
        for member in range(len(cascade.links)) if cascade.first >= first else ():
            parts[cascade.first + member] = [join_rows(cascade, member, parts[cascade.first + member])]
    return [np.concatenate(rows, axis=1) for rows in parts[first:]]


def join_rows(cascade: ImageCascade, member: int, made: Sequence[Int8]) -> Int8:
    """The whole output (N, bytes) of an op of a cascade, from what its steps made (N, bytes) each."""
    link, first = cascade.links[member], cascade.strips[0][member]
    pixel = made[0].shape[1] // first.columns
    whole = np.zeros((len(made[0]), link.rows, link.width, pixel), np.int8)
    for at, output in enumerate(made):
        columns = cascade.strips[at // link.rows][member]
        whole[:, at % link.rows, columns.first : columns.end] = output.reshape(len(output), columns.columns, pixel)
    return whole.reshape(len(whole), -1)


def golden_crc(image: Image, seeds: Sequence[int]) -> int:
    """CRC-32 over every op's output for the inputs that the seeds generate, one after another (SPEC.md section 7)."""
    crc = 0

    def add(index: int, output: Int8) -> None:
        nonlocal crc
        crc = zlib.crc32(np.ascontiguousarray(output).tobytes(), crc)

    for seed in seeds:
        _run_vector(image, seed, add)
    return crc


def _run_vector(image: Image, seed: int, watch: Callable[[int, Int8], None]) -> None:
    """One golden vector, from the initial state on."""
    arena, state = np.zeros((1, max(image.arena_bytes, 1)), np.int8), initial_states(image, 1)
    random = seed
    for _ in range(GOLDEN_STREAM_STEPS if image.state_bytes else 1):
        for tensor in image.inputs:
            values, random = golden_input(tensor, random)
            arena[0, tensor.offset : tensor.offset + tensor.size_bytes] = values
        run_arena(image, arena, watch, state)


def golden_input(tensor: ImageTensor, state: int) -> tuple[Int8, int]:
    """Bytes of a golden input and the generator's state after them (SPEC.md section 7)."""
    if tensor.element is Element.FLOAT32:
        return golden_floats(state, tensor.size_bytes // ELEMENT_BYTES[tensor.element])
    return golden_bytes(state, tensor.size_bytes)


def golden_floats(state: int, count: int) -> tuple[Int8, int]:
    """The generator's top 24 bits as `count` float32 in [-1, 1), as bytes, and the state after them."""
    values = np.empty(count, np.int64)
    for index in range(count):
        state = _next_random(state)
        values[index] = (state >> 8) - (1 << 23)
    return as_bytes((values / (1 << 23)).astype(np.float32)[None])[0], state


def _next_random(state: int) -> int:
    """xorshift32."""
    state ^= state << 13 & 0xFFFFFFFF
    state ^= state >> 17
    return state ^ (state << 5 & 0xFFFFFFFF)


def golden_bytes(state: int, count: int) -> tuple[Int8, int]:
    """`count` generator bytes as int8 and the state after them (xorshift32, top eight bits)."""
    values = bytearray(count)
    for index in range(count):
        state = _next_random(state)
        values[index] = state >> 24
    return np.frombuffer(bytes(values), np.int8), state


def as_bytes(values: Array) -> Int8:
    """(N, ...) elements of any type as (N, bytes) int8, little-endian."""
    flat = np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))
    return flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.int8)


def read_tensor(arena: Int8, tensor: ImageTensor) -> Array:
    """Copy of an input or output, (N, ...)."""
    flat = np.ascontiguousarray(arena[:, tensor.offset : tensor.offset + tensor.size_bytes])
    return flat.view(tensor.dtype).reshape(len(arena), *tensor.shape).copy()


def _codes(tensor: ImageTensor, given: dict[str, npt.NDArray[np.generic]]) -> Array:
    if tensor.name not in given:
        raise DatasetError(f"input '{tensor.name}' is missing; give one array per model input")
    x = given[tensor.name]
    if x.ndim == 0 or x.shape[1:] != tensor.shape:
        raise DatasetError(
            f"input '{tensor.name}' has shape {x.shape}; it must be (N, {', '.join(map(str, tensor.shape))})"
        )
    if x.dtype == tensor.dtype:
        return np.asarray(x)
    return quantize(x.astype(np.float32), tensor.scale, tensor.zero_point, tensor.dtype)


def _arenas(image: Image, codes: dict[str, Array], *, one: bool) -> Iterator[Int8]:
    count = len(next(iter(codes.values())))
    step = 1 if one else max(1, CHUNK_BYTES // (max(image.arena_bytes, _widest(image)) * 8))
    for start in range(0, count, step):
        size = min(step, count - start)
        arena = np.zeros((size, image.arena_bytes), np.int8)
        for tensor in image.inputs:
            part = codes[tensor.name][start : start + size]
            arena[:, tensor.offset : tensor.offset + tensor.size_bytes] = as_bytes(part)
        yield arena


def _widest(image: Image) -> int:
    """Largest column matrix a convolution makes, in elements."""
    return max((_columns(op) for op in image.ops), default=1)


def _columns(op: ImageOp) -> int:
    fields = op.fields
    if "kernel_h" not in fields or fields["groups"] == fields["in_c"] > 1:
        return 1
    return int(op.out_h * op.out_w * op.kernel_h * op.kernel_w * op.in_c) // 4
