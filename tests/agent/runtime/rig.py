"""The runtime through cffi, on buffers of exactly the size they claim, so that a byte too far is a sanitizer report."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import cffi
import numpy as np

from agent import cbuild, red_zones
from tinyfleet_compiler import read_image
from tinyfleet_compiler.simulate import join_rows

_LIST = (cbuild.INCLUDE / "fleet_status.h").read_text()
NAMES = {int(value): name for name, value in re.findall(r"X\(FLEET_(?:ERR_)?(\w+), (-?\d+),", _LIST)}


@cache
def load() -> tuple[cffi.FFI, Any]:
    ffi = red_zones.make_ffi()
    ffi.cdef(cbuild.cdef(cbuild.INCLUDE / "fleet_runtime.h"))
    ffi.cdef("int posix_memalign(void **memory, size_t alignment, size_t bytes); void free(void *memory);")
    return ffi, red_zones.load(ffi, cbuild.shared_library("runtime", cbuild.runtime_sources()))


def buffer(size: int, data: bytes = b"", offset: int = 0) -> Any:
    """`size` bytes, 16-byte aligned plus `offset`, with nothing readable behind them under ASan."""
    ffi, _ = load()
    libc = ffi.dlopen(None)
    place = ffi.new("void **")
    assert libc.posix_memalign(place, 16, max(size + offset, 1)) == 0
    memory = ffi.gc(place[0], libc.free)
    view = ffi.cast("uint8_t *", memory) + offset
    ffi.memmove(view, data[:size], min(size, len(data)))
    _owners[view] = memory
    return view


_owners: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


@dataclass
class Model:
    """An image opened in C with an arena of exactly its size."""

    image: bytes
    status: str = ""

    def __post_init__(self) -> None:
        ffi, lib = load()
        self.memory = buffer(len(self.image), self.image)
        self.handle = ffi.new("fleet_model_t *")
        self.status = NAMES[lib.fleet_model_open(self.handle, self.memory, len(self.image))]
        if self.status == "OK":
            self.info = ffi.new("fleet_model_info_t *")
            lib.fleet_model_info(self.handle, self.info)
            self.arena = buffer(self.info.arena_bytes, bytes(self.info.arena_bytes))
            self.state = buffer(self.info.state_bytes)
            attached = lib.fleet_model_attach_state(self.handle, self.state, self.info.state_bytes)
            assert attached == 0, NAMES[attached]

    def step_outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """Output of every op, in order, for one input; rows of a cascade joined."""
        ffi, lib = load()
        data = np.ascontiguousarray(x, np.int8).tobytes()
        size = self.info.arena_bytes
        assert lib.fleet_model_set_input(self.handle, 0, data, len(data), self.arena, size) == 0
        cursor, step = ffi.new("fleet_cursor_t *"), ffi.new("fleet_step_t *")
        rows: list[list[np.ndarray]] = [[] for _ in range(self.info.op_count)]
        while cursor.index < self.info.op_count:
            assert lib.fleet_model_step(self.handle, cursor, self.arena, size, step) == 0
            rows[step.index].append(np.frombuffer(ffi.buffer(step.output, step.output_bytes), np.int8).copy())
        for cascade in read_image(self.image).cascades:
            for member in range(len(cascade.links)):
                parts = [part[None] for part in rows[cascade.first + member]]
                rows[cascade.first + member] = [join_rows(cascade, member, parts)[0]]
        return [np.concatenate(parts) for parts in rows]

    def run(self, x: np.ndarray) -> np.ndarray:
        """The single output for one input, through fleet_model_run."""
        ffi, lib = load()
        data = np.ascontiguousarray(x, np.int8).tobytes()
        out, tensor = ffi.new("int8_t const **"), ffi.new("fleet_tensor_t *")
        status = lib.fleet_model_run(self.handle, data, len(data), self.arena, self.info.arena_bytes, out)
        assert status == 0, NAMES[status]
        assert lib.fleet_model_output_info(self.handle, 0, tensor) == 0
        return np.frombuffer(ffi.buffer(out[0], tensor.size_bytes), np.int8).copy()

    def state_bytes(self) -> np.ndarray:
        """What the state buffer holds."""
        return np.frombuffer(load()[0].buffer(self.state, self.info.state_bytes), np.int8).copy()

    def reset(self) -> None:
        """The initial state again."""
        assert load()[1].fleet_model_reset_state(self.handle) == 0

    def verify(self) -> str:
        return NAMES[load()[1].fleet_model_verify(self.handle)]

    def golden(self) -> str:
        return NAMES[load()[1].fleet_model_golden(self.handle, self.arena, self.info.arena_bytes)]
