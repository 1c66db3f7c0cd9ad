"""A short memory of accuracy and latency by version, so that the page can draw lines; lost with the process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from sqlmodel import select

from tinyfleet_service import rollouts
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Project
from tinyfleet_service.errors import FleetError
from tinyfleet_service.telemetry import TelemetryStore

KEEP = 600
SAMPLE_S = 2.0
WINDOW_S = 15.0


@dataclass
class Samples:
    """Ring of overview samples; accuracy is over the last `WINDOW_S` seconds, not since the beginning.

    One thread adds while others read.
    """

    times: deque[float] = field(default_factory=lambda: deque(maxlen=KEEP))
    rows: deque[dict[str, tuple[int, int, float | None]]] = field(default_factory=lambda: deque(maxlen=KEEP))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, versions: list[Mapping[str, Any]], now_s: float | None = None) -> None:
        """Remember labelled, correct and p50 latency (us) of each version."""
        row = {v["version"]: (v["labelled"], v["correct"], v["latency_p50_us"]) for v in versions}
        with self._lock:
            self.times.append(time.time() if now_s is None else now_s)
            self.rows.append(row)

    def series(self) -> dict[str, Any]:
        """Columns for uPlot: `times` (s), and per version `accuracy` (%, None where unknown) and `latency` (us)."""
        with self._lock:
            return self._series()

    def _series(self) -> dict[str, Any]:
        names = sorted({name for row in self.rows for name in row})
        return {
            "times": [round(t, 1) for t in self.times],
            "accuracy": {name: [self._accuracy(i, name) for i in range(len(self.rows))] for name in names},
            "latency": {name: [row[name][2] if name in row else None for row in self.rows] for name in names},
        }

    def _accuracy(self, index: int, name: str) -> float | None:
        start = index
        while start > 0 and self.times[index] - self.times[start - 1] <= WINDOW_S:
            start -= 1
        labelled, correct, _ = self.rows[index].get(name, (0, 0, None))
        labelled_before, correct_before, _ = self.rows[start].get(name, (0, 0, None))
        answered = labelled - labelled_before
        return round(100.0 * (correct - correct_before) / answered, 2) if answered > 0 else None


class Histories:
    """Samples of every project, taken by a thread of the API process from its start on, page open or not."""

    def __init__(self, engine: Engine, telemetry: TelemetryStore) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._samples: dict[int, Samples] = {}

    def of(self, project_id: int) -> Samples:
        """The samples of one project."""
        return self._samples.setdefault(project_id, Samples())

    def sample(self) -> None:
        """Take one sample of every project."""
        with session_scope(self._engine, read_only=True) as session:
            for project_id in session.exec(select(Project.id)).all():
                if project_id is not None:
                    overview = rollouts.fleet_overview(session, self._telemetry, project_id)
                    self.of(project_id).add(overview["versions"])

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Sample while the application runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), daemon=True, name="dashboard-samples")
        thread.start()
        try:
            yield
        finally:
            stop.set()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_S):
            try:
                self.sample()
            except FleetError:
                continue  # the database does not answer: the chart has a gap, the page says the rest
