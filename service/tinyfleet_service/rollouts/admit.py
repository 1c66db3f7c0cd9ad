"""Which devices of a stage may begin now: windows, concurrency and bandwidth. Pure: no I/O, no clock, no database.

Rules, for the *first* assignment of the candidate only; going back, and what a device already has, never waits.
 1. window: the device's local time must lie inside. Its zone is its tag `timezone` (a name such as Europe/Paris, or an
    offset such as +02:00), else UTC. The device checks the same window by its own clock, where it has one.
 2. max_in_flight: devices that are downloading or proving the candidate. One that has not been heard for longer than
    it may be silent gives its place up: an unreachable device must not hang the others.
 3. max_bytes_per_hour: bytes of transfers begun within the last hour. A transfer larger than the limit begins alone.
 4. Where not all may begin, the first by rank do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tinyfleet_service.database.models import MemberStatus
from tinyfleet_service.rollouts.state_machine import MemberView

BUSY = (MemberStatus.ASSIGNED, MemberStatus.DOWNLOADING, MemberStatus.TESTING)
DAY_MINUTES = 1440
HOUR = timedelta(hours=1)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_WINDOW = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


class Start(NamedTuple):
    """A device that could begin: its place in the draw, the bytes of its transfer, its time zone (None: UTC)."""

    device_id: str
    rank: int
    transfer_bytes: int
    zone: str | None = None


@dataclass(frozen=True)
class Limits:
    """`window` is (first minute of the day, minutes), local to each device; None is no limit."""

    window: tuple[int, int] | None = None
    in_flight: int | None = None
    bytes_per_hour: int | None = None


def admitted(
    limits: Limits, waiting: Iterable[Start], members: Iterable[MemberView], bytes_last_hour: int, now: datetime
) -> list[str]:
    """Ids of the waiting devices that may begin now, in order of rank."""
    inside = [s for s in waiting if limits.window is None or in_window(limits.window, s.zone, now)]
    inside.sort(key=lambda start: (start.rank, start.device_id))
    if limits.in_flight is not None:
        inside = inside[: max(limits.in_flight - sum(_busy(m, now) for m in members), 0)]
    return [start.device_id for start in _within_bytes(limits.bytes_per_hour, inside, bytes_last_hour)]


def _busy(member: MemberView, now: datetime) -> bool:
    last = max((t for t in (member.assigned_at, member.heard_at) if t is not None), default=None)
    reachable = last is not None and now - last <= timedelta(seconds=member.silence_s)
    return member.status in BUSY and reachable


def _within_bytes(limit: int | None, starts: Sequence[Start], spent: int) -> list[Start]:
    if limit is None:
        return list(starts)
    chosen: list[Start] = []
    for start in starts:
        if spent and spent + start.transfer_bytes > limit:
            break
        chosen.append(start)
        spent += start.transfer_bytes
    return chosen


def parse_window(text: str) -> tuple[int, int]:
    """`22:00-05:00` as (first minute of the day, minutes). Raises ValueError."""
    found = _WINDOW.fullmatch(text.strip())
    hours = [int(part) for part in found.groups()] if found else []
    if not hours or hours[0] > 23 or hours[2:] > [24, 0] or max(hours[1], hours[3]) > 59:
        raise ValueError(f"{text!r} is no window: write it as 22:00-05:00, in each device's local time")
    begin, end = 60 * hours[0] + hours[1], 60 * hours[2] + hours[3]
    minutes = (end - begin) % DAY_MINUTES or DAY_MINUTES
    return begin, minutes


def in_window(window: tuple[int, int], zone: str | None, now: datetime) -> bool:
    """Whether the local time of day lies in `window`, which may pass midnight."""
    local = now.astimezone(_zone(zone))
    return (60 * local.hour + local.minute - window[0]) % DAY_MINUTES < window[1]


def known_zone(zone: str) -> bool:
    """Whether `zone` is an offset or a name in this machine's time zone database."""
    return zone.upper() == "UTC" or _zone(zone) is not UTC


@lru_cache(maxsize=1024)
def _zone(zone: str | None) -> tzinfo:
    found = _OFFSET.fullmatch(zone or "")
    if found:
        minutes = 60 * int(found[2]) + int(found[3])
        return timezone(timedelta(minutes=min(minutes, DAY_MINUTES - 1) * (1 if found[1] == "+" else -1)))
    try:
        return ZoneInfo(zone) if zone else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
