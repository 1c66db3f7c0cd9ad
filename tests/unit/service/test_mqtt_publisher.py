"""The bulk connection against a broker by hand: what it sends, and what it does with every kind of answer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_service.database.runs import runs_of
from tinyfleet_service.errors import BrokerUnavailableError
from tinyfleet_service.ingest.connection import _cut
from tinyfleet_service.mqtt import Broker, Publisher
from tinyfleet_service.mqtt.packets import acknowledge_packets
from tinyfleet_service.mqtt.publisher import WINDOW, cut_acknowledgements

CONNACK = b"\x20\x02\x00\x00"
Answer = Callable[[int, list[int]], bytes | None]
"""Of the count of messages so far and the packet ids that came now: what to send, None to hang up."""


class HandBroker:
    """Accepts one connection after the other; keeps what was published, answers as told."""

    def __init__(self, answer: Answer) -> None:
        self.messages: list[tuple[bytes, bytes, int]] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        buffer = connection.recv(1 << 16)
        buffer = buffer[2 + buffer[1] :]
        connection.sendall(CONNACK)
        while data := connection.recv(1 << 16):
            if (buffer + data).endswith(b"\xe0\x00"):
                return
            found, used = _cut(buffer + data)
            buffer = (buffer + data)[used:]
            self.messages += found
            answer = self._answer(len(self.messages), [message.mid for message in found])
            if answer is None:
                return
            connection.sendall(answer)


@contextmanager
def talking_to(answer: Answer) -> Iterator[tuple[HandBroker, Publisher]]:
    broker = HandBroker(answer)
    publisher = Publisher(Broker("127.0.0.1", broker.port, None), "svc-publisher")
    try:
        publisher.wait_connected()
        yield broker, publisher
    finally:
        publisher.close()
        broker.close()


def acknowledge(_count: int, mids: list[int]) -> bytes:
    return acknowledge_packets(mids)


def some(count: int, size: int = 40) -> list[tuple[str, bytes, bool, int]]:
    return [(f"fleet/v1/m/{n}", struct.pack("!I", n) + bytes(size), True, 1) for n in range(count)]


def test_everything_goes_out_in_order_and_is_acknowledged() -> None:
    wanted = some(3 * WINDOW)
    with talking_to(acknowledge) as (broker, publisher):
        assert publisher.publish_all(iter(wanted)) == len(wanted)
        assert publisher.publish_all([("fleet/v1/d/a/command", b"x" * 300, False, 0)]) == 1
        assert publisher.publish_all(some(1)) == 1  # so that what came before has arrived
        assert publisher.connections == 1
    sent = [(message[0].decode(), message[1]) for message in broker.messages]
    assert sent[: len(wanted)] == [message[:2] for message in wanted]
    assert broker.messages[len(wanted)] == (b"fleet/v1/d/a/command", b"x" * 300, 0)
    mids = [message[2] for message in broker.messages[: len(wanted)]]
    assert all(0 < mid <= 0xFFFF for mid in mids)
    assert len(set(mids)) == len(mids)


def test_packet_ids_begin_again_without_one_that_is_still_in_flight() -> None:
    with talking_to(acknowledge) as (broker, publisher):
        for _ in range(2):
            publisher.publish_all(some(0xFFFF // 2 + WINDOW, size=0))
    mids = [message[2] for message in broker.messages]
    assert min(mids) == 1
    assert max(mids) == 0xFFFF
    assert all(len(set(mids[at : at + WINDOW])) == WINDOW for at in range(0, len(mids) - WINDOW, WINDOW))


def test_no_more_than_the_window_is_unacknowledged() -> None:
    waiting: list[int] = []
    highest = 0

    total = WINDOW // 2 * 5

    def late(count: int, mids: list[int]) -> bytes:
        nonlocal highest
        waiting.extend(mids)
        highest = max(highest, len(waiting))
        if len(waiting) < WINDOW // 2 and count < total:
            return b""
        done, waiting[:] = waiting[:], []
        return acknowledge_packets(done)

    with talking_to(late) as (_, publisher):
        publisher.publish_all(some(total))
    assert highest <= WINDOW


def test_what_nobody_acknowledges_is_an_error_and_the_next_call_begins_anew() -> None:
    deaf = True

    def answer(count: int, mids: list[int]) -> bytes:
        return b"" if deaf else acknowledge(count, mids)

    with talking_to(answer) as (_, publisher):
        with pytest.raises(BrokerUnavailableError, match="no acknowledgement"):
            publisher.publish_all(some(3), timeout_s=0.05)
        assert not publisher.connected
        with pytest.raises(BrokerUnavailableError):
            publisher.publish_all(some(3))  # never on another connection than the caller knows of
        deaf = False
        publisher.wait_connected()
        assert publisher.connections == 2
        assert publisher.publish_all(some(3)) == 3


@pytest.mark.parametrize("answer", [None, b"\x30\x00", b"\x40\x04\x00\x01\x00\x02", b"\xff"], ids=repr)
def test_a_broker_that_breaks_off_or_talks_nonsense_is_an_error(answer: bytes | None) -> None:
    with talking_to(lambda *_: answer) as (_, publisher):
        with pytest.raises(BrokerUnavailableError):
            publisher.publish_all(some(3), timeout_s=0.2)
        assert not publisher.connected


def test_a_connection_that_takes_no_more_bytes_is_closed_all_the_same() -> None:
    with talking_to(acknowledge) as (_, publisher):
        kept = publisher._connection()
        kept.shutdown(socket.SHUT_WR)
        publisher.close()
        assert kept.fileno() == -1


def test_what_is_meant_for_one_connection_goes_on_no_later_one() -> None:
    with talking_to(acknowledge) as (broker, publisher):
        assert publisher.publish_on(1, "fleet/v1/sentinel", b"old", retain=True)
        publisher.close()
        assert not publisher.publish_on(1, "fleet/v1/sentinel", b"late", retain=True)
        publisher.wait_connected()
        assert not publisher.publish_on(1, "fleet/v1/sentinel", b"late", retain=True)
        assert publisher.publish_on(2, "fleet/v1/sentinel", b"new", retain=True)
        publisher.publish_all(some(1))
    assert b"late" not in {message[1] for message in broker.messages}
    assert b"new" in {message[1] for message in broker.messages}


def test_a_message_source_that_fails_leaves_the_connection_usable() -> None:
    def source() -> Iterator[tuple[str, bytes, bool, int]]:
        yield from some(100)
        raise ValueError("a blob is gone")

    with talking_to(acknowledge) as (_, publisher):
        with pytest.raises(ValueError, match="gone"):
            publisher.publish_all(source())
        assert publisher.publish_all(some(5)) == 5
        assert publisher.connections == 1


@given(st.lists(st.integers(0, 0xFFFF), max_size=20), st.integers(0, 100))
def test_acknowledgements_are_cut_whatever_the_pieces(mids: list[int], at: int) -> None:
    data = b"\xd0\x00".join(b"\x40\x02" + struct.pack("!H", mid) for mid in mids)
    first, used = cut_acknowledgements(data[:at])
    rest, left = cut_acknowledgements(data[used:])
    assert first + rest == mids
    assert used + left == len(data)


@given(st.sets(st.integers(1, 40)))
def test_runs_name_each_number_once_and_no_other(numbers: set[int]) -> None:
    runs = list(runs_of(sorted(numbers)))
    assert [n for first, last in runs for n in range(first, last + 1)] == sorted(numbers)
    assert all(after[0] > before[1] + 1 for before, after in pairwise(runs))
