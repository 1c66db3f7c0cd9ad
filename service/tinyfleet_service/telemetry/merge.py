"""What a batch of reports changes: which rows are kept of each device, and what totals and rollups gain.

Rules, per device:

* Of each (image, boot) the report with the highest number counts; a row is kept while it is that for one of its images.
* The row with the highest (boot, number) is the current one, the others are past.
* A report gains its counters less those of the report it replaces; one that replaces nothing newer gains nothing.
* Boots beyond `KEEP_BOOTS` are folded into rows of boot -1, -2 .. (16 images each) whose number is the highest boot
  folded; what comes late for a folded boot is known.
* At most `MAX_IMAGES_PER_DEVICE` images are kept. New ones take the place of those folded that were reported longest
  ago, `TURNOVER_PER_DAY` a day, so that no device fills the database with made-up ones. What a forgotten image counted
  stays in totals and rollups; when it comes back it begins anew and is one device more.
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
TURNOVER_PER_DAY = 4
KEEP_BOOTS = 8
DAY_S = 86400.0
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


class Turnover:
    """How many images beyond the limit each device may still bring today; as long as this process lives."""

    def __init__(self) -> None:
        self._day, self._taken = 0, dict[str, int]()

    def left(self, device_id: str, at: float) -> int:
        """At `at`, Unix seconds."""
        if int(at // DAY_S) != self._day:
            self._day, self._taken = int(at // DAY_S), {}
        return TURNOVER_PER_DAY - self._taken.get(device_id, 0)

    def take(self, device_id: str, images: int) -> None:
        """So many took others' places."""
        if images:
            self._taken[device_id] = self._taken.get(device_id, 0) + images


@dataclass(frozen=True)
class Merged:
    """What became of a report: images that counted, that were refused as too many, that took the place of old ones."""

    counted: int = 0
    refused: int = 0
    replaced: int = 0


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


def merge(kept: Kept, report: Report, ledger: Ledger, spare: int = 0) -> Merged:
    """Bring `kept` up to `report`; `spare` images may take the place of old ones."""
    folded = max((row.number for row in kept.past if row.boot < 0), default=-1)
    if report.boot <= folded:
        return Merged()
    report, refused, replaced = _limited(kept, report, spare)
    names = image_names(report.images)
    best = _best(kept.rows, report.boot)
    counted = [p for p, name in enumerate(names) if name not in best or best[name].number < report.number]
    if not counted:
        return Merged(0, refused, replaced)
    had = {name for row in kept.rows for name in image_names(row.images)}
    ledger.add(kept.cohort, report, counted, [p for p in counted if names[p] not in had])
    for place in counted:
        if names[place] in best:
            row = best[names[place]]
            ledger.take(kept.cohort, row, [image_names(row.images).index(names[place])])
    _keep(kept, report)
    return Merged(len(counted), refused, replaced)


def count_anew(kept: Kept) -> None:
    """Fold all boots: the device counts them from 0 again, and what it counted so far stays counted."""
    kept.past, kept.current = _summed([row for row in kept.rows if row.images], -1), _NOBODY


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


def _limited(kept: Kept, report: Report, spare: int) -> tuple[Report, int, int]:
    """The report without images beyond the device's limit, how many those are, and how many old ones made room."""
    had = {name for row in kept.rows for name in image_names(row.images)}
    new = [name for name in image_names(report.images) if name not in had]
    beyond = len(had) + len(new) - MAX_IMAGES_PER_DEVICE
    if beyond <= 0:
        return report, 0, 0
    old = _longest_ago(kept, report)[: min(beyond, spare)]
    kept.past = [row for row in (_without(row, set(old)) if row.boot < 0 else row for row in kept.past) if row.images]
    refused = set(new[len(new) - (beyond - len(old)) :]) if beyond > len(old) else set[str]()
    return _without(report, refused), len(refused), len(old)


def _longest_ago(kept: Kept, report: Report) -> list[str]:
    """Folded images that neither this report nor a kept boot names, the first to go first; one stays, as with it does
    the knowledge which boots are folded.
    """
    used = {name for row in (report, *kept.rows) if row.boot >= 0 for name in image_names(row.images)}
    folded = _names_by_age([row for row in kept.past if row.boot < 0])
    return [name for name in folded[:-1] if name not in used]


def _names_by_age(rows: list[Report]) -> list[str]:
    """Image names, those first that were reported longest ago: folded rows -1, -2 .. come before boots 0, 1 .."""
    names: dict[str, None] = {}
    for row in sorted(rows, key=lambda row: (row.boot >= 0, abs(row.boot), row.number)):
        for name in image_names(row.images):
            names.pop(name, None)
            names[name] = None
    return list(names)


def _without(report: Report, names: set[str]) -> Report:
    if not names.intersection(image_names(report.images)):
        return report
    images = {n: c for n, c in unpack_counters(report.images, report.entries).items() if n not in names}
    return _packed(report.boot, report.number, images)


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
    return [*_summed([row for row in past if row.boot <= last], last), *(row for row in past if row.boot > last)]


def _summed(old: list[Report], last: int) -> list[Report]:
    """Rows with the sums of old ones; what comes later of boots up to `last` is known."""
    sums = [(name, (0, counters_of_image(old, name) or Counters())) for name in _names_by_age(old)]
    parts = [dict(sums[at : at + MAX_IMAGES]) for at in range(0, len(sums), MAX_IMAGES)]
    return [_packed(-1 - index, last, part) for index, part in enumerate(parts)]


def _packed(boot: int, number: int, images: dict[str, tuple[int, Counters]]) -> Report:
    ids = b"".join(bytes.fromhex(name) for name in images)
    return Report(boot, number, ids, pack_counters(list(images.values())))
