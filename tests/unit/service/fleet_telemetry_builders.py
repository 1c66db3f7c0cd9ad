"""Telemetry messages for tests, encoded as a device would."""

from __future__ import annotations

from typing import Any

from tinyfleet_ota.protocol import SlotState
from tinyfleet_ota.protocol_codec import encode_telemetry
from tinyfleet_service.telemetry import Counters
from tinyfleet_service.telemetry.counters import MAXIMA

IMAGE = bytes(range(16))


def image_counters(image: bytes = IMAGE, **values: Any) -> dict[str, Any]:
    return {
        "image": image,
        "role": SlotState.CONFIRMED,
        "inferences": 0,
        "latency_histogram": [],
        "confidence_histogram": [],
        "predictions": [],
        "labelled": 0,
        "correct": 0,
        "faults": 0,
        "active_s": 0,
        "shadow_inferences": 0,
        "shadow_agree": 0,
        "shadow_pairs": [0, 0, 0, 0],
        "shadow_latency_histogram": [],
        "arena_high_water_bytes": 0,
        "energy_uj": 0,
        "activations": 0,
        **values,
    }


def telemetry(*images: dict[str, Any], boot: int = 1, report: int = 1) -> bytes:
    message = {"protocol": 1, "boot": boot, "report": report, "uptime_s": 5, "images": list(images)}
    return encode_telemetry(message)


def plainly(counters: Counters) -> dict[tuple[str, int], int]:
    """By counter and bucket (place in `shadow_pairs`, else 0) what adds up and is not zero."""
    found: dict[tuple[str, int], int] = {}
    for name, value in vars(counters).items():
        several = dict(enumerate(value)) if isinstance(value, tuple) else value
        many = several if isinstance(several, dict) else {0: several}
        found |= {(name, bucket): count for bucket, count in many.items() if count and name not in MAXIMA}
    return found
