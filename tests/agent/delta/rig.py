"""The C patch decoder with exactly sized buffers, driven from Python."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from agent import cbuild, red_zones

ffi = red_zones.make_ffi()
ffi.cdef(cbuild.cdef(cbuild.INCLUDE / "fleet_delta.h"))
_SOURCES = [cbuild.DEVICE_AGENT / "src/delta.c", cbuild.DEVICE_AGENT / "runtime/crc32.c"]
lib: Any = red_zones.load(ffi, cbuild.shared_library("delta", _SOURCES))


@dataclass
class Device:
    """A base slot, a slot being written, and callbacks that check what the header promises."""

    old: bytes
    new_bytes: int
    patch_bytes: int
    unit_bytes: int = 16
    base_id: bytes | None = None
    fail_write_at: int = -1
    fail_read_at: int = -1
    new: bytearray = field(default_factory=bytearray)
    start: int = 0
    before: bytes = b""

    def __post_init__(self) -> None:
        self._unit = ffi.new("uint8_t[]", self.unit_bytes)
        self._read = ffi.callback("int(void *, uint32_t, uint8_t *, uint32_t)", self._on_read, error=1)
        self._read_new = ffi.callback("int(void *, uint32_t, uint8_t *, uint32_t)", self._on_read_new, error=1)
        self._write = ffi.callback("int(void *, uint32_t, const uint8_t *, uint32_t)", self._on_write, error=1)
        base = self.base_id if self.base_id is not None else hashlib.sha256(self.old).digest()[:8]
        self.config = ffi.new("fleet_delta_config_t *")
        self.config.old_bytes = len(self.old)
        self.config.new_bytes = self.new_bytes
        self.config.patch_bytes = self.patch_bytes
        self.config.base_id = bytes(8) if not self.old else base
        self.config.read_old = self._read
        self.config.read_new = self._read_new
        self.config.write_new = self._write
        self.config.unit = self._unit
        self.config.unit_bytes = self.unit_bytes
        self.delta = ffi.new("fleet_delta_t *")
        self.broken = ""

    def _on_read(self, _ctx: Any, offset: int, data: Any, size: int) -> int:
        if not size or offset + size > len(self.old):
            self.broken = f"read of {size} at {offset} outside the old image"
            return 1
        ffi.buffer(data, size)[:] = self.old[offset : offset + size]
        return int(self.fail_read_at >= 0 and offset >= self.fail_read_at)

    def _on_read_new(self, _ctx: Any, offset: int, data: Any, size: int) -> int:
        if not size or offset + size > self.start + len(self.new):
            self.broken = f"read of {size} at {offset} outside what is written"
            return 1
        ffi.buffer(data, size)[:] = (self.before + self.new)[offset : offset + size]
        return 0

    def _on_write(self, _ctx: Any, offset: int, data: Any, size: int) -> int:
        at = self.start + len(self.new)
        last = at + size == self.new_bytes
        if offset != at or at + size > self.new_bytes or (size != self.unit_bytes and not last):
            self.broken = f"write of {size} at {offset}, expected {at}"
            return 1
        if self.fail_write_at >= 0 and offset >= self.fail_write_at:
            return 1
        self.new += bytes(ffi.buffer(data, size))
        return 0

    def begin(self) -> int:
        """fleet_delta_init."""
        return int(lib.fleet_delta_init(self.delta, self.config))

    def resume(self, input_offset: int, output_offset: int, spacing: int) -> int:
        """fleet_delta_resume; the new image then holds bytes from output_offset on."""
        checkpoint = ffi.new("fleet_delta_checkpoint_t *", [input_offset, output_offset, spacing])
        self.start = output_offset if input_offset else 0
        return int(lib.fleet_delta_resume(self.delta, self.config, checkpoint))

    def push(self, data: bytes, budget: int = 1 << 30) -> int:
        """Push all of data, in as many calls as the budget asks for; the last status."""
        used, at = ffi.new("size_t *"), 0
        size = len(data)
        while True:
            before = len(self.new)
            rest = ffi.new("uint8_t[]", data[at:]) if at < size else ffi.NULL
            status = int(lib.fleet_delta_push(self.delta, rest, size - at, budget, used))
            at += used[0]
            assert not self.broken, self.broken
            assert len(self.new) - before <= budget + self.unit_bytes
            if status or lib.fleet_delta_done(self.delta) or lib.fleet_delta_wants_input(self.delta):
                return status

    @property
    def done(self) -> bool:
        """fleet_delta_done."""
        return bool(lib.fleet_delta_done(self.delta))

    @property
    def checkpoint(self) -> tuple[int, int, int]:
        """(input offset, output offset, spacing) of the latest checkpoint."""
        checkpoint = lib.fleet_delta_checkpoint(self.delta)
        return checkpoint.input_offset, checkpoint.output_offset, checkpoint.spacing
