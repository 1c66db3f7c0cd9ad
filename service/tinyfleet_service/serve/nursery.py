"""Where the processes of `serve` come from: forks of one process that has imported everything, and nothing else.

Each begins at once instead of after seconds of imports, and they share what each would hold alone. The process that is
forked opens no database, reads no key and has no second thread, so that a fork begins with nothing of another's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from tinyfleet_service.errors import FleetError, StartError
from tinyfleet_service.observe.logs import configure_logging
from tinyfleet_service.settings import Settings

OURS = "tinyfleet_service."


class Nursery:
    """`prepare` and `start` in forks; the process that they are forks of begins with this."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._context = multiprocessing.get_context("forkserver")
        ours = [name for name in sys.modules if name.startswith(OURS)]  # what began this process, a fork looks at too
        self._context.set_forkserver_preload([*ours, f"{OURS}serve.preload"])
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for the supervisor alone
        ensure_running()
        signal.signal(signal.SIGINT, handler)

    def prepare(self) -> None:
        """Have the data directory made ready. Raises FleetError subclasses."""
        log = partial(configure_logging, "serve", self.settings.dirs.log / "serve.log")
        with ProcessPoolExecutor(1, mp_context=self._context, initializer=log) as pool:
            try:
                pool.submit(_prepare, self.settings).result()
            except BrokenProcessPool as error:
                raise StartError(
                    f"the process that prepares {self.settings.dirs.path} was killed", next="is there memory enough?"
                ) from error

    def start(self, name: str) -> Fork:
        """Start a process by its name."""
        process = self._context.Process(target=_run, args=(name, self.settings), name=name)
        process.start()
        return Fork(process)


class Fork:
    """A process of the nursery with the words of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process

    @property
    def returncode(self) -> int | None:
        """None while it runs; 255 where nobody saw how it ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`."""
        return self._process.exitcode

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode


def _prepare(settings: Settings) -> None:
    from tinyfleet_service.serve.first_start import prepare  # migrates and signs, which the supervisor does not

    prepare(settings)


def _run(name: str, settings: Settings) -> None:
    """A session of its own, so that Ctrl-C reaches the supervisor alone, which stops in order."""
    from tinyfleet_service.serve.processes import run_process

    os.setsid()
    log = settings.dirs.log / f"{name}.log"
    _write_to(log)
    _entitle(f"tinyfleet {name}")
    try:
        run_process(name, settings, log=log)
    except FleetError as error:
        sys.exit(f"error: {error}")


def _write_to(log: Path) -> None:
    """What is printed, a traceback for one, stands in the log as well."""
    with log.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)


def _entitle(title: str) -> None:
    """The name in `ps` and `top`, which would show all forks alike."""
    os.environ["SPT_NOENV"] = "1"  # the place of the environment, which says whose process this is, is left alone
    from setproctitle import setproctitle

    setproctitle(title)
