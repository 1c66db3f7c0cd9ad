"""What the gates read of one stage, as arrays: one column per device, one row per look.

`ledger.py` builds it from stored pages. Sums are gained since the device's start; a look where a device has no row
carries its last sums on. First events and exposures are worked out once per panel and read up to the look that is
judged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis import CountEvidence, CountSeries, count_series

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
BEFORE = ("labelled", "correct", "faults", "active_s")
SUMS = ("inferences", "labelled", "correct", "faults", "shadow_inferences", "shadow_agree")


@dataclass(frozen=True)
class Histograms:
    """One histogram of each device: counts `(D, B)` of the `buckets` (ascending) up to its start and gained since."""

    buckets: tuple[int, ...]
    before: Ints
    gained: Ints


@dataclass(frozen=True)
class Panel:
    """Devices `D`, looks `L`.

    `before[name]` `(D,)` is what the image before had counted at the start. `sums[name]` and `late[name]` (of the image
    before, gained after the swap) are `(L, D)`, `pairs` `(L, D, 4)` in wire order, `histograms(kind, look)` those of
    `snapshots.HISTOGRAMS`; `at_risk_s` `(L, D)` seconds since the start. `present`, `silent`, `failed` and `heard`
    (since its start) `(L, D)` are what the rows say, `lost` who was silent for long while others were heard. Of `sums`
    but faults, `late`, `pairs` and histograms gates read the row of the look that is judged alone: a panel made for one
    look may repeat it.
    """

    devices: tuple[str, ...]
    device_classes: tuple[str, ...]
    strata: tuple[str, ...]
    canary: Bools
    joiner: Bools
    silent_at_start: Bools
    numbers: tuple[int, ...]
    present: Bools
    silent: Bools
    lost: Bools
    failed: Bools
    heard: Bools
    at_risk_s: Floats
    before: dict[str, Ints]
    sums: dict[str, Ints]
    late: dict[str, Ints]
    pairs: Ints
    counted: Mapping[str, tuple[tuple[int, ...], Ints, Ints]]
    """Buckets, counts before `(D, B)` and counts gained `(L, D, B)` by kind of histogram."""
    _known: dict[Any, Any] = field(default_factory=dict)

    def row(self, number: int) -> int:
        """Index of the newest look up to `number`; -1 before the first."""
        return bisect_right(self.numbers, number) - 1

    def histograms(self, kind: str, number: int) -> Histograms:
        """What every device counted of a kind of histogram, as read at look `number`."""
        buckets, before, gained = self.counted[kind]
        return Histograms(buckets, before, gained[self.row(number)])

    def of_class(self, device_class: str | None) -> Bools:
        """Mask of the devices of one class; of all for None."""
        key = ("class", device_class)
        if key not in self._known:
            every = device_class is None
            self._known[key] = np.array([every or name == device_class for name in self.device_classes], dtype=bool)
        mask: Bools = self._known[key]
        return mask

    @cached_property
    def canary_classes(self) -> list[str]:
        """Device classes with a canary, sorted."""
        return sorted({self.device_classes[i] for i in np.flatnonzero(self.canary)})

    def seen(self, number: int) -> Bools:
        """Devices with a row at this look or before."""
        if "seen" not in self._known:
            self._known["seen"] = np.logical_or.accumulate(self.present, axis=0)
        row = self.row(number)
        nobody = np.zeros(len(self.canary), dtype=bool)
        mask: Bools = self._known["seen"][row] if row >= 0 else nobody
        return mask

    def alive(self, number: int) -> Bools:
        """Devices with a row at this very look that are neither silent nor threw the candidate out."""
        row = self.row(number)
        if row < 0 or self.numbers[row] != number:
            return np.zeros(len(self.canary), dtype=bool)
        mask: Bools = self.present[row] & ~self.silent[row] & ~self.failed[row]
        return mask

    @cached_property
    def _awake(self) -> Bools:
        """Who was not silent at its start, or has been heard since, `(L, D)`."""
        awake: Bools = ~self.silent_at_start | np.logical_or.accumulate(self.heard, axis=0)
        return awake

    def awake(self, number: int) -> Bools:
        """Devices that can fall silent: those that were not silent from their start up to this look."""
        mask: Bools = self._awake[self.row(number)]
        return mask

    def evidence(self, number: int, event: str, device_class: str | None = None) -> CountEvidence:
        """First events and exposure of both arms up to look `number`, one device once.

        `event` is "fault" (first fault or rejection) or "silence". A control that was silent at its start is at risk
        once it has been heard since, as a canary had to be to take the candidate up.
        """
        key = ("evidence", event, device_class)
        if key not in self._known:
            table = self._intervals(self._events(event), self.of_class(device_class))
            self._known[key] = count_series(table)
        series: CountSeries = self._known[key]
        return series.upto(self.row(number))

    def _events(self, event: str) -> Bools:
        happened: Bools = self.silent if event == "silence" else self.failed | (self.sums["faults"] > 0)
        return happened & self.present

    def _intervals(self, happened: Bools, mask: Bools) -> Floats:
        """First events and exposure of both arms `(L, strata, 4)`."""
        looks = len(self.numbers)
        rows = np.arange(looks)[:, None]
        awake = self._awake
        first = np.where((happened & awake).any(axis=0), (happened & awake).argmax(axis=0), looks)
        at_risk = mask & awake & self.present & (rows <= first)
        time_s = np.where(self.present, self.at_risk_s, 0.0)
        gained_s = np.clip(np.diff(time_s, axis=0, prepend=0.0), 0.0, None) * at_risk
        events = at_risk & (rows == first)
        order, begins = self._by_stratum(mask)
        if not len(order):
            return np.zeros((looks, 0, 4))
        columns = [counted * arm for counted in (events, gained_s) for arm in (self.canary, ~self.canary)]
        return np.stack([np.add.reduceat(c[:, order].astype(np.float64), begins, axis=1) for c in columns], axis=2)

    def _by_stratum(self, mask: Bools) -> tuple[Ints, Ints]:
        """Places of the devices in `mask` in order of their strata, and where each stratum begins.

        A stratum without a control, of a single device perhaps, is judged with the one that has the most.
        """
        chosen = np.flatnonzero(mask)
        _, which = np.unique([self.strata[at] for at in chosen], return_inverse=True)
        controls = np.bincount(which, weights=~self.canary[chosen], minlength=1)
        which = np.where(controls[which] > 0, which, controls.argmax())
        order = np.argsort(which, kind="stable")
        begins = np.flatnonzero(np.diff(which[order], prepend=-1))
        return chosen[order], begins
