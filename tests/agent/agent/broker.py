"""A small MQTT 3.1.1 broker in memory, spoken to in bytes: what an agent's transport port connects to in tests."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Broker:
    """Retained messages, one client at a time. Tests switch its faults on: silent, refusing, lossy, lying."""

    retained: dict[str, bytes] = field(default_factory=dict)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    subscribed: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    deliver: Callable[[str, bytes], bytes | None] | None = None
    """Last word on a retained message: other bytes, or None to lose it."""
    silent: bool = False
    refusing: bool = False
    denied: str = ""
    """Subscriptions to topics that hold this are refused; "" = none."""
    closed: bool = True
    _in: bytearray = field(default_factory=bytearray)
    _out: bytearray = field(default_factory=bytearray)

    def connect(self) -> int:
        if self.refusing:
            return -140
        self.closed = False
        self.subscribed.clear()
        self._in.clear()
        self._out.clear()
        return 0

    def close(self) -> None:
        self.closed = True

    def send(self, data: bytes) -> int:
        """Bytes from the device."""
        if self.closed:
            return -140
        if not self.silent:
            self._in += data
            while self._one_packet():
                pass
        return len(data)

    def recv(self, room: int) -> bytes | None:
        """Bytes for the device; None when the connection is gone."""
        if self.closed:
            return None
        out = bytes(self._out[:room])
        del self._out[:room]
        return out

    @property
    def pending(self) -> bool:
        """Bytes wait for the device."""
        return bool(self._out) and not self.closed

    def publish(self, topic: str, payload: bytes) -> None:
        """A retained message from the service, also delivered live."""
        if payload:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)
        if topic in self.subscribed:
            self._send_message(topic, payload, retain=False)

    def of(self, suffix: str) -> list[bytes]:
        """Payloads the device published on topics that end so."""
        return [payload for topic, payload in self.published if topic.endswith(suffix)]

    def _one_packet(self) -> bool:
        length, used = _remaining_length(self._in)
        if used == 0 or len(self._in) < 1 + used + length:
            return False
        kind, body = self._in[0], bytes(self._in[1 + used : 1 + used + length])
        del self._in[: 1 + used + length]
        self._handle(kind, body)
        return True

    def _handle(self, kind: int, body: bytes) -> None:
        match kind >> 4:
            case 1:
                self._out += b"\x20\x02\x00\x00"
            case 3:
                self._on_publish(kind, body)
            case 8:
                self._on_subscribe(body)
            case 10:
                self.subscribed.discard(_text(body, 2)[0])
                self._out += b"\xb0\x02" + body[:2]
            case 12:
                self._out += b"\xd0\x00"
            case 14:
                self.close()

    def _on_publish(self, kind: int, body: bytes) -> None:
        topic, at = _text(body, 0)
        if kind & 6:
            self._out += b"\x40\x02" + body[at : at + 2]
            at += 2
        self.published.append((topic, body[at:]))

    def _on_subscribe(self, body: bytes) -> None:
        topic, _ = _text(body, 2)
        is_denied = bool(self.denied) and self.denied in topic
        self._out += b"\x90\x03" + body[:2] + (b"\x80" if is_denied else b"\x00")
        if is_denied:
            return
        self.subscribed.add(topic)
        self.asked.append(topic)
        if topic in self.retained:
            self._send_message(topic, self.retained[topic], retain=True)

    def _send_message(self, topic: str, payload: bytes, *, retain: bool) -> None:
        given = self.deliver(topic, payload) if self.deliver else payload
        if given is None:
            return
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + given
        self._out += bytes([0x31 if retain else 0x30]) + _encode_length(len(body)) + body


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    return body[at + 2 : end].decode(), end


def _encode_length(length: int) -> bytes:
    out = bytearray()
    while True:
        length, low = divmod(length, 128)
        out.append(low | (0x80 if length else 0))
        if not length:
            return bytes(out)


def _remaining_length(data: bytearray) -> tuple[int, int]:
    value = 0
    for index in range(1, min(len(data), 5)):
        value |= (data[index] & 0x7F) << (7 * (index - 1))
        if not data[index] & 0x80:
            return value, index
    return 0, 0
