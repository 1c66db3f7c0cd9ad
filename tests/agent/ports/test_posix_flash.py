"""Flash in a file: NOR rules enforced, contents kept across processes, full disks and foreign files answered."""

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.ports.posix_port import ffi, lib

SIZE, BLOCK, UNIT = 16384, 4096, 16


class Flash:
    """An open flash and its port."""

    def __init__(
        self, path: Path, *, size: int = SIZE, block: int = BLOCK, unit: int = UNIT, erase_ms: int = 0
    ) -> None:
        self.flash = ffi.new(
            "fleet_posix_flash_t *",
            {"size": size, "erase_bytes": block, "program_bytes": unit, "erase_ms": erase_ms},
        )
        self.status = lib.fleet_posix_flash_open(self.flash, str(path).encode())
        self.port = lib.fleet_posix_flash_port(self.flash)

    @property
    def error(self) -> str:
        return str(ffi.string(self.flash.error).decode())

    def prog(self, offset: int, data: bytes) -> int:
        return int(self.port.prog(self.port.ctx, offset, data, len(data)))

    def read(self, offset: int, size: int) -> bytes | int:
        room = ffi.new("uint8_t[]", size)
        status = self.port.read(self.port.ctx, offset, room, size)
        return int(status) if status else bytes(room)

    def erase(self, offset: int) -> int:
        return int(self.port.erase_start(self.port.ctx, offset))

    def busy(self) -> int:
        return int(self.port.erase_busy(self.port.ctx))

    def close(self) -> None:
        lib.fleet_posix_flash_close(self.flash)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Flash]]:
    opened: list[Flash] = []

    def open_flash(**options: Any) -> Flash:
        opened.append(Flash(tmp_path / "flash.bin", **options))
        return opened[-1]

    yield open_flash
    for flash in opened:
        flash.close()


def test_new_flash_is_erased_and_mapped(make: Callable[..., Flash], tmp_path: Path) -> None:
    flash = make()
    assert flash.status == lib.FLEET_OK
    assert flash.read(0, SIZE) == b"\xff" * SIZE
    assert int(ffi.cast("uintptr_t", flash.port.mapped)) % 16 == 0
    assert flash.prog(32, b"A" * 16) == lib.FLEET_OK
    assert bytes(ffi.buffer(flash.port.mapped + 32, 16)) == b"A" * 16
    assert (tmp_path / "flash.bin").stat().st_mode & 0o777 == 0o600


def test_contents_survive_the_process(make: Callable[..., Flash]) -> None:
    first = make()
    first.prog(0, bytes(16))
    first.close()
    assert make().read(0, 16) == bytes(16)


