"""Counts op by op through any counter, and the high-water of a stack."""

from typing import Any

import numpy as np

from agent.runtime.rig import Model, load
from agent.runtime.small_model import build


def profiled(model: Model, capacity: int, readings: list[int]) -> tuple[int, list[int]]:
    ffi, lib = load()
    left = iter(readings)
    counter = ffi.callback("uint32_t(void *)", lambda _: next(left) % 2**32)
    counts = ffi.new("uint32_t[]", capacity)
    size = model.info.arena_bytes
    status = lib.fleet_model_profile(model.handle, model.arena, size, counter, ffi.NULL, counts, capacity)
    return status, list(counts)


def test_every_op_has_its_count_also_where_the_counter_wraps() -> None:
    model = Model(build())
    ops = int(model.info.op_count)
    took = [7 * i + 1 for i in range(ops)]
    readings = [2**32 - 10, *(2**32 - 10 + np.cumsum(took))]
    assert profiled(model, ops, [int(r) for r in readings]) == (0, took)


def test_too_little_room_is_refused_before_anything_runs() -> None:
    model = Model(build())
    status, counts = profiled(model, int(model.info.op_count) - 1, [])
    assert status != 0
    assert not any(counts)


def test_stack_high_water_is_what_was_touched_deepest() -> None:
    ffi, lib = load()
    words: Any = ffi.new("uint32_t[64]")
    low = ffi.cast("uint32_t *", words)
    lib.fleet_stack_mark(low, 256)  # not the stack we run on: all of it lies below
    assert lib.fleet_stack_used(low, 256) == 0
    words[60] = 1
    assert lib.fleet_stack_used(low, 256) == 16
    words[10] = 1
    assert lib.fleet_stack_used(low, 256) == 216
