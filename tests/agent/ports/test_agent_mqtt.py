"""The MQTT client against packets written by hand: both directions, any portions, hostile brokers."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import cbuild, red_zones
from agent.ports import mqtt_wire as wire

ID = "cortex-m4-k7x2"
CONNECT = wire.packet(0x10, wire.text("MQTT") + bytes([4, 2, 0, 60]) + wire.text(ID))
SRC = cbuild.DEVICE_AGENT / "src"

ffi = red_zones.make_ffi()
ffi.cdef(cbuild.cdef(cbuild.INCLUDE / "fleet_mqtt.h"))


def load() -> Any:
    """The library under test; statuses and event kinds are its attributes."""
    library = cbuild.shared_library("mqtt", [SRC / "mqtt.c", SRC / "mqtt_parse.c"], include=[SRC])
    return red_zones.load(ffi, library)


lib = load()
NEVER = 2**32 - 1


class Client:
    """A client with exactly sized buffers, so that the sanitizer sees one byte too much."""

    def __init__(self, rx_bytes: int = 256, tx_bytes: int = 512, keep_alive_s: int = 60) -> None:
        self.rx, self.tx = ffi.new("uint8_t[]", rx_bytes), ffi.new("uint8_t[]", tx_bytes)
        self.id = ffi.new("char[]", ID.encode())
        self.mqtt = ffi.new("fleet_mqtt_t *")
        self.config = ffi.new(
            "fleet_mqtt_config_t *",
            {
                "client_id": self.id,
                "rx": self.rx,
                "rx_bytes": rx_bytes,
                "tx": self.tx,
                "tx_bytes": tx_bytes,
                "keep_alive_s": keep_alive_s,
                "answer_timeout_ms": 5000,
            },
        )
        self.init_status = lib.fleet_mqtt_init(self.mqtt, self.config)

    def online(self, now: int = 0) -> "Client":
        """Connects: CONNECT out, CONNACK in."""
        lib.fleet_mqtt_begin(self.mqtt, now)
        assert self.flush(now) == CONNECT
        assert [event[0] for event in self.feed(wire.CONNACK_OK, now)] == [lib.FLEET_MQTT_CONNECTED]
        return self

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> tuple[int, int]:
        """(status, packet id)."""
        flags = lib.FLEET_MQTT_QOS1 if qos else 0
        status = lib.fleet_mqtt_publish(self.mqtt, topic.encode(), payload, len(payload), flags)
        return status, self.mqtt.last_id if qos else 0

    def flush(self, now: int = 0, portion: int = 1 << 20) -> bytes:
        """Everything there is to send, taken in portions."""
        sent = b""
        data = ffi.new("uint8_t **")
        while bytes_out := lib.fleet_mqtt_output(self.mqtt, data):
            take = min(portion, bytes_out)
            sent += bytes(ffi.buffer(data[0], take))
            lib.fleet_mqtt_sent(self.mqtt, take, now)
        return sent

    def feed(self, data: bytes, now: int = 0, *, expect: int | None = None) -> list[tuple[Any, ...]]:
        """(kind, topic, payload or size, packet id, code) of each event; stops at a status other than OK."""
        events, used, event = [], ffi.new("uint32_t *"), ffi.new("fleet_mqtt_event_t *")
        held = ffi.new("uint8_t[]", data or b"\0")
        at, status = 0, lib.FLEET_OK
        while status == lib.FLEET_OK:
            status = lib.fleet_mqtt_input(self.mqtt, held + at, len(data) - at, now, used, event)
            at += used[0]
            if event.kind != lib.FLEET_MQTT_NOTHING:
                events.append(_plain(event))
            if at == len(data):
                break
        assert status == (lib.FLEET_OK if expect is None else expect)
        return events


def _plain(event: Any) -> tuple[Any, ...]:
    topic = bytes(ffi.buffer(event.topic, event.topic_bytes)).decode() if event.topic else ""
    payload = bytes(ffi.buffer(event.payload, event.payload_bytes)) if event.payload else event.payload_bytes
    return event.kind, topic, payload, event.packet_id, event.code


@pytest.fixture
def client() -> Iterator[Client]:
    return Client().online()


def test_connect_is_sent_first_and_alone_until_the_broker_accepts() -> None:
    c = Client()
    assert c.publish("a", b"1") == (lib.FLEET_OK, 1)
    lib.fleet_mqtt_begin(c.mqtt, 0)
    assert c.flush(portion=3) == CONNECT
    assert lib.fleet_mqtt_subscribe(c.mqtt, b"x", 0) == lib.FLEET_ERR_MQTT_OFFLINE
    assert not lib.fleet_mqtt_connected(c.mqtt)
    assert [e[0] for e in c.feed(wire.CONNACK_OK)] == [lib.FLEET_MQTT_CONNECTED]
    assert lib.fleet_mqtt_connected(c.mqtt)
    assert c.flush() == wire.publish("a", b"1", 1)


def test_connect_with_longest_id_fits_what_the_macro_promises() -> None:
    buffer, id64 = ffi.new("uint8_t[]", 16 + 64 + 32), ffi.new("char[]", b"d" * 64)
    config = {"client_id": id64, "rx": ffi.new("uint8_t[]", 4), "rx_bytes": 4, "tx": buffer, "tx_bytes": 16 + 64 + 32}
    mqtt = ffi.new("fleet_mqtt_t *")
    assert lib.fleet_mqtt_init(mqtt, ffi.new("fleet_mqtt_config_t *", config)) == lib.FLEET_OK
    assert mqtt.connect_bytes <= 16 + 64
    config["tx_bytes"] -= 1
    assert lib.fleet_mqtt_init(mqtt, ffi.new("fleet_mqtt_config_t *", config)) == lib.FLEET_ERR_SIZE
    config["client_id"] = ffi.new("char[]", b"d" * 65)
    assert lib.fleet_mqtt_init(mqtt, ffi.new("fleet_mqtt_config_t *", config)) == lib.FLEET_ERR_ARGUMENT


def test_subscribe_unsubscribe_and_their_answers(client: Client) -> None:
    assert lib.fleet_mqtt_subscribe(client.mqtt, b"fleet/v1/b/+/1024/#", 1) == lib.FLEET_OK
    first = client.mqtt.last_id
    assert lib.fleet_mqtt_unsubscribe(client.mqtt, b"x/y") == lib.FLEET_OK
    second = client.mqtt.last_id
    assert first != second
    assert wire.split(client.flush()) == [
        wire.Packet(0x80, 2, first.to_bytes(2, "big") + wire.text("fleet/v1/b/+/1024/#") + b"\1"),
        wire.Packet(0xA0, 2, second.to_bytes(2, "big") + wire.text("x/y")),
    ]
    answers = wire.packet(0x90, first.to_bytes(2, "big") + b"\x80") + wire.packet(0xB0, second.to_bytes(2, "big"))
    assert [(e[0], e[3], e[4]) for e in client.feed(answers)] == [
        (lib.FLEET_MQTT_SUBSCRIBED, first, 0x80),
        (lib.FLEET_MQTT_UNSUBSCRIBED, second, 0),
    ]


def test_qos1_stays_until_acknowledged_and_is_sent_again_with_dup(client: Client) -> None:
    ids = [client.publish("t", bytes([n]))[1] for n in range(3)]
    assert client.publish("zero", b"gone", qos=0) == (lib.FLEET_OK, 0)
    assert lib.fleet_mqtt_subscribe(client.mqtt, b"s", 0) == lib.FLEET_OK
    first = wire.publish("t", b"\0", ids[0])
    data = ffi.new("uint8_t **")
    lib.fleet_mqtt_output(client.mqtt, data)
    lib.fleet_mqtt_sent(client.mqtt, len(first) + 2, 0)  # the connection breaks inside the second packet
    assert [e[0] for e in client.feed(wire.puback(ids[0]))] == [lib.FLEET_MQTT_DELIVERED]

    lib.fleet_mqtt_begin(client.mqtt, 100)
    assert client.flush(100) == CONNECT
    client.feed(wire.CONNACK_OK, 100)
    assert client.flush(100) == wire.publish("t", b"\1", ids[1], dup=True) + wire.publish("t", b"\2", ids[2])
    client.feed(wire.puback(ids[2]) + wire.puback(ids[1]))
    assert lib.fleet_mqtt_queued_bytes(client.mqtt) == 0


def test_acknowledgements_of_unknown_or_unsent_packets_change_nothing(client: Client) -> None:
    _, packet_id = client.publish("t", b"x")
    assert client.feed(wire.puback(packet_id) + wire.puback(999)) == []
    assert client.flush() == wire.publish("t", b"x", packet_id)


def test_end_is_offline_and_keeps_what_is_not_acknowledged(client: Client) -> None:
    _, packet_id = client.publish("t", b"x")
    lib.fleet_mqtt_subscribe(client.mqtt, b"s", 0)
    client.flush()
    lib.fleet_mqtt_end(client.mqtt)
    lib.fleet_mqtt_end(client.mqtt)
    assert not lib.fleet_mqtt_connected(client.mqtt)
    assert lib.fleet_mqtt_subscribe(client.mqtt, b"s", 0) == lib.FLEET_ERR_MQTT_OFFLINE
    assert client.feed(wire.PINGRESP, expect=lib.FLEET_ERR_MQTT_OFFLINE) == []
    assert client.flush() == b""
    assert lib.fleet_mqtt_wait_ms(client.mqtt, 0) == NEVER
    client.online()
    assert client.flush() == wire.publish("t", b"x", packet_id, dup=True)


def test_two_failed_connects_keep_the_queue() -> None:
    c = Client()
    _, packet_id = c.publish("t", b"x")
    for _ in range(2):
        lib.fleet_mqtt_begin(c.mqtt, 0)
        data = ffi.new("uint8_t **")
        lib.fleet_mqtt_output(c.mqtt, data)
        lib.fleet_mqtt_sent(c.mqtt, 5, 0)
    c.online()
    assert c.flush() == wire.publish("t", b"x", packet_id)


def test_full_queue_says_so_and_keeps_room_for_acknowledgements(client: Client) -> None:
    while client.publish("t", b"x" * 20)[0] == lib.FLEET_OK:
        pass
    assert client.publish("t", b"x" * 20)[0] == lib.FLEET_ERR_MQTT_FULL
    free = 512 - len(CONNECT) - lib.fleet_mqtt_queued_bytes(client.mqtt)
    assert free >= 32
    message = wire.publish("in", b"y", 7)
    assert [e[2] for e in client.feed(message * (free // 4))] == [b"y"] * (free // 4)
    assert client.feed(message, expect=lib.FLEET_ERR_MQTT_FULL) == []
    client.flush()
    assert [e[2] for e in client.feed(b"")] == [b"y"]
    assert wire.split(client.flush())[-1] == wire.Packet(0x40, 0, b"\0\7")


def test_oversize_message_is_skipped_acknowledged_and_the_stream_goes_on(client: Client) -> None:
    big = wire.publish("fleet/v1/big", b"z" * 5000, 9)
    events = client.feed(big + wire.publish("next", b"1"))
    assert [(e[0], e[1]) for e in events] == [
        (lib.FLEET_MQTT_OVERSIZE, "fleet/v1/big"),
        (lib.FLEET_MQTT_MESSAGE, "next"),
    ]
    assert events[0][2] == 5000
    assert client.flush() == wire.puback(9)


def test_oversize_topic_is_skipped(client: Client) -> None:
    events = client.feed(wire.publish("t" * 300, b"p", 9) + wire.publish("next", b"1"))
    assert [e[0] for e in events] == [lib.FLEET_MQTT_OVERSIZE, lib.FLEET_MQTT_MESSAGE]


def test_message_that_fills_the_buffer_exactly(client: Client) -> None:
    payload = bytes(256 - 2 - 1)
    assert client.feed(wire.publish("t", payload))[0][:3] == (lib.FLEET_MQTT_MESSAGE, "t", payload)
    assert client.feed(wire.publish("t", payload + b"!"))[0][0] == lib.FLEET_MQTT_OVERSIZE
    assert client.feed(wire.publish("gone", b""))[0][:3] == (lib.FLEET_MQTT_MESSAGE, "gone", b"")


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (bytes([0x30, 0xFF, 0xFF, 0xFF, 0xFF]), "MALFORMED"),
        (wire.packet(0x36, wire.text("t") + b"\0\1"), "MALFORMED"),
        (wire.packet(0x34, wire.text("t") + b"\0\1"), "PROTOCOL"),
        (wire.packet(0x30, b""), "MALFORMED"),
        (wire.packet(0x30, b"\0"), "MALFORMED"),
        (wire.packet(0x30, b"\0\x09short"), "MALFORMED"),
        (wire.packet(0x32, wire.text("t") + b"\1"), "MALFORMED"),
        (wire.packet(0x32, wire.text("t") + b"\0\0"), "MALFORMED"),
        (wire.packet(0x30, wire.text("a/#")), "MALFORMED"),
        (wire.packet(0x30, wire.text("a\0b")), "MALFORMED"),
        (wire.packet(0x30, wire.text("")), "MALFORMED"),
        (wire.packet(0x40, b"\1"), "MALFORMED"),
        (wire.packet(0x90, b"\0\1"), "MALFORMED"),
        (wire.packet(0xD0, b"\0"), "MALFORMED"),
        (wire.packet(0x50, b"\0\1"), "PROTOCOL"),
        (wire.packet(0x10, b""), "PROTOCOL"),
        (wire.packet(0x00, b""), "PROTOCOL"),
        (wire.packet(0xF0, b""), "PROTOCOL"),
        (wire.packet(0x42, b"\0\1"), "PROTOCOL"),
        (wire.CONNACK_OK, "PROTOCOL"),
    ],
)
def test_broken_packets_end_the_connection_for_good(client: Client, broken: bytes, status: str) -> None:
    expected = getattr(lib, f"FLEET_ERR_MQTT_{status}")
    client.feed(wire.publish("t", b"x"))  # what a short packet does not have must not be read from the one before
    assert client.feed(broken, expect=expected) == []
    assert client.feed(wire.publish("t", b"x"), expect=expected) == []
    assert client.flush() == b""
    assert not lib.fleet_mqtt_connected(client.mqtt)
    client.online()


def test_connack_refusal_carries_the_code() -> None:
    c = Client()
    lib.fleet_mqtt_begin(c.mqtt, 0)
    c.flush()
    used, event = ffi.new("uint32_t *"), ffi.new("fleet_mqtt_event_t *")
    assert lib.fleet_mqtt_input(c.mqtt, bytes([0x20, 2, 0, 5]), 4, 0, used, event) == lib.FLEET_ERR_MQTT_REFUSED
    assert event.code == 5


def test_packets_before_connack_are_refused() -> None:
    c = Client()
    lib.fleet_mqtt_begin(c.mqtt, 0)
    assert c.feed(wire.CONNACK_OK, expect=lib.FLEET_ERR_MQTT_PROTOCOL) == []  # CONNECT was not even sent
    lib.fleet_mqtt_begin(c.mqtt, 0)
    c.flush()
    assert c.feed(wire.publish("t", b"x"), expect=lib.FLEET_ERR_MQTT_PROTOCOL) == []


@pytest.mark.parametrize("start", [0, 2**32 - 20_000])
def test_keep_alive_pings_when_idle_and_gives_up_without_answer(start: int) -> None:
    """The second clock wraps in between."""
    client = Client().online(start)

    def poll(elapsed: int) -> int:
        return int(lib.fleet_mqtt_poll(client.mqtt, (start + elapsed) % 2**32))

    def wait(elapsed: int) -> int:
        return int(lib.fleet_mqtt_wait_ms(client.mqtt, (start + elapsed) % 2**32))

    assert wait(0) == 45_000
    assert poll(44_999) == lib.FLEET_OK
    assert client.flush() == b""
    assert poll(45_000) == lib.FLEET_OK
    assert client.flush((start + 45_000) % 2**32) == bytes([0xC0, 0])
    client.feed(wire.PINGRESP, (start + 45_010) % 2**32)
    assert wait(45_010) == 44_990
    assert poll(90_000) == lib.FLEET_OK
    client.flush((start + 90_000) % 2**32)
    assert poll(94_999) == lib.FLEET_OK
    assert poll(95_000) == lib.FLEET_ERR_MQTT_TIMEOUT
    assert wait(95_000) == NEVER


def test_silence_after_connect_and_after_publish_is_a_timeout() -> None:
    c = Client()
    lib.fleet_mqtt_begin(c.mqtt, 1000)
    c.flush(1000)
    assert lib.fleet_mqtt_wait_ms(c.mqtt, 1000) == 5000
    assert lib.fleet_mqtt_poll(c.mqtt, 6000) == lib.FLEET_ERR_MQTT_TIMEOUT
    c.online(7000)
    c.publish("t", b"x")
    c.flush(20_000)
    assert lib.fleet_mqtt_wait_ms(c.mqtt, 20_000) == 5000
    assert lib.fleet_mqtt_poll(c.mqtt, 24_999) == lib.FLEET_OK
    assert lib.fleet_mqtt_poll(c.mqtt, 25_000) == lib.FLEET_ERR_MQTT_TIMEOUT


def test_disconnect_is_the_last_packet(client: Client) -> None:
    _, packet_id = client.publish("t", b"x")
    assert lib.fleet_mqtt_disconnect(client.mqtt) == lib.FLEET_OK
    assert client.flush() == wire.publish("t", b"x", packet_id) + bytes([0xE0, 0])
    assert lib.fleet_mqtt_disconnect(client.mqtt) == lib.FLEET_ERR_MQTT_OFFLINE


@pytest.mark.parametrize("topic", ["", "a/+", "#"])
def test_publish_refuses_illegal_topics(client: Client, topic: str) -> None:
    assert client.publish(topic, b"")[0] == lib.FLEET_ERR_ARGUMENT


def test_packet_ids_skip_zero_and_those_in_use(client: Client) -> None:
    _, kept = client.publish("t", b"x")
    client.mqtt.last_id = 65535
    assert client.publish("t", b"y")[1] == kept + 1
    client.flush()


messages = st.lists(
    st.tuples(st.text("abc/", min_size=1, max_size=30), st.binary(max_size=400), st.integers(0, 65535)), max_size=8
)


@given(messages=messages, portions=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_any_chunking_gives_the_same_events(messages: list[tuple[str, bytes, int]], portions: list[int]) -> None:
    stream = b"".join(wire.publish(topic, payload, packet_id) for topic, payload, packet_id in messages)
    whole, parts = Client(tx_bytes=1024).online(), Client(tx_bytes=1024).online()
    expected, got, at, turn = whole.feed(stream), [], 0, 0
    while at < len(stream):
        size = portions[turn % len(portions)]
        got += parts.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == expected
    assert parts.flush(portion=3) == whole.flush() == b"".join(wire.puback(i) for _, _, i in messages if i)
    assert len(expected) == len(messages)


@given(st.binary(max_size=600))
def test_garbage_never_reads_or_writes_outside(garbage: bytes) -> None:
    c = Client(rx_bytes=16, tx_bytes=100).online()
    c.publish("t", b"x")
    c.flush()
    used, event = ffi.new("uint32_t *"), ffi.new("fleet_mqtt_event_t *")
    held, at = ffi.new("uint8_t[]", garbage or b"\0"), 0
    while at < len(garbage):
        status = lib.fleet_mqtt_input(c.mqtt, held + at, len(garbage) - at, 0, used, event)
        at += used[0]
        if status == lib.FLEET_ERR_MQTT_FULL:
            c.flush()
        elif status != lib.FLEET_OK:
            break
    assert lib.fleet_mqtt_queued_bytes(c.mqtt) <= 100
