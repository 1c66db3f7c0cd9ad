"""A stage's panel and look for tests of gates: devices of one class, the first ones canaries, one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyfleet_service.rollouts.gates import GateResult, Look, judge
from tinyfleet_service.rollouts.panel import BEFORE, SUMS, Panel
from tinyfleet_service.rollouts.spec import RolloutSpec

DAY_S = 86400.0


def make_panel(
    canaries: int,
    controls: int,
    *,
    strata: Sequence[str] | None = None,
    before: dict[str, Any] | None = None,
    histograms: dict[str, Any] | None = None,
    **sums: Any,
) -> Panel:
    """`before` and `sums` are counts by device; `histograms` are (buckets, before, gained) by kind; all live."""
    devices = canaries + controls
    yes, no = np.ones((1, devices), dtype=bool), np.zeros((1, devices), dtype=bool)
    nothing = np.zeros(devices, np.int64)
    none = ((), np.zeros((devices, 0), np.int64), np.zeros((devices, 0), np.int64))
    counted = dict.fromkeys(("latency", "predicted", "confidence"), none) | (histograms or {})
    return Panel(
        devices=tuple(f"m4-{number}" for number in range(devices)),
        device_classes=("m4",) * devices,
        strata=tuple(strata) if strata else ("m4",) * devices,
        canary=np.arange(devices) < canaries,
        joiner=no[0],
        silent_at_start=no[0],
        numbers=(1,),
        present=yes,
        silent=sums.get("silent", no),
        lost=sums.get("silent", no),
        failed=no,
        heard=yes,
        at_risk_s=np.full((1, devices), DAY_S),
        before={name: np.asarray((before or {}).get(name, nothing)) for name in BEFORE},
        sums={name: np.asarray(sums.get(name, nothing)).reshape(1, -1) for name in SUMS},
        late=dict.fromkeys(("labelled", "correct"), nothing.reshape(1, -1)),
        pairs=np.asarray(sums.get("pairs", np.zeros((devices, 4), np.int64))).reshape(1, devices, 4),
        counted={
            kind: (buckets, np.asarray(old), np.asarray(new)[None]) for kind, (buckets, old, new) in counted.items()
        },
    )


def judged(panel: Panel, gate: str, stage: str = "canary", **spec: Any) -> GateResult:
    """What one gate says of the devices in common at this look."""
    asked = RolloutSpec(model="model", version="v2", **spec)
    (result,) = judge(
        Look(
            spec=asked,
            stage=stage,
            gates=(gate,),
            shares={},
            number=1,
            seed_text="seed",
            panel=panel,
            earlier={},
            sizes=(),
        )
    )
    return result
