"""What every gate shares: the look it reads and the result it gives."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tinyfleet_service.database.keep_lease import keep_nothing
from tinyfleet_service.rollouts.panel import Bools, Ints, Panel
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.state_machine import Outcome, Verdict, is_share
from tinyfleet_service.words import quantity

RULES = 1
"""Number of the rules by which gates judge, kept with each decision. One more with every change by which counters that
are stored already say otherwise; decisions by other rules are not recomputed."""
PAID_LOOK_GROWTH = 1.5
NAMED = 3
"""So many devices that a gate waits for are named."""
GateKey = tuple[str, str]  # gate, scope


@dataclass(frozen=True)
class GateResult:
    """One gate, one scope, one look."""

    gate: str
    scope: str
    required: bool
    outcome: Outcome
    summary: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """As the state machine reads it."""
        return Verdict(self.gate, self.scope, self.required, self.outcome, self.summary)


@dataclass(frozen=True)
class Look:
    """Everything one look may read.

    `shares` is alpha by `gate|stage|scope`, `earlier` the last look's numbers, `sizes` the drawn devices and controls
    per stratum, heard from or not; `taken`, `taken_silent` and `taken_lost` count the stage's devices that have taken
    their assignment up and not begun with the candidate; `keep` keeps the tick's lease between parts of what takes
    seconds.
    """

    spec: RolloutSpec
    stage: str
    gates: tuple[str, ...]
    shares: Mapping[str, float]
    number: int
    seed_text: str
    panel: Panel
    earlier: Mapping[GateKey, Mapping[str, Any]]
    sizes: tuple[tuple[int, int], ...]
    taken: int = 0
    taken_silent: int = 0
    taken_lost: int = 0
    keep: Callable[[], None] = keep_nothing

    def alpha(self, gate: str, scope: str) -> float:
        """Level of harm for this gate here; advisory gates, which act on nothing, are shown at the whole level."""
        return self.shares.get(f"{gate}|{self.stage}|{scope}", self.spec.alpha)

    @cached_property
    def seed(self) -> int:
        """Seed of sampled draws: the same for all looks of a stage, so that they compare the same draws."""
        return zlib.crc32(f"{self.seed_text}/{self.stage}".encode())

    def arm(self, *, canary: bool, device_class: str | None = None) -> Bools:
        """Mask of the devices of one arm that have been seen at this look or before."""
        side = self.panel.canary if canary else ~self.panel.canary
        return side & self.panel.of_class(device_class) & self.panel.seen(self.number)

    @property
    def row(self) -> int:
        """Index of this look in the panel."""
        return self.panel.row(self.number)

    @property
    def classes(self) -> list[str]:
        """Device classes with a canary in this stage."""
        return self.panel.canary_classes

    def reached(self, devices: Bools, counts: Ints) -> int:
        """How much as many of these devices as `coverage` asks for have counted, each at least; 0 of none.

        One device that is idle must not hold a gate of hundreds. `counts` of all devices of the panel.
        """
        descending = np.sort(counts[devices])[::-1]
        return int(descending[self._needed(len(descending)) - 1]) if len(descending) else 0

    def few_of(self, devices: Bools, counts: Ints, wanted: int, what: str) -> str:
        """Which devices have not counted as much as is `wanted` of each, and how many need not."""
        many, few = int(devices.sum()), np.flatnonzero(devices & (counts < wanted))
        if not many:
            return "no device is left to judge by"
        may = many - self._needed(many)
        text = (
            f"{len(few)} of {quantity(many, 'device')} {'has' if len(few) == 1 else 'have'} fewer than {wanted} {what}"
        )
        names = ", ".join(self.panel.devices[at] for at in few[:NAMED]) + (", ..." if len(few) > NAMED else "")
        return text + (f", {may} may" if may else "") + (f": {names}" if names else "")

    def _needed(self, devices: int) -> int:
        return next(n for n in range(1, devices + 1) if is_share(n, devices, self.spec.coverage))

    def result(self, gate: str, scope: str, outcome: Outcome, summary: str, numbers: dict[str, Any]) -> GateResult:
        """A result of this look; a required gate's counts, an advisory one's is shown."""
        numbers = numbers | {"outcome": str(outcome), "rules": RULES}
        return GateResult(gate, scope, self.spec.decides(gate), outcome, summary, numbers)


def points(value: float | None) -> str:
    """A difference of accuracies in percentage points."""
    return "?" if value is None else f"{100 * value:+.1f}"
