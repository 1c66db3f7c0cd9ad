"""Telemetry messages, decoded and checked: one `Report` per image in a message."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.protocol_codec import decode_telemetry
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.telemetry.counters import Counters

MAX_IMAGES = 16
BIGGEST_BOOT = (1 << 31) - 1


@dataclass(frozen=True)
class Report:
    """What one device said of one image in one message; `role` is the `SlotState` of its slot."""

    device_id: str
    image: str
    boot: int
    number: int
    role: int
    counters: Counters


def read_reports(device_id: str, payload: bytes) -> list[Report]:
    """The reports of one message. Raises InvalidInputError for anything a well-behaved agent does not send."""
    try:
        message = decode_telemetry(payload)
    except ProtocolError as error:
        raise InvalidInputError(f"telemetry that cannot be read: {error}", next="check the device's agent") from error
    images = [image["image"] for image in message["images"]]
    if len(images) > MAX_IMAGES or len(set(images)) != len(images) or message["boot"] > BIGGEST_BOOT:
        raise InvalidInputError("impossible telemetry", next="check the device's agent")
    return [
        Report(
            device_id,
            image["image"].hex(),
            message["boot"],
            message["report"],
            int(image["role"]),
            Counters.from_wire(image, message.get("stack_high_water_bytes") or 0),
        )
        for image in message["images"]
    ]
