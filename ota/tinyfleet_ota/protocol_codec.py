"""Message maps as dictionaries by field name, driven by the generated table `protocol.MESSAGES`.

Names have underscores, enumerations are `IntEnum`s, ids and digests `bytes`, absent optional fields are absent.
Unknown keys are skipped when reading: an older service understands what it knows of a newer device.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tinyfleet_ota import cbor, protocol
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.wire_types import (
    UINT_MAX,
    Array,
    Bool,
    Bytes,
    Enum,
    Fixed,
    Message,
    Nullable,
    Text,
    WireType,
)

PAYLOAD_BYTES_MAX = 8192


def decode_state(payload: bytes) -> dict[str, Any]:
    """Fields of a `state` payload. Raises ProtocolError."""
    return _versioned("state", payload)


def decode_telemetry(payload: bytes) -> dict[str, Any]:
    """Fields of a `telemetry` payload; histograms stay sparse pairs, see `histogram_counts`. Raises ProtocolError."""
    message = _versioned("telemetry", payload)
    for image in message["images"]:
        for name in ("latency_histogram", "confidence_histogram", "predictions", "shadow_latency_histogram"):
            histogram_counts(image[name])
    return message


def decode_event(payload: bytes) -> dict[str, Any]:
    """Fields of an `event` payload. Raises ProtocolError."""
    return _versioned("event", payload)


def encode_state(message: dict[str, Any]) -> bytes:
    """Payload of a `state` message. Raises ProtocolError."""
    return encode_message("state", message)


def encode_telemetry(message: dict[str, Any]) -> bytes:
    """Payload of a `telemetry` message. Raises ProtocolError."""
    return encode_message("telemetry", message)


def encode_event(message: dict[str, Any]) -> bytes:
    """Payload of an `event` message. Raises ProtocolError."""
    return encode_message("event", message)


def encode_message(name: str, message: dict[str, Any]) -> bytes:
    """Deterministic CBOR of message map `name`. Raises ProtocolError for missing, unknown or ill-typed fields."""
    return cbor.encode(message_to_wire(name, message))


def message_to_wire(name: str, message: dict[str, Any]) -> dict[int, Any]:
    """The map by keys that `encode_message` encodes: for a part that many messages share. Raises ProtocolError."""
    fields: dict[int, Any] = _to_wire(Message(name), message, name)
    return fields


def decode_message(name: str, payload: bytes, *, size_max: int = PAYLOAD_BYTES_MAX) -> dict[str, Any]:
    """Inverse of `encode_message`; unknown keys are skipped. Raises ProtocolError."""
    fields: dict[str, Any] = _from_wire(Message(name), cbor.decode(payload, size_max=size_max), name)
    return fields


def histogram_counts(pairs: list[int]) -> dict[int, int]:
    """Sparse histogram -> {bucket: count}. Raises ProtocolError unless buckets ascend and pairs are whole."""
    buckets, counts = pairs[::2], pairs[1::2]
    if len(buckets) != len(counts) or any(low >= high for low, high in pairwise(buckets)):
        raise ProtocolError("a histogram is pairs of bucket and count with ascending buckets", got=pairs)
    return dict(zip(buckets, counts, strict=True))


def latency_bucket(microseconds: int) -> int:
    """Bucket of a latency: quarter octaves from 1 us (0 counts as 1)."""
    value = max(1, microseconds)
    exponent = value.bit_length() - 1
    return 4 * exponent + ((value << 2 >> exponent) & 3)


def latency_bucket_low_us(bucket: int) -> float:
    """Lowest latency of a bucket, microseconds."""
    return float((4 + bucket % 4) * 2.0 ** (bucket // 4 - 2))


def _versioned(name: str, payload: bytes) -> dict[str, Any]:
    message = decode_message(name, payload)
    if message["protocol"] != protocol.PROTOCOL_VERSION:
        raise ProtocolError(
            f"{name} has protocol version {message['protocol']}, this service reads {protocol.PROTOCOL_VERSION}: "
            "update the older of the two",
            got=message["protocol"],
        )
    return message


def _expect(condition: bool, where: str, expected: str, got: Any) -> None:
    if not condition:
        raise ProtocolError(f"{where}: expected {expected}, got {got!r:.80}", field=where, expected=expected, got=got)


def _is_uint(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= UINT_MAX


def _check_scalar(wire_type: WireType, value: Any, where: str) -> None:
    if isinstance(wire_type, Bool):
        _expect(isinstance(value, bool), where, "true or false", value)
    elif isinstance(wire_type, Text):
        size = len(value.encode()) if isinstance(value, str) else -1
        _expect(
            wire_type.low <= size <= wire_type.high, where, f"text of {wire_type.low} to {wire_type.high} bytes", value
        )
    elif isinstance(wire_type, Bytes):
        low, high = wire_type.size, wire_type.high or wire_type.size
        expected = f"{low} bytes" if low == high else f"{low} to {high} bytes"
        _expect(isinstance(value, bytes) and low <= len(value) <= high, where, expected, value)
    else:
        _expect(_is_uint(value), where, "an unsigned integer below 2^53", value)


def _items(wire_type: Array | Fixed, value: Any, where: str) -> list[tuple[WireType, Any]]:
    """The elements of an array with their types."""
    _expect(isinstance(value, list | tuple), where, "an array", value)
    if isinstance(wire_type, Fixed):
        _expect(len(value) == len(wire_type.items), where, f"{len(wire_type.items)} items", value)
        return list(zip(wire_type.items, value, strict=True))
    _expect(len(value) >= wire_type.low, where, f"{wire_type.low} or more items", value)
    return [(wire_type.item, item) for item in value]


def _from_wire(wire_type: WireType, value: Any, where: str) -> Any:
    if isinstance(wire_type, Nullable):
        return None if value is None else _from_wire(wire_type.item, value, where)
    if isinstance(wire_type, Array | Fixed):
        return [_from_wire(kind, item, where) for kind, item in _items(wire_type, value, where)]
    if isinstance(wire_type, Message):
        _expect(isinstance(value, dict), where, "a map", value)
        return _map_from_wire(wire_type.name, value)
    if isinstance(wire_type, Enum):
        _expect(_is_uint(value) and value in list(wire_type.members), where, f"a {wire_type.members.__name__}", value)
        return wire_type.members(value)
    _check_scalar(wire_type, value, where)
    return value


def _map_from_wire(name: str, value: dict[Any, Any]) -> dict[str, Any]:
    result = {}
    for field in protocol.MESSAGES[name]:
        where = f"{name}.{field.name}"
        if field.key in value:
            result[field.name] = _from_wire(field.type, value[field.key], where)
        else:
            _expect(field.optional, where, "the field to be there", "nothing")
    return result


def _to_wire(wire_type: WireType, value: Any, where: str) -> Any:
    if isinstance(wire_type, Nullable):
        return None if value is None else _to_wire(wire_type.item, value, where)
    if isinstance(wire_type, Array | Fixed):
        return [_to_wire(kind, item, where) for kind, item in _items(wire_type, value, where)]
    if isinstance(wire_type, Message):
        _expect(isinstance(value, dict), where, "a dictionary", value)
        return _map_to_wire(wire_type.name, value)
    if isinstance(wire_type, Enum):
        _expect(_is_uint(value) and value in list(wire_type.members), where, f"a {wire_type.members.__name__}", value)
        return int(value)
    _check_scalar(wire_type, value, where)
    return value


def _map_to_wire(name: str, value: dict[str, Any]) -> dict[int, Any]:
    fields = protocol.MESSAGES[name]
    unknown = set(value) - {field.name for field in fields}
    _expect(not unknown, name, "only fields of protocol.cddl", sorted(unknown))
    result = {}
    for field in fields:
        where = f"{name}.{field.name}"
        if field.name in value:
            result[field.key] = _to_wire(field.type, value[field.name], where)
        else:
            _expect(field.optional, where, "the field to be there", "nothing")
    return result
