"""Where builds are compiled: processes of this machine by default, Dask workers by one setting."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

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

    def notes(self) -> list[tuple[int, str]]:
        """What jobs said since the last call: (build id, text), in order for each build."""

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
        self._folder = tempfile.TemporaryDirectory(prefix="tinyfleet-notes-")
        self._said: list[tuple[Future[CompileOutcome], int, IO[str]]] = []

    def connect(self) -> None:
        """Make the pool; its processes start with the first jobs."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=spawn, initializer=_die_with_parent)

    def submit(self, job: CompileJob) -> Future[CompileOutcome]:
        """Start a job."""
        assert self._pool is not None
        path = Path(self._folder.name) / str(job.build_id)
        path.write_text("")
        future = self._pool.submit(compile_job, job, FileNote(path))
        self._said.append((future, job.build_id, path.open()))
        return future

    def notes(self) -> list[tuple[int, str]]:
        """Read on in the files that jobs write to: unlike a queue, no worker that is killed can block them."""
        ended = [entry for entry in self._said if entry[0].done()]
        lines = [(build_id, line) for _, build_id, file in self._said for line in _whole_lines(file)]
        self._forget(ended)
        return lines

    def _forget(self, entries: list[tuple[Future[CompileOutcome], int, IO[str]]]) -> None:
        for _, _, file in entries:
            file.close()
        self._said = [entry for entry in self._said if entry not in entries]

    def drop(self) -> None:
        """Leave the pool, which a dead worker broke."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        self._forget(self._said)

    def processes(self) -> list[multiprocessing.process.BaseProcess]:
        """The processes that run now."""
        return list((self._pool._processes or {}).values()) if self._pool is not None else []

    def close(self) -> None:
        """End the processes."""
        for process in self.processes():
            process.terminate()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self.drop()
        self._folder.cleanup()


@dataclass(frozen=True)
class FileNote:
    """Appends each line to a file, in one write."""

    path: Path

    def __call__(self, text: str) -> None:
        """One line."""
        with self.path.open("a") as file:
            file.write(" ".join(text.split()) + "\n")


def _whole_lines(file: IO[str]) -> Iterator[str]:
    while True:
        start = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(start)
            return
        yield line.rstrip("\n")


def _die_with_parent() -> None:
    """Pool workers must not outlive a builder that was killed: they would hold its memory for ever."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
