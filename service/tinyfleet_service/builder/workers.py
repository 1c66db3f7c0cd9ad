"""Where builds are compiled: processes of this machine by default, Dask workers by one setting."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from tinyfleet_service.builds import CompileJob, CompileOutcome, compile_job
from tinyfleet_service.settings import Settings


class Workers(Protocol):
    """Runs compile jobs elsewhere."""

    lost: tuple[type[BaseException], ...]
    """What a future raises when its worker died or its cluster went away: nobody knows the outcome."""

    def connect(self) -> None:
        """Be ready for jobs. Raises UnavailableError."""

    def submit(self, job: CompileJob) -> Future[CompileOutcome]:
        """Start a job."""

    def drop(self) -> None:
        """Forget every job; the next `connect` starts anew."""

    def close(self) -> None:
        """Stop at once, without waiting for jobs."""


def open_workers(settings: Settings) -> Workers:
    """The workers that the settings name. Raises SettingsError."""
    if not settings.dask:
        return PoolWorkers(settings.builder_workers)
    from tinyfleet_service.builder.dask_workers import DaskWorkers

    return DaskWorkers(settings.dask)


class PoolWorkers:
    """A process pool on this machine."""

    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def connect(self) -> None:
        """Make the pool; its processes start with the first jobs."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=spawn, initializer=_die_with_parent)

    def submit(self, job: CompileJob) -> Future[CompileOutcome]:
        """Start a job."""
        assert self._pool is not None
        return self._pool.submit(compile_job, job)

    def drop(self) -> None:
        """Leave the pool, which a dead worker broke."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def processes(self) -> list[multiprocessing.process.BaseProcess]:
        """The processes that run now."""
        return list((self._pool._processes or {}).values()) if self._pool is not None else []

    def close(self) -> None:
        """End the processes."""
        for process in self.processes():
            process.terminate()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _die_with_parent() -> None:
    """Pool workers must not outlive a builder that was killed: they would hold its memory for ever."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
