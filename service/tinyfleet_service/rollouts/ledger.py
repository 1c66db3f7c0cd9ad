"""Everything that is stored of one stage, added up look by look: what the gates of the newest look read.

A device's counters are cumulative and may begin anew, when it lost them; what it gained is added up between looks. So
a stage is read once, in order, and what is kept is one row a device, and a few flags a device and look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyfleet_service.rollouts.frozen import Columns
from tinyfleet_service.rollouts.observe import RETURN_S
from tinyfleet_service.rollouts.panel import BEFORE, SUMS, Bools, Ints, Panel
from tinyfleet_service.rollouts.snapshots import CANARY, HISTOGRAMS, PAIRS, SUMMED, Kind, Subject

COUNTED = (*SUMMED, *PAIRS)
FLAGS = ("silent", "failed", "heard")


@dataclass(frozen=True)
class StoredPage:
    """Counters of one image on devices of one arm, frozen at one moment; `look` 0 for starts."""

    arm: str
    kind: str
    look: int
    image_id: str
    devices: tuple[str, ...]
    columns: Columns


@dataclass
class _Sums:
    """Cumulative counters `(D, C)`: `COUNTED`, then buckets of histograms in the order in which they came up."""

    rows: Ints

    @classmethod
    def zeros(cls, devices: int) -> _Sums:
        return cls(np.zeros((devices, len(COUNTED)), np.int64))

    def wide(self, width: int) -> Ints:
        """As many columns as are known by now, the new ones zero."""
        if width > self.rows.shape[1]:
            self.rows = np.pad(self.rows, ((0, 0), (0, width - self.rows.shape[1])))
        return self.rows


@dataclass
class _LookRow:
    """What the devices of one look were like, `(D,)` each."""

    present: Bools
    flags: dict[str, Bools]
    at_risk_s: Any
    faults: Ints
    number: int


@dataclass
class Ledger:
    """The devices that have a start in the stage, sorted. `starts` are its pages of look 0, `subjects` say which images
    stand for before and after on each device.
    """

    subjects: Mapping[str, Subject]
    starts: Sequence[StoredPage]
    _buckets: list[tuple[str, int]] = field(default_factory=list)
    _looks: list[_LookRow] = field(default_factory=list)
    _gone: dict[str, int] = field(default_factory=dict)
    """Who is gone, and for how many seconds it was at the first look that found it so."""

    def __post_init__(self) -> None:
        names = {d for page in self.starts for d in page.devices if d in self.subjects}
        self._who = [self.subjects[name] for name in sorted(names)]
        self._at = {subject.device_id: at for at, subject in enumerate(self._who)}
        count = len(self._who)
        self._before, self._last, self._gained, self._late = (_Sums.zeros(count) for _ in range(4))
        self._has_late, self._started = np.zeros(count, bool), np.zeros(count, bool)
        self._silent_at_start, self._canary = np.zeros(count, bool), np.zeros(count, bool)
        self.lost: frozenset[str] = frozenset()
        for page in self.starts:
            self._add_start(page)

    def add_look(self, number: int, pages: Iterable[StoredPage]) -> None:
        """The pages of the next look, which may be none."""
        count, pages = len(self._who), list(pages)
        self.lost = self._lost(pages)
        look = _LookRow(
            np.zeros(count, bool),
            {name: np.zeros(count, bool) for name in FLAGS}
            | {"lost": np.array([s.device_id in self.lost for s in self._who], bool)},
            np.zeros(count),
            np.zeros(count, np.int64),
            number,
        )
        for page in pages:
            if page.kind == Kind.LATE:
                self._add_late(page)
            elif page.kind == Kind.LOOK:
                self._add_counters(page, look)
        look.faults = self._gained.rows[:, COUNTED.index("faults")].copy()
        self._looks.append(look)

    def panel(self) -> Panel:
        """The newest look, of the devices that have a row at it: who left the analysis before takes no part."""
        chosen = np.flatnonzero(self._looks[-1].present & self._started)
        looks = [look for look in self._looks if look is self._looks[-1] or look.present[chosen].any()]
        who = [self._who[at] for at in chosen]
        table = {name: np.array([look.flags[name][chosen] for look in looks]) for name in (*FLAGS, "lost")}
        gained = self._gained.wide(self._width)[chosen]
        before = self._before.wide(self._width)[chosen]
        late = self._gained_late(chosen)
        counted: Bools = np.any((before != 0) | (gained != 0), axis=0)

        def at_every_look(values: Ints) -> Ints:
            return np.broadcast_to(values, (len(looks), *values.shape))

        sums = {name: at_every_look(gained[:, COUNTED.index(name)]) for name in SUMS}
        return Panel(
            devices=tuple(s.device_id for s in who),
            device_classes=tuple(s.device_class for s in who),
            strata=tuple(s.stratum for s in who),
            canary=self._canary[chosen],
            joiner=np.array([s.joiner for s in who], dtype=bool),
            silent_at_start=self._silent_at_start[chosen],
            numbers=tuple(look.number for look in looks),
            present=np.array([look.present[chosen] for look in looks]),
            silent=table["silent"],
            lost=table["lost"],
            failed=table["failed"],
            heard=table["heard"],
            at_risk_s=np.array([look.at_risk_s[chosen] for look in looks]),
            before={name: before[:, COUNTED.index(name)] for name in BEFORE},
            sums=sums | {"faults": np.array([look.faults[chosen] for look in looks])},
            late={name: at_every_look(late[:, COUNTED.index(name)]) for name in ("labelled", "correct")},
            pairs=at_every_look(gained[:, [COUNTED.index(name) for name in PAIRS]]),
            counted={
                kind: (buckets, before[:, at], at_every_look(gained[:, at]))
                for kind in HISTOGRAMS
                for buckets, at in [self._columns_of(kind, counted)]
            },
        )

    def _columns_of(self, kind: str, counted: Bools) -> tuple[tuple[int, ...], list[int]]:
        """The buckets of a kind of histogram that somebody `counted`, ascending, and their columns.

        Who starts after a look may bring buckets that nobody had at it: `explain` knows all starts from the first look
        on, and must find what the tick found.
        """
        columns = ((bucket, len(COUNTED) + at) for at, (name, bucket) in enumerate(self._buckets) if name == kind)
        found = sorted((bucket, at) for bucket, at in columns if counted[at])
        return tuple(bucket for bucket, _ in found), [at for _, at in found]

    @property
    def _width(self) -> int:
        return len(COUNTED) + len(self._buckets)

    def _lost(self, pages: Sequence[StoredPage]) -> frozenset[str]:
        """Who is gone, and was `RETURN_S` before, at a look, without having been heard in between.

        On pages of a release that knew nothing of it, who is silent.
        """
        gone: dict[str, int] = {}
        lost: set[str] = set()
        for page in pages:
            if page.kind not in (Kind.LOOK, Kind.TAKEN):
                continue
            if "gone_s" not in page.columns:
                lost.update(page.devices[at] for at in np.flatnonzero(page.columns["silent"]))
                continue
            for at in np.flatnonzero(page.columns["gone_s"]):
                device, now_s = page.devices[at], int(page.columns["gone_s"][at])
                gone[device] = min(self._gone.get(device, now_s), now_s)
                if now_s - gone[device] >= RETURN_S:
                    lost.add(device)
        self._gone = gone
        return frozenset(lost)

    def _add_start(self, page: StoredPage) -> None:
        mine, at, counters = self._counters(page)
        before = np.array([self._who[i].before_image == page.image_id for i in at], dtype=bool)
        after = np.array([self._who[i].after_image == page.image_id for i in at], dtype=bool)
        self._before.wide(self._width)[at[before]] = counters[before]
        self._last.wide(self._width)[at[after]] = counters[after]
        self._started[at[after]] = True
        self._silent_at_start[at[after]] = page.columns["silent"][mine][after]

    def _add_late(self, page: StoredPage) -> None:
        _, at, counters = self._counters(page)
        self._late.wide(self._width)[at] = counters
        self._has_late[at] = True

    def _add_counters(self, page: StoredPage, look: _LookRow) -> None:
        mine, at, counters = self._counters(page)
        last = self._last.wide(self._width)
        self._gained.wide(self._width)[at] += gained_between(last[at], counters)
        last[at] = counters
        look.present[at], self._canary[at] = True, page.arm == CANARY
        look.at_risk_s[at] = page.columns["at_risk_s"][mine]
        for name in FLAGS:
            look.flags[name][at] = page.columns[name][mine]

    def _counters(self, page: StoredPage) -> tuple[Any, Any, Ints]:
        """Which of the page's devices are known, where they stand here, and their counters `(n, C)`."""
        places = np.array([self._at.get(device, -1) for device in page.devices], np.int64)
        mine = np.flatnonzero(places >= 0)
        parts = [name.partition(":") for name in page.columns]
        buckets = [(kind, int(bucket)) for kind, colon, bucket in parts if colon]
        self._buckets += [bucket for bucket in buckets if bucket not in self._buckets]
        counters = np.zeros((len(mine), self._width), np.int64)
        for at, name in enumerate([*COUNTED, *(f"{kind}:{bucket}" for kind, bucket in self._buckets)]):
            if name in page.columns:
                counters[:, at] = page.columns[name][mine]
        return mine, places[mine], counters

    def _gained_late(self, chosen: Any) -> Ints:
        """Labels that the image before was credited with since the start: answers from before it."""
        before, late = self._before.wide(self._width)[chosen], self._late.wide(self._width)[chosen]
        return np.where(self._has_late[chosen][:, None], gained_between(before, late), 0)


def gained_between(old: Ints, new: Ints) -> Ints:
    """Differences of cumulative counters `(n, C)`; of a device that lost its counters, what it counted since."""
    summed = len(SUMMED)
    lost: Bools = np.any(new[:, :summed] < old[:, :summed], axis=1)
    gained: Ints = new - np.where(lost.reshape(-1, 1), 0, old)
    gained[:, summed:] = np.maximum(gained[:, summed:], 0)
    return gained
