"""One supervised process: started, watched, restarted with growing pauses when it dies."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tinyfleet_service.errors import FleetError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 60.0
_log = logging.getLogger(__name__)


class Process(Protocol):
    """What is known of a process, in the words of `subprocess.Popen`."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """None while it runs, as far as anybody looked."""

    def poll(self) -> int | None:
        """Look whether it still runs."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""


@dataclass
class Child:
    """`start` makes the process and may raise FleetError; after a healthy minute the pauses begin short again."""

    name: str
    start: Callable[[], Process]
    process: Process | None = None
    restarts: int = 0
    _pause_s: float = FIRST_PAUSE_S
    _started: float = field(default_factory=time.monotonic)
    _due: float = 0.0

    def launch(self) -> None:
        """Start now. Raises FleetError."""
        self._started = time.monotonic()
        self.process = self.start()
        _log.info("%s started", self.name, extra={"child": self.name, "pid": self.process.pid})

    def watch(self) -> bool:
        """Restart when it has died and its pause is over; True when it was started again."""
        if self.process is not None and self.process.poll() is None:
            return False
        now = time.monotonic()
        if self.process is not None:
            self._note_death(now)
        if now < self._due:
            return False
        self.restarts += 1
        try:
            self.launch()
        except (FleetError, OSError) as error:  # a full disk or too many processes may pass
            _log.error("%s does not start: %s", self.name, error, extra={"child": self.name})
            self._wait(now)
            return False
        return True

    def _note_death(self, now: float) -> None:
        assert self.process is not None
        if now - self._started > HEALTHY_S:
            self._pause_s = FIRST_PAUSE_S
        message = "%s ended with code %s; it starts again in %.1f s, see log/%s.log"
        _log.error(message, self.name, self.process.returncode, self._pause_s, self.name, extra={"child": self.name})
        self.process = None
        self._wait(now)

    def _wait(self, now: float) -> None:
        self._due = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def end_all(processes: Sequence[Process], timeout_s: float) -> None:
    """Ask all to end at once; kill those that have not within `timeout_s`."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
