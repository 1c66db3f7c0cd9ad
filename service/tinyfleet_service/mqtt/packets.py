"""MQTT 3.1.1 packets as bytes: what our own connections send (OASIS standard, sections 2 and 3)."""

from __future__ import annotations

import struct

CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
_CLEAN, _RETAIN, _QOS_1 = 2, 1, 2


def packet(head: int, body: bytes) -> bytes:
    """First byte, length in one to four digits of seven bits, body."""
    size = len(body)
    if size < 0x80:
        return bytes((head, size)) + body
    digits = bytearray((head,))
    while True:
        size, digit = size >> 7, size & 0x7F
        digits.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(digits) + body


def connect_packet(client_id: str, *, keepalive_s: int, clean: bool) -> bytes:
    """CONNECT without user name or will: who we are is in the certificate."""
    return packet(0x10, _text("MQTT") + struct.pack("!BBH", 4, _CLEAN if clean else 0, keepalive_s) + _text(client_id))


def subscribe_packet(topics: dict[str, int]) -> bytes:
    """SUBSCRIBE to filters with their QoS."""
    return packet(0x82, b"\x00\x01" + b"".join(_text(topic) + bytes([qos]) for topic, qos in topics.items()))


def publish_packet(topic: str, payload: bytes, *, retain: bool, mid: int) -> bytes:
    """PUBLISH with QoS 1 and this packet id, or with QoS 0 when it is 0."""
    name = topic.encode()
    head = 0x30 | (_RETAIN if retain else 0)
    if not mid:
        return packet(head, struct.pack("!H", len(name)) + name + payload)
    return packet(head | _QOS_1, struct.pack("!H", len(name)) + name + struct.pack("!H", mid) + payload)


def acknowledge_packets(mids: list[int]) -> bytes:
    """A PUBACK for each packet id that is not 0."""
    return b"".join([b"\x40\x02" + mid.to_bytes(2, "big") for mid in mids if mid])


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data
