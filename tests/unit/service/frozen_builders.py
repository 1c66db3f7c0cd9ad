"""Counters of devices one by one, as plain dictionaries, and the columns that they are frozen as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyfleet_service.rollouts.frozen import Columns
from tinyfleet_service.rollouts.snapshots import HISTOGRAMS, PAIRS, SUMMED


def nothing() -> dict[str, Any]:
    """A device that counted nothing."""
    return {**dict.fromkeys(SUMMED, 0), "shadow_pairs": [0, 0, 0, 0], **{kind: {} for kind in HISTOGRAMS}}


def columns_of(rows: Sequence[dict[str, Any]]) -> Columns:
    """A column for each counter and for each bucket that some row has."""
    columns = {name: np.array([row[name] for row in rows], np.int64) for name in SUMMED}
    columns |= {name: np.array([row["shadow_pairs"][n] for row in rows], np.int64) for n, name in enumerate(PAIRS)}
    for kind in HISTOGRAMS:
        for bucket in sorted({bucket for row in rows for bucket in row[kind]}, key=int):
            columns[f"{kind}:{bucket}"] = np.array([row[kind].get(bucket, 0) for row in rows], np.int64)
    return columns
