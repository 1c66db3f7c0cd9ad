"""MQTT 3.1.1 packets as a broker sees them, written and read independently of the C code."""

from typing import NamedTuple


class Packet(NamedTuple):
    """One packet: type (upper half of the first byte), flags, body."""

    kind: int
    flags: int
    body: bytes


CONNACK_OK = bytes([0x20, 2, 0, 0])
PINGRESP = bytes([0xD0, 0])


def packet(first: int, body: bytes) -> bytes:
    """A packet with its remaining length."""
    digits = bytearray()
    length = len(body)
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([first]) + bytes(digits) + body


def text(value: str) -> bytes:
    """A length-prefixed string."""
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def publish(topic: str, payload: bytes, packet_id: int = 0, *, retain: bool = False, dup: bool = False) -> bytes:
    """PUBLISH, QoS 1 where a packet id is given."""
    first = 0x30 | (2 if packet_id else 0) | int(retain) | (8 if dup else 0)
    return packet(first, text(topic) + (packet_id.to_bytes(2, "big") if packet_id else b"") + payload)


def puback(packet_id: int) -> bytes:
    """PUBACK."""
    return packet(0x40, packet_id.to_bytes(2, "big"))


def split(stream: bytes) -> list[Packet]:
    """The packets of a byte stream, which must end at a packet's end."""
    packets, at = [], 0
    while at < len(stream):
        first, at, length, shift = stream[at], at + 1, 0, 0
        while True:
            digit, at = stream[at], at + 1
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                break
        assert at + length <= len(stream), "cut off inside a packet"
        packets.append(Packet(first & 0xF0, first & 0x0F, stream[at : at + length]))
        at += length
    return packets
