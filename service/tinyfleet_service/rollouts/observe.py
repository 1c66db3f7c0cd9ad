"""What a device's twin says about one candidate image."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from tinyfleet_ota.protocol import Reason, SlotState
from tinyfleet_service.database.reported import component_of
from tinyfleet_service.rollouts.members import AnyAssigned, AnyDevice
from tinyfleet_service.rollouts.state_machine import Seen, Slot

IMAGE_ID_HEX = 32
MISSED_REPORTS = 3
RETURN_S = 80
"""A device that lost its broker is back by then: FLEET_RECONNECT_MAX_MS and FLEET_CONNECT_TIMEOUT_MS of the agent."""

HARM = frozenset(
    {
        Reason.IMAGE_INVALID,
        Reason.GOLDEN_FAILED,
        Reason.ATTEMPTS_EXHAUSTED,
        Reason.CONFIRM_TIMEOUT,
        Reason.BUDGET_EXCEEDED,
        Reason.INFERENCE_FAILED,
        Reason.BOOT_IMAGE_CORRUPT,
        Reason.BOOT_OTHER_SLOT,
        Reason.SELF_TEST_FAILED,
        Reason.FIRMWARE_REVERTED,
    }
)
"""Rejections that speak against the candidate; the others are about delivery or about us."""

_SLOTS = {
    SlotState.EMPTY: Slot.NONE,
    SlotState.WRITING: Slot.WRITING,
    SlotState.STAGED: Slot.STAGED,
    SlotState.SHADOW: Slot.SHADOW,
    SlotState.TESTING: Slot.TESTING,
    SlotState.CONFIRMED: Slot.CONFIRMED,
    SlotState.REJECTED: Slot.REJECTED,
}


def image_id(image_sha256: str | None) -> str | None:
    """First 32 hex digits of an image digest, as devices name it."""
    return image_sha256[:IMAGE_ID_HEX] if image_sha256 else None


class Contact(Protocol):
    """When a device was heard, and how often it speaks: a twin, or a row of a plan."""

    @property
    def last_seen_at(self) -> datetime | None:
        """Last contact."""

    @property
    def report_interval_s(self) -> int:
        """Seconds between two reports."""

    @property
    def sleep_max_s(self) -> int:
        """Longest sleep, seconds."""


def silence_s(device: Contact) -> float:
    """How long this device may say nothing: three report intervals or its longest sleep."""
    return float(max(MISSED_REPORTS * device.report_interval_s, device.sleep_max_s))


def heard_at(device: Contact, reported_at: datetime | None) -> datetime | None:
    """The newer of the twin's last contact and the last telemetry."""
    seen = device.last_seen_at
    return reported_at if seen is None or (reported_at is not None and reported_at > seen) else seen


def see(device: AnyDevice, desired: AnyAssigned | None, component: str, candidate: str, heard: datetime | None) -> Seen:
    """The device as the state machine reads it; `candidate` is an image id.

    A refused assignment reads as a rejected candidate of the entry that it brought, except for a stale nonce, which the
    next assignment cures. An assignment that another component's change brought is followed with the one before it.
    """
    reported = device.reported
    said = component_of(reported, component)
    slots: list[Mapping[str, Any]] = list(said.get("slots") or []) if said else []
    active = said.get("active") if said else None
    index, slot = next(((i, s) for i, s in enumerate(slots) if s.get("image") == candidate), (None, {}))
    candidate_active = index is not None and index == active
    refusal = _refusal(reported, desired)
    if refusal and not candidate_active:
        return Seen(heard, follows=True, slot=Slot.REJECTED, candidate_active=False, reason=refusal)
    return Seen(
        heard_at=heard,
        follows=desired is not None and _followed(reported) >= (desired.director_epoch, desired.sequence),
        slot=_SLOTS[SlotState[slot["state"]]] if slot else Slot.NONE,
        candidate_active=candidate_active,
        reason=Reason[slot.get("reason", "NONE")] if slot else 0,
    )


def _followed(reported: Mapping[str, Any]) -> tuple[int, int]:
    """(director epoch, sequence) of the assignment the device follows, by its newest report."""
    return reported.get("director_epoch", 0), reported.get("sequence", 0)


def _refusal(reported: Mapping[str, Any], desired: AnyAssigned | None) -> int:
    if desired is None or reported.get("refused_sequence") != desired.sequence:
        return 0
    reason = Reason[reported.get("last_reason", "NONE")]
    return 0 if reason == Reason.ASSIGNMENT_STALE_NONCE else int(reason)
