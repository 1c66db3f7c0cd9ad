"""Who gets the candidate when: drawn once per stratum, by rank of a hash, and stored.

Within each stratum (class and tags) devices are ordered by the first 63 bits of SHA-256(salt, device id): a random
order that nobody can steer and everybody can recompute; devices that say nothing now come last, since a silent canary
could tell nothing. The canary and the waves take from the front, the holdout
from the back; counts are spread over strata in proportion by largest remainder. That may give a stratum less of a
larger count, so each wave reaches at least what the one before it reached there: widening only ever adds devices.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, floor
from operator import attrgetter
from typing import NamedTuple

from tinyfleet_service.rollouts.spec import parse_share

RANK_BITS = 63
HOLDOUT_SHARE = 0.05
HOLDOUT_DEVICES = 20
HOLDOUT_LIMIT = 0.20


class Candidate(NamedTuple):
    """A device that may take part."""

    device_id: str
    device_class: str
    stratum: str
    quiet: bool = False


class Place(NamedTuple):
    """Where a device stands: wave 0 is the canary, the highest wave the holdout when there is one."""

    device_id: str
    device_class: str
    stratum: str
    rank: int
    wave: int
    holdout: bool


class Cell(NamedTuple):
    """What a plan says of devices in common."""

    stratum: str
    device_class: str
    wave: int
    holdout: bool


@dataclass(frozen=True)
class Draw:
    """All places, and the cumulative share of the fleet that each wave reaches (joiners enter by it)."""

    places: tuple[Place, ...]
    waves: int
    shares: tuple[float, ...]

    def in_wave(self, wave: int) -> list[Place]:
        """Places of one wave."""
        return [place for place in self.places if place.wave == wave]

    @cached_property
    def cells(self) -> Mapping[Cell, int]:
        """How many devices stand in each cell, in order of the places: a fleet is counted once."""
        return {Cell(*cell): devices for cell, devices in Counter(map(_CELL, self.places)).items()}

    def count(self, wave: int) -> int:
        """Devices of one wave."""
        return sum(devices for cell, devices in self.cells.items() if cell.wave == wave)


_CELL = attrgetter(*Cell._fields)


def rank_of(device_id: str, salt: str) -> int:
    """Rank of a device in one rollout: 63 bits, uniform."""
    digest = hashlib.sha256(f"{salt}\0{device_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - RANK_BITS)


def stratum_of(device_class: str, tags: Mapping[str, str], stratify_by: Sequence[str]) -> str:
    """Name of a stratum: the class and the chosen tags, `-` for a missing tag."""
    return "/".join([device_class, *(f"{tag}={tags.get(tag, '-')}" for tag in stratify_by)])


def allocate(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """`count` spread over strata in proportion to their sizes by largest remainder, never above a size."""
    total = sum(sizes.values())
    if not total:
        return dict.fromkeys(sizes, 0)
    count = min(count, total)
    exact = {name: count * size / total for name, size in sizes.items()}
    shares = {name: floor(value) for name, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: count - sum(shares.values())]:
        shares[name] += 1
    return shares


def holdout_size(devices: int) -> int:
    """Devices updated last, after the verdict: max(5 %, 20), at most 20 % of the fleet."""
    return min(max(ceil(HOLDOUT_SHARE * devices), HOLDOUT_DEVICES), floor(HOLDOUT_LIMIT * devices))


def draw_members(candidates: Sequence[Candidate], canary: str, waves: Sequence[str], salt: str) -> Draw:
    """Draw the canary, the waves and the holdout. A canary of the whole fleet leaves neither waves nor holdout."""
    strata: dict[str, list[tuple[bool, int, str, str]]] = {}
    for device_id, device_class, stratum, quiet in candidates:
        row = quiet, rank_of(device_id, salt), device_id, device_class
        strata.setdefault(stratum, []).append(row)
    for members in strata.values():
        members.sort()
    ends = _cumulative_ends(strata, canary, waves, len(candidates))
    reached = [*ends, {name: len(members) for name, members in strata.items()}]  # the last reaches the holdout
    number = _numbers(reached)
    places = tuple(
        Place(device_id, device_class, stratum, rank, number[wave], wave == len(ends))
        for stratum, members in sorted(strata.items())
        for wave, (start, end) in enumerate(pairwise([0, *(end[stratum] for end in reached)]))
        for _, rank, device_id, device_class in members[start:end]
    )
    shares = tuple(sum(reached[wave].values()) / len(candidates) for wave in number)
    return Draw(places, len(number), shares)


def _cumulative_ends(
    strata: Mapping[str, Sized], canary: str, waves: Sequence[str], devices: int
) -> list[dict[str, int]]:
    """Per wave, how many devices of each stratum it has reached; what lies beyond the last is the holdout."""
    sizes = {name: len(members) for name, members in strata.items()}
    first = allocate(parse_share(canary, devices), sizes)
    if sum(first.values()) == devices:
        return [first]
    held = allocate(min(holdout_size(devices), devices - sum(first.values())), sizes)
    ends = [first]
    for share in waves:
        target = allocate(parse_share(share, devices), sizes)
        limit = {name: max(first[name], sizes[name] - held[name]) for name in sizes}
        ends.append({name: max(ends[-1][name], min(target[name], limit[name])) for name in sizes})
    return ends


def _numbers(ends: Sequence[Mapping[str, int]]) -> dict[int, int]:
    """The number of each wave that has devices: empty ones leave no gaps."""
    reached = [sum(end.values()) for end in ends]
    used = [wave for wave, (before, after) in enumerate(pairwise([0, *reached])) if after > before]
    return {wave: index for index, wave in enumerate(used)}


def joiner_wave(rank: int, shares: Sequence[float]) -> int:
    """The wave whose share of the fleet a joiner's rank falls into."""
    position = rank / 2**RANK_BITS
    return next((wave for wave, share in enumerate(shares) if position < share), len(shares) - 1)
