"""State and event messages for tests, encoded as a device would."""

from __future__ import annotations

from typing import Any

from tinyfleet_ota.protocol import EventKind, Reason, SlotState
from tinyfleet_ota.protocol_codec import encode_event, encode_state

NONCE = bytes.fromhex("0011223344556677")


def slot(state: SlotState = SlotState.EMPTY, image: bytes | None = None) -> dict[str, Any]:
    return {
        "state": state,
        "image": image,
        "reason": Reason.NONE,
        "written_bytes": 0,
        "image_bytes": 0,
        "attempts": 0,
        "release_counter": 0,
    }


def state(
    device_class: str = "cortex-m4", slots: list[dict[str, Any]] | None = None, active: int | None = None, **values: Any
) -> bytes:
    component = {
        "component": "model/0",
        "active": active,
        "fallback": None,
        "floor": 0,
        "slots": slots or [slot(), slot()],
    }
    return encode_state(
        {
            "protocol": 1,
            "device_class": device_class,
            "agent": "0.1.0",
            "abi": 1,
            "boot": 1,
            "director_epoch": 1,
            "sequence": 0,
            "nonce": NONCE,
            "root": 1,
            "report_interval_s": 5,
            "sleep_max_s": 0,
            "components": [component],
            "last_reason": Reason.NONE,
            "fresh": True,
            **values,
        }
    )


def event(boot: int = 1, number: int = 1, kind: EventKind = EventKind.SLOT, **values: Any) -> bytes:
    return encode_event({"protocol": 1, "boot": boot, "number": number, "kind": kind, **values})
