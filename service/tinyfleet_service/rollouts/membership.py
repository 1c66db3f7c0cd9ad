"""Who gets the candidate when: drawn once per stratum, by rank of a hash, and stored.

Within each stratum (class and tags) devices are ordered by the first 63 bits of SHA-256(salt, device id): a random
order that nobody can steer and everybody can recompute; devices that say nothing now come last, since a silent canary
could tell nothing. The canary and the waves take from the front, the holdout
from the back; counts are spread over strata in proportion by largest remainder. Widening therefore only ever adds
devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from tinyfleet_service.rollouts.spec import parse_share

RANK_BITS = 63
HOLDOUT_SHARE = 0.05
HOLDOUT_DEVICES = 20
HOLDOUT_LIMIT = 0.20


@dataclass(frozen=True)
class Candidate:
    """A device that may take part."""

    device_id: str
    device_class: str
    stratum: str
    quiet: bool = False


@dataclass(frozen=True)
class Place:
    """Where a device stands: wave 0 is the canary, the highest wave the holdout when there is one."""

    device_id: str
    device_class: str
    stratum: str
    rank: int
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
    strata: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        strata.setdefault(candidate.stratum, []).append(candidate)
    for members in strata.values():
        members.sort(key=lambda c: (c.quiet, rank_of(c.device_id, salt), c.device_id))
    ends = _cumulative_ends(strata, canary, waves, len(candidates))
    places = [
        _place(candidate, position, [end[stratum] for end in ends], salt, held=_held(ends, stratum, len(members)))
        for stratum, members in sorted(strata.items())
        for position, candidate in enumerate(members)
    ]
    return _renumbered(places, len(candidates))


def _cumulative_ends(
    strata: Mapping[str, Sequence[Candidate]], canary: str, waves: Sequence[str], devices: int
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


def _held(ends: Sequence[Mapping[str, int]], stratum: str, size: int) -> int:
    return size - ends[-1][stratum]


def _place(candidate: Candidate, position: int, ends: Sequence[int], salt: str, *, held: int) -> Place:
    wave = next((index for index, end in enumerate(ends) if position < end), len(ends))
    rank = rank_of(candidate.device_id, salt)
    return Place(
        candidate.device_id, candidate.device_class, candidate.stratum, rank, wave, held > 0 and wave == len(ends)
    )


def _renumbered(places: list[Place], devices: int) -> Draw:
    """Close the gaps that empty waves leave."""
    used = sorted({place.wave for place in places})
    number = {wave: index for index, wave in enumerate(used)}
    moved = tuple(Place(p.device_id, p.device_class, p.stratum, p.rank, number[p.wave], p.holdout) for p in places)
    counts = [sum(p.wave <= wave for p in moved) for wave in range(len(used))]
    return Draw(moved, len(used), tuple(count / devices for count in counts))


def joiner_wave(rank: int, shares: Sequence[float]) -> int:
    """The wave whose share of the fleet a joiner's rank falls into."""
    position = rank / 2**RANK_BITS
    return next((wave for wave, share in enumerate(shares) if position < share), len(shares) - 1)
