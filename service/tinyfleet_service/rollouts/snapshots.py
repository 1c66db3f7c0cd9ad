"""Counters of analysed devices frozen at their start and at each look, so that every decision can be recomputed.

A device has one *start* in a stage: a canary when it is first seen shadowing or active, a control when its matched
canary is (controls of a stratum are matched to its canaries in turn, by rank). What is frozen are cumulative counters
as they were reported (`frozen.py`); differences are taken when reading (`ledger.py`), and a counter that fell (a device
that lost them) counts as started anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

CANARY, CONTROL = "canary", "control"
CONTROLS_PER_CANARY = 20
CONTROLS_MIN = 50


class Kind(StrEnum):
    """When a row was taken."""

    ACTIVATION = "activation"
    LOOK = "look"
    LATE = "late"  # of the image before, at a look
    TAKEN = "taken"  # no counters: a canary that has taken its assignment up and not begun, at a look


@dataclass(frozen=True)
class Subject:
    """A device under analysis in one stage: who it is, and the images that stand for before and after."""

    device_id: str
    device_class: str
    stratum: str
    arm: str
    joiner: bool
    before_image: str | None
    after_image: str


SUMMED = ("inferences", "labelled", "correct", "faults", "active_s", "shadow_inferences", "shadow_agree")
PAIRS = ("both_right", "active_right", "candidate_right", "both_wrong")
"""The 2 x 2 table of labelled shadow pairs, in wire order."""
HISTOGRAMS = {"latency": "latency_histogram", "predicted": "predictions", "confidence": "confidence_histogram"}
"""Of which a page has a column `<name>:<bucket>` for each bucket that is not empty, and the counters they come from."""


@dataclass(frozen=True)
class Standing:
    """What `matched_starts` needs to know of a device in this stage."""

    device_id: str
    stratum: str
    rank: int
    arm: str
    started_at: datetime | None


def most_controls(canaries: int) -> int:
    """Controls that are matched with so many canaries of a stratum."""
    return max(CONTROLS_MIN, CONTROLS_PER_CANARY * canaries)


def matched_starts(standings: Sequence[Standing]) -> dict[str, datetime]:
    """When each device's comparison starts: canaries once they run the candidate, controls with their match."""
    starts: dict[str, datetime] = {}
    strata: dict[str, tuple[list[Standing], list[Standing]]] = {}
    for standing in sorted(standings, key=lambda s: (s.rank, s.device_id)):
        strata.setdefault(standing.stratum, ([], []))[standing.arm == CONTROL].append(standing)
    for canaries, controls in strata.values():
        starts.update({c.device_id: c.started_at for c in canaries if c.started_at})
        begun = [c for c in canaries if c.started_at]
        for index, control in enumerate(controls[: most_controls(len(canaries))] if begun else []):
            matched = canaries[index % len(canaries)]
            if matched.started_at:
                starts[control.device_id] = matched.started_at
    return starts
