"""Assignments: which device runs which releases, signed by the director key. SPEC section 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tinyfleet_ota import cbor, cose, protocol
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_ota.protocol_codec import decode_message, encode_message
from tinyfleet_ota.signers import Signer
from tinyfleet_ota.topics import DEVICE_ID
from tinyfleet_ota.wire_types import UINT_MAX

ASSIGNMENT_BYTES_MAX = 2048
ENTRIES_MAX = 10
NONCE_BYTES = 8
CHUNK_BYTES = range(64, 65537)
_DAY_MINUTES = 1440
_ARRAY = cbor.ARRAY << 5
_KEYS = [field.key for field in protocol.MESSAGES["assignment"]]
assert [field.name for field in protocol.MESSAGES["assignment"]] == [
    *("protocol", "device", "director_epoch", "sequence", "nonce", "entries")
]
_UINT32_FIELDS = (
    *("shadow_min_inferences", "confirm_min_inferences", "confirm_timeout_s"),
    *("start_spread_s", "blob_bytes", "latency_budget_us"),
)


@dataclass(frozen=True)
class AssignmentEntry:
    """What one component runs, until which state, and how its bytes come; fields as `assignment-entry` in the CDDL."""

    component: str
    manifest_digest: bytes
    until: SlotState
    blob: bytes
    blob_bytes: int
    chunk_bytes: int
    codec: Codec
    shadow_min_inferences: int = 0
    confirm_min_inferences: int = 1
    confirm_timeout_s: int = 3600
    start_spread_s: int = 0
    not_before: int | None = None
    window: tuple[int, int] | None = None
    base_digest: bytes | None = None
    latency_budget_us: int | None = None
    content_key: bytes | None = None
    brought_by: int | None = None


@dataclass(frozen=True)
class Assignment:
    """The whole desired set of one device. (director_epoch, sequence) orders assignments."""

    device: str
    director_epoch: int
    sequence: int
    nonce: bytes | None
    entries: tuple[AssignmentEntry, ...]


def make_assignment(assignment: Assignment, signer: Signer) -> bytes:
    """COSE_Sign1 of `assignment` by the director key. Raises ProtocolError for what no device would accept."""
    _check_device(assignment)
    values: tuple[Any, ...] = (assignment.device, assignment.director_epoch, assignment.sequence, assignment.nonce, [])
    fields = cbor.encode(dict(zip(_KEYS, (protocol.PROTOCOL_VERSION, *values), strict=True)))
    entries = bytes([_ARRAY | len(assignment.entries)]) + b"".join(map(_encode_entry, assignment.entries))
    data = cose.sign1(fields[:-1] + entries, signer)  # in place of the empty array, which comes last
    if len(data) > ASSIGNMENT_BYTES_MAX:
        raise ProtocolError(
            f"an assignment has at most {ASSIGNMENT_BYTES_MAX} bytes: name fewer components", got=len(data)
        )
    return data


def parse_assignment(data: bytes, director_keys: Sequence[bytes]) -> Assignment:
    """The assignment, after its signature was verified. Raises ProtocolError, SignatureError."""
    payload = cose.open_sign1(data, director_keys, size_max=ASSIGNMENT_BYTES_MAX)
    message = decode_message("assignment", payload, size_max=ASSIGNMENT_BYTES_MAX)
    if message.pop("protocol") != protocol.PROTOCOL_VERSION:
        raise ProtocolError("the assignment has another protocol version: update the older of the two")
    message["entries"] = tuple(_entry(entry) for entry in message["entries"])
    assignment = Assignment(**message)
    _check(assignment)
    return assignment


@lru_cache(maxsize=256)
def _encode_entry(entry: AssignmentEntry) -> bytes:
    """Checked and encoded once: thousands of devices of a rollout share an entry."""
    _check_entry(entry)
    present = {name: value for name, value in vars(entry).items() if value is not None}
    return encode_message("assignment_entry", present)


def _entry(fields: dict[str, Any]) -> AssignmentEntry:
    if "window" in fields:
        fields["window"] = (fields["window"][0], fields["window"][1])
    return AssignmentEntry(**fields)


def _require(condition: bool, field: str, expected: str) -> None:
    if not condition:
        raise ProtocolError(f"assignment: {field} must be {expected}", field=field, expected=expected)


def _check(assignment: Assignment) -> None:
    _check_device(assignment)
    for entry in assignment.entries:
        _check_entry(entry)


def _check_device(assignment: Assignment) -> None:
    components = [entry.component for entry in assignment.entries]
    nonce = assignment.nonce
    _require(bool(DEVICE_ID.fullmatch(assignment.device)), "device", "1 to 64 of a-z, 0-9 and -")
    _require(0 <= assignment.director_epoch <= UINT_MAX, "director_epoch", "an unsigned integer below 2^53")
    _require(0 <= assignment.sequence <= UINT_MAX, "sequence", "an unsigned integer below 2^53")
    _require(nonce is None or (isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES), "nonce", "8 bytes, or none")
    _require(len(components) <= ENTRIES_MAX, "entries", f"at most {ENTRIES_MAX}")
    _require(components == sorted(set(components)), "entries", "distinct components in ascending order")


def _check_entry(entry: AssignmentEntry) -> None:
    _require(entry.until in (SlotState.SHADOW, SlotState.CONFIRMED), "until", "SHADOW or CONFIRMED")
    _require(entry.chunk_bytes in CHUNK_BYTES, "chunk_bytes", "64 to 65536")
    _require(entry.blob_bytes >= 1, "blob_bytes", "1 or more")
    _require(entry.base_digest is None or entry.codec == Codec.DELTA, "base_digest", "there with codec DELTA only")
    for name in _UINT32_FIELDS:
        _require((getattr(entry, name) or 0) < 1 << 32, name, "below 2^32")
    if entry.brought_by is not None:
        _require(1 <= entry.brought_by <= UINT_MAX, "brought_by", "1 or more, below 2^53")
    if entry.window is not None:
        start, minutes = entry.window
        _require(start < _DAY_MINUTES and 1 <= minutes <= _DAY_MINUTES, "window", "minutes of one day")
