"""Builder: lease, compile in a worker, store, sign. Any number of builders may run; kill -9 loses nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from concurrent.futures import Future

from sqlalchemy import Engine

from tinyfleet_ota import Signer
from tinyfleet_service.builder.blobs_ahead import BlobsAhead
from tinyfleet_service.builder.workers import open_workers
from tinyfleet_service.builds import (
    CompileOutcome,
    finish_build,
    give_back,
    lease_build,
    load_release_signer,
    renew_builds,
    sign_waiting,
    store_notes,
    waiting_builds,
    withdraw_revoked,
)
from tinyfleet_service.builds.compile_jobs import make_job
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.errors import FleetError, SettingsError, UnavailableError
from tinyfleet_service.keys import key_folder
from tinyfleet_service.observe import metrics
from tinyfleet_service.observe.traces import span
from tinyfleet_service.publish import BackOff
from tinyfleet_service.settings import Settings

_log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Build until `stop` is set; then give unfinished builds back."""
    builder = Builder(settings, make_engine(settings))
    try:
        while not stop.is_set():
            busy = builder.guarded_step()
            stop.wait(0.05 if busy else settings.poll_s)
    finally:
        builder.close()


class Builder:
    """State of one builder: its name, its workers, the futures under way."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.store = open_blobs(settings)
        self.owner = f"builder-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.running: dict[int, Future[CompileOutcome]] = {}
        self.workers = open_workers(settings)
        self.blobs = BlobsAhead(engine, self.store)
        self._renewed = time.monotonic()
        self._roots = 0
        self._back_off = BackOff()

    def guarded_step(self) -> bool:
        """`step`, surviving a database or disk that is away for a while."""
        try:
            return self.step()
        except UnavailableError as error:
            _log.warning("waiting: %s", error)
        except FleetError as error:
            _log.error("%s", error)
        return False

    def step(self) -> bool:
        """Renew, collect, sign, take new builds, make blobs ahead; True when a build is under way."""
        self._renew()
        self._collect()
        self._follow_roots()
        if waiting_builds(self.engine) and (signer := self._signer()):
            sign_waiting(self.engine, self.store, signer, self._back_off)
        while len(self.running) < self.settings.builder_workers and self._take():
            pass
        self.blobs.step()
        metrics.BUILDS_RUNNING.set(len(self.running))
        return bool(self.running)

    def _signer(self) -> Signer | None:
        """The release key at hand; one that cannot be used is away, and builds wait for it."""
        try:
            return load_release_signer(self.settings)
        except SettingsError as error:
            _log.error("%s", error)
            return None

    def _follow_roots(self) -> None:
        """Builds that a revoked release key signed wait for a signature again."""
        folder = key_folder(self.settings)
        if (count := folder.count_roots()) != self._roots:
            withdrawn = withdraw_revoked(self.engine, folder.newest())
            if withdrawn:
                _log.warning("a release key is gone: builds to sign again", extra={"builds": withdrawn})
            self._roots = count

    def _renew(self) -> None:
        if not self.running or time.monotonic() - self._renewed < self.settings.build_lease_s / 3:
            return
        kept = renew_builds(self.engine, self.owner, list(self.running), self.settings)
        for lost in self.running.keys() - kept:
            _log.warning("build was taken over by another builder", extra={"build": lost})
            self.running.pop(lost).cancel()
        self._renewed = time.monotonic()

    def _collect(self) -> None:
        done = {build_id: future for build_id, future in self.running.items() if future.done()}
        store_notes(self.engine, self.owner, self.workers.notes())
        for build_id, future in done.items():
            try:
                outcome = future.result()
            except self.workers.lost:
                self._forget_all()
                return
            signer = self._signer() if outcome.image else None
            kept = finish_build(self.engine, self.store, self.owner, build_id, outcome, signer)
            del self.running[build_id]
            metrics.BUILDS.labels(outcome.state if kept else "dropped").inc()
            _log.info("build %s", outcome.state if kept else "dropped", extra={"build": build_id})

    def _take(self) -> bool:
        self.workers.connect()
        build = lease_build(self.engine, self.owner, self.settings)
        if build is None or build.id is None:
            return False
        job = make_job(self.engine, self.store, build)
        try:
            with span("start build", build=build.id, device_class=build.device_class):
                self.running[build.id] = self.workers.submit(job)
        except self.workers.lost:  # a worker died that had nothing to do: no build is to blame
            give_back(self.engine, self.owner, [build.id], counts=False)
            self.workers.drop()
            return False
        _log.info("build started", extra={"build": build.id, "device_class": build.device_class})
        return True

    def _forget_all(self) -> None:
        """A worker died, out of memory perhaps: nobody knows on which build, so each counts an attempt."""
        _log.error("a compile worker died; its builds are queued again")
        give_back(self.engine, self.owner, list(self.running), counts=True)
        self.running.clear()
        self.workers.drop()

    def close(self) -> None:
        """Stop the workers and queue unfinished builds again."""
        self.workers.close()
        self.blobs.close()
        give_back(self.engine, self.owner, list(self.running), counts=False)
        self.engine.dispose()
