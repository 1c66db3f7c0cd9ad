"""One `serve` for a data directory: the lock that it holds, and the broker of one that was killed."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tinyfleet_service.errors import StartError
from tinyfleet_service.settings import Settings

BROKER_END_S = 5.0


def take_data_directory(settings: Settings) -> IO[str]:
    """Hold the directory until the file is closed. Raises StartError when another `serve` has it."""
    settings.dirs.create()
    file = settings.dirs.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StartError(
            f"a `serve` (process {owner}) already runs on {settings.dirs.path}",
            next="use that one, stop it, or choose another directory with --data",
            pid=owner,
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


@contextmanager
def standing_still(settings: Settings) -> Iterator[Settings]:
    """For work on a data directory that no `serve` may use meanwhile. Raises StartError when one does."""
    file = take_data_directory(settings)
    try:
        yield settings
    finally:
        file.close()


def end_leftover_broker(settings: Settings) -> None:
    """A `serve` killed with -9 leaves its broker behind, which would keep the port: end it, if it is really ours."""
    try:
        pid = int((settings.dirs.broker / "mosquitto.pid").read_text())
    except (OSError, ValueError):
        return
    until = time.monotonic() + BROKER_END_S
    while _is_our_broker(pid, settings):
        with suppress(ProcessLookupError):  # it may have ended since we looked
            os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        time.sleep(0.1)


def _is_our_broker(pid: int, settings: Settings) -> bool:
    """By its command line, because the number may belong to somebody else by now."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(str(settings.dirs.broker).encode() in part for part in command)
