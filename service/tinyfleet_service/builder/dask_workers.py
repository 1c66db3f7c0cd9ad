"""Builds on the workers of a Dask cluster, chosen by `TINYFLEET_DASK=tcp://SCHEDULER:8786`.

They run the same tinyfleet, which is checked: with one that has another compiler nothing is sent. They read blobs
where the builder does: in a bucket, or in a data directory that all of them mount under one path. Whoever reaches a
scheduler can run code on its workers: keep it in a private network, or use `tls://` with certificates in Dask's own
configuration.
"""

from __future__ import annotations

import uuid
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tinyfleet_service.builds import CompileJob, CompileOutcome, compile_job
from tinyfleet_service.builds.compiler_version import compiler_version
from tinyfleet_service.errors import SettingsError, UnavailableError

CONNECT_S = 10


class DaskWorkers:
    """A Dask cluster. A worker that dies is Dask's matter first: it runs the job on another, three times."""

    def __init__(self, address: str) -> None:
        try:
            killed_worker = import_module("distributed.scheduler").KilledWorker
        except ImportError as error:
            raise SettingsError("builds on Dask need distributed", next="pip install 'tinyfleet[dask]'") from error
        self.lost: tuple[type[BaseException], ...] = (killed_worker, CancelledError, UnavailableError)
        self._address = address
        self._topic = f"tinyfleet-{uuid.uuid4().hex}"
        self._said: deque[tuple[int, str]] = deque()
        self._client: Any = None  # distributed.Client, which has no types
        self._checked: set[str] = set()

    def connect(self) -> None:
        """Connect to the scheduler. Raises UnavailableError when it does not answer, has no worker or a wrong one."""
        if self._client is None or self._client.status != "running":
            self._client = self._open()
        if not self._client.nthreads():
            raise UnavailableError(
                f"the Dask cluster at {self._address} has no worker", next=f"start one: dask worker {self._address}"
            )
        self._check_workers()

    def _check_workers(self) -> None:
        """Ask workers that came since the last time which compiler they have."""
        new = sorted(set(self._client.nthreads()) - self._checked)
        found = self._client.run(compiler_version, workers=new, on_error="return") if new else {}
        wrong = {worker: said for worker, said in found.items() if said != compiler_version()}
        self._checked.update(found.keys() - wrong.keys())
        if wrong:
            worker, said = min(wrong.items())
            has = said if isinstance(said, str) else f"cannot tell its compiler ({type(said).__name__})"
            raise _other_compiler(f"{len(wrong)} of {len(found)} Dask workers; {worker}", has, compiler_version())

    def _open(self) -> Any:
        try:
            client = import_module("distributed").Client(self._address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UnavailableError(
                f"no Dask scheduler answers at {self._address}: {error}", next="check TINYFLEET_DASK and the scheduler"
            ) from error
        client.subscribe_topic(self._topic, lambda event: self._said.append(event[1]))
        return client

    def submit(self, job: CompileJob) -> Future[CompileOutcome]:
        """Start a job on the least busy worker."""
        future: Future[CompileOutcome] = self._client.get_executor(pure=False).submit(
            compile_there, compiler_version(), job, DaskNote(self._topic, job.build_id)
        )
        return future

    def notes(self) -> list[tuple[int, str]]:
        """What came through the scheduler."""
        return [self._said.popleft() for _ in range(len(self._said))]

    def drop(self) -> None:
        """Leave the cluster; what still runs there is cancelled."""
        if self._client is not None:
            self._client.close(timeout=CONNECT_S)
            self._client = None

    def close(self) -> None:
        """Leave the cluster."""
        self.drop()


def compile_there(expected: str, job: CompileJob, note: DaskNote) -> CompileOutcome:
    """`compile_job` on a worker that may have come after the last check. Raises UnavailableError."""
    if compiler_version() != expected:
        raise _other_compiler("the Dask worker", compiler_version(), expected)
    return compile_job(job, note)


def _other_compiler(who: str, has: str, expected: str) -> UnavailableError:
    return UnavailableError(
        f"{who}: compiler {has}, this service has {expected}", next="install the same tinyfleet there, or stop them"
    )


@dataclass(frozen=True)
class DaskNote:
    """Sends each line through the scheduler, as an event."""

    topic: str
    build_id: int

    def __call__(self, text: str) -> None:
        """One line."""
        import_module("distributed").get_worker().log_event(self.topic, (self.build_id, text))
