"""What a batch of reports changes: which rows are kept of each device, and what totals and rollups gain.

Rules, per device:

* Of each (image, boot) the report with the highest number counts; a row is kept while it is that for one of its images.
* The row with the highest (boot, number) is the current one, the others are past.
* A report gains its counters less those of the report it replaces; one that replaces nothing newer gains nothing.
* Boots beyond `KEEP_BOOTS` are folded into rows of boot -1, -2 .. (16 images each) whose number is the highest boot
  folded; what comes late for a folded boot is known.
* At most `MAX_IMAGES_PER_DEVICE` images count, so that no device fills the database with made-up ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyfleet_service.telemetry.counters import Counters
from tinyfleet_service.telemetry.decode import Report
from tinyfleet_service.telemetry.entries import Gains, image_names, pack_counters, unpack_counters
from tinyfleet_service.telemetry.reports import MAX_IMAGES

MAX_IMAGES_PER_DEVICE = 64
KEEP_BOOTS = 8
_NOBODY = Report(-1 << 31, -1, b"", b"")


@dataclass
class Kept:
    """One device while a batch is merged: `current` row, `past` rows, and how often each image counts anew."""

    cohort: str = ""
    current: Report = _NOBODY
    past: list[Report] = field(default_factory=list)

    @property
    def rows(self) -> list[Report]:
        """All rows."""
        return [self.current, *self.past]


@dataclass(frozen=True)
class Gain:
    """What one (image, cohort) gained in a batch."""

    image: str
    cohort: str
    devices: int
    reports: int
    counters: Counters


class Ledger:
    """Adds up what a batch gains, by (image, cohort)."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], int] = {}
        self._places: dict[tuple[bytes, str], list[int]] = {}
        self._added: tuple[list[bytes], list[list[int]]] = ([], [])
        self._taken: tuple[list[bytes], list[list[int]]] = ([], [])
        self._devices: dict[int, int] = {}

    def replace(self, cohort: str, before: bytes, report: Report) -> None:
        """A newer report of the same images took the place of entries `before`."""
        places = self._places.get((report.images, cohort)) or self.groups_of(report.images, cohort)
        self._added[0].append(report.entries)
        self._added[1].append(places)
        self._taken[0].append(before)
        self._taken[1].append(places)

    def add(self, cohort: str, report: Report, places: Iterable[int], new: Iterable[int] = ()) -> None:
        """Some images of a report count, those at `new` for the first time on this device."""
        groups = self.groups_of(report.images, cohort)
        counted = set(places)
        self._added[0].append(report.entries)
        self._added[1].append([group if place in counted else -1 for place, group in enumerate(groups)])
        for place in new:
            self._devices[groups[place]] = self._devices.get(groups[place], 0) + 1

    def take(self, cohort: str, report: Report, places: Iterable[int]) -> None:
        """Some images of an earlier report no longer count."""
        groups, counted = self.groups_of(report.images, cohort), set(places)
        self._taken[0].append(report.entries)
        self._taken[1].append([group if place in counted else -1 for place, group in enumerate(groups)])

    def groups_of(self, images: bytes, cohort: str) -> list[int]:
        """The group of each image."""
        key = (images, cohort)
        if key not in self._places:
            names = image_names(images)
            self._places[key] = [self._groups.setdefault((name, cohort), len(self._groups)) for name in names]
        return self._places[key]

    def gains(self) -> list[Gain]:
        """What every (image, cohort) gained, in order of name: two writers lock their rows in the same order."""
        sums = Gains(len(self._groups) + 1)  # the last group (-1) is for what does not count
        reports = np.zeros(len(self._groups) + 1, np.int64)
        for (data, places), sign in ((self._added, 1), (self._taken, -1)):
            if data:
                table = _table(places)
                sums.add(data, table, sign)
                if sign > 0:
                    np.add.at(reports, table, 1)
        return [
            Gain(image, cohort, self._devices.get(group, 0), int(reports[group]), sums.counters(group))
            for (image, cohort), group in sorted(self._groups.items())
        ]