def test_kill_9_leaves_whole_operations(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    Flash(path).close()
    child = os.fork()
    if child == 0:
        flash = Flash(path)
        for offset in range(0, BLOCK, UNIT):
            flash.prog(offset, bytes([offset // UNIT % 251]) * UNIT)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    flash = Flash(path)
    assert flash.read(0, BLOCK) == b"".join(bytes([o // UNIT % 251]) * UNIT for o in range(0, BLOCK, UNIT))
    flash.close()


def test_erase_gives_back_a_block_and_no_more(make: Callable[..., Flash]) -> None:
    flash = make()
    for offset in (0, BLOCK, 2 * BLOCK):
        flash.prog(offset, bytes(16))
    assert flash.erase(BLOCK) == lib.FLEET_OK
    assert flash.busy() == 0
    assert [flash.read(o, 16) for o in (0, BLOCK, 2 * BLOCK)] == [bytes(16), b"\xff" * 16, bytes(16)]


def test_programming_again_is_refused_except_the_same_bytes(make: Callable[..., Flash]) -> None:
    flash = make()
    assert flash.prog(0, b"\x0f" * 16) == lib.FLEET_OK
    assert flash.prog(0, b"\x0f" * 16) == lib.FLEET_OK
    assert flash.prog(0, b"\xff" * 16) == lib.FLEET_ERR_STORAGE
    assert flash.prog(0, b"\x00" * 16) == lib.FLEET_ERR_STORAGE
    assert "without erase" in flash.error
    assert flash.flash.violations == 2
    assert flash.read(0, 16) == b"\x0f" * 16


@pytest.mark.parametrize(
    ("offset", "size"), [(8, 16), (0, 15), (SIZE - 16, 32), (SIZE, 16), (0xFFFFFFF0, 16), (0, SIZE + 16)]
)
def test_unaligned_and_outside_programs_are_refused(make: Callable[..., Flash], offset: int, size: int) -> None:
    assert make().prog(offset, bytes(size)) == lib.FLEET_ERR_STORAGE


def test_outside_reads_and_wrong_erases_are_refused(make: Callable[..., Flash]) -> None:
    flash = make()
    assert flash.read(SIZE - 1, 2) == lib.FLEET_ERR_STORAGE
    assert flash.erase(16) == lib.FLEET_ERR_STORAGE
    assert flash.erase(SIZE) == lib.FLEET_ERR_STORAGE


def test_nothing_may_touch_the_chip_while_it_erases(make: Callable[..., Flash]) -> None:
    flash = make(erase_ms=10_000)
    flash.prog(0, bytes(16))
    assert flash.erase(BLOCK) == lib.FLEET_OK
    assert flash.busy() == 1
    assert flash.prog(0, bytes(16)) == lib.FLEET_ERR_STORAGE
    assert flash.erase(0) == lib.FLEET_ERR_STORAGE
    assert flash.read(BLOCK, 1) == lib.FLEET_ERR_STORAGE
    assert flash.read(0, 16) == bytes(16)


def test_an_erase_ends(make: Callable[..., Flash]) -> None:
    flash = make(erase_ms=5)
    flash.erase(0)
    while flash.busy() == 1:
        time.sleep(0.001)
    assert flash.prog(0, bytes(16)) == lib.FLEET_OK


@pytest.mark.parametrize(
    "options",
    [{"unit": 3}, {"unit": 512}, {"unit": 0}, {"block": 0}, {"block": 100}, {"size": SIZE + 1}, {"size": 0}],
)
def test_impossible_geometry_is_refused(make: Callable[..., Flash], options: dict[str, int]) -> None:
    assert make(**options).status == lib.FLEET_ERR_ARGUMENT


def test_another_size_and_a_second_user_are_refused(make: Callable[..., Flash]) -> None:
    first = make()
    second = make()
    assert second.status == lib.FLEET_ERR_STORAGE
    assert "another process" in second.error
    first.close()
    other = make(size=2 * SIZE)
    assert other.status == lib.FLEET_ERR_STORAGE
    assert "another slot size" in other.error


def test_missing_folder_says_where(tmp_path: Path) -> None:
    flash = Flash(tmp_path / "missing" / "flash.bin")
    assert flash.status == lib.FLEET_ERR_STORAGE
    assert "missing" in flash.error


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Limits how far files may be written: what a full disk answers, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_at_the_first_start_leaves_no_half_flash(
    make: Callable[..., Flash], small_disk: Callable[[int], None], tmp_path: Path
) -> None:
    small_disk(BLOCK)
    flash = make()
    assert flash.status == lib.FLEET_ERR_STORAGE
    assert "make flash file" in flash.error
    assert list(tmp_path.iterdir()) == []


def test_full_disk_later_fails_the_operation_only(
    make: Callable[..., Flash], small_disk: Callable[[int], None]
) -> None:
    flash = make()
    small_disk(BLOCK)
    assert flash.prog(BLOCK, bytes(16)) == lib.FLEET_ERR_STORAGE
    assert flash.erase(BLOCK) == lib.FLEET_ERR_STORAGE
    assert flash.prog(0, bytes(16)) == lib.FLEET_OK
    assert flash.read(0, 32) == bytes(16) + b"\xff" * 16
