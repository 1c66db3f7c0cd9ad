"""A short memory of accuracy and latency by version, so that the page can draw lines; lost with the process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEEP = 600
WINDOW_S = 15.0


@dataclass
class Samples:
    """Ring of overview samples; accuracy is over the last `WINDOW_S` seconds, not since the beginning."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=KEEP))
    rows: deque[dict[str, tuple[int, int, float | None]]] = field(default_factory=lambda: deque(maxlen=KEEP))

    def add(self, versions: list[Mapping[str, Any]], now_s: float | None = None) -> None:
        """Remember labelled, correct and p50 latency (us) of each version; at most once a second."""
        now_s = time.time() if now_s is None else now_s
        if self.times and now_s - self.times[-1] < 1.0:
            return
        self.times.append(now_s)
        self.rows.append({v["version"]: (v["labelled"], v["correct"], v["latency_p50_us"]) for v in versions})

    def series(self) -> dict[str, Any]:
        """Columns for uPlot: `times` (s), and per version `accuracy` (%, None where unknown) and `latency` (us)."""
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