def _table(places: Sequence[Sequence[int]]) -> np.ndarray:
    width = max(map(len, places))
    if all(len(row) == width for row in places):
        return np.array(places, np.int64)
    return np.array([[*row, *[-1] * (width - len(row))] for row in places], np.int64)


def merge(kept: Kept, report: Report, ledger: Ledger) -> tuple[int, int]:
    """Bring `kept` up to `report`: (images that counted, images refused because the device has too many)."""
    folded = max((row.number for row in kept.past if row.boot < 0), default=-1)
    if report.boot <= folded:
        return 0, 0
    report, refused = _limited(kept, report)
    names = image_names(report.images)
    best = _best(kept.rows, report.boot)
    counted = [p for p, name in enumerate(names) if name not in best or best[name].number < report.number]
    if not counted:
        return 0, refused
    had = {name for row in kept.rows for name in image_names(row.images)}
    ledger.add(kept.cohort, report, counted, [p for p in counted if names[p] not in had])
    for place in counted:
        if names[place] in best:
            row = best[names[place]]
            ledger.take(kept.cohort, row, [image_names(row.images).index(names[place])])
    _keep(kept, report)
    return len(counted), refused


def rows_of_image(rows: Iterable[Report], image: str) -> list[Report]:
    """Of a device's rows those that count for one image: the newest of each boot."""
    newest: dict[int, Report] = {}
    for row in rows:
        if image in image_names(row.images) and (row.boot not in newest or newest[row.boot].number < row.number):
            newest[row.boot] = row
    return list(newest.values())


def counters_of_image(rows: Iterable[Report], image: str) -> Counters | None:
    """Counters of one image over a device's rows, each boot counted once; None when it never reported it."""
    found = [unpack_counters(row.images, row.entries)[image][1] for row in rows_of_image(rows, image)]
    return sum(found[1:], found[0]) if found else None


def _best(rows: Iterable[Report], boot: int) -> dict[str, Report]:
    """The row that counts of each image in one boot."""
    best: dict[str, Report] = {}
    for row in rows:
        for name in image_names(row.images) if row.boot == boot else ():
            if name not in best or best[name].number < row.number:
                best[name] = row
    return best


def _limited(kept: Kept, report: Report) -> tuple[Report, int]:
    """The report without images beyond the device's limit."""
    had = {name for row in kept.rows for name in image_names(row.images)}
    names = image_names(report.images)
    new = [name for name in names if name not in had]
    refused = set(new[max(0, MAX_IMAGES_PER_DEVICE - len(had)) :])
    if not refused:
        return report, 0
    images = {n: c for n, c in unpack_counters(report.images, report.entries).items() if n not in refused}
    return _packed(report.boot, report.number, images), len(refused)


def _keep(kept: Kept, report: Report) -> None:
    rows = [report, *(row for row in kept.rows if row is not _NOBODY)]
    best = {(boot, name): row for boot in {r.boot for r in rows} for name, row in _best(rows, boot).items()}
    alive = {id(row) for row in best.values()}
    rows = sorted((row for row in rows if id(row) in alive), key=lambda row: row[:2])
    kept.current, kept.past = rows[-1], _folded(rows[:-1])


def _folded(past: list[Report]) -> list[Report]:
    boots = sorted({row.boot for row in past if row.boot >= 0})
    if len(boots) <= KEEP_BOOTS:
        return past
    last = boots[len(boots) - KEEP_BOOTS // 2 - 1]
    old = [row for row in past if row.boot <= last]
    names = list(dict.fromkeys(name for row in old for name in image_names(row.images)))
    sums = [(name, (0, counters_of_image(old, name) or Counters())) for name in names]
    parts = [dict(sums[at : at + MAX_IMAGES]) for at in range(0, len(sums), MAX_IMAGES)]
    folded = [_packed(-1 - index, last, part) for index, part in enumerate(parts)]
    return [*folded, *(row for row in past if row.boot > last)]


def _packed(boot: int, number: int, images: dict[str, tuple[int, Counters]]) -> Report:
    ids = b"".join(bytes.fromhex(name) for name in images)
    return Report(boot, number, ids, pack_counters(list(images.values())))
