"""Telemetry messages of a whole batch decoded at once: columns instead of an object per counter.

Messages as our agents write them (`telemetry` in `protocol.cddl`, every key once, nothing unknown) are walked in lock
step: one numpy call moves all of them a CBOR head further. Whatever deviates goes through the strict reader one by
one, which tells nonsense from a newer agent. Both give the same `Report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyfleet_ota.protocol import MESSAGES, PROTOCOL_VERSION, SlotState
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.telemetry.counters import HISTOGRAMS, MAX_BUCKET, MAX_COUNT, PAIRS
from tinyfleet_service.telemetry.entries import (
    HISTOGRAM_BASE,
    ID_BYTES,
    PAIRS_BASE,
    PLACE_SHIFT,
    ROLE,
    SCALARS,
    STACK,
    Array,
    pack,
    pack_counters,
)
from tinyfleet_service.telemetry.reports import BIGGEST_BOOT, MAX_IMAGES, read_reports

BATCH_MAX = 1 << 14
_TOKENS_MAX = 1200
_END = 0xFF
_PAD = 40
_ID_HEAD = 0x40 | ID_BYTES
_MAP, _ARRAY = 5, 4
_MAJOR = 1 << 50
_IMAGE_KEYS = [(field.key, field.name) for field in MESSAGES["image_counters"]]
_HEADER = 5  # required fields of `telemetry`: protocol, boot, report, uptime_s, images
_STACK_KEY, _RESETS_KEY = 5, 6


class Report(NamedTuple):
    """One message: `images` are the ids one after the other, `entries` as in `entries.py`."""

    boot: int
    number: int
    images: bytes
    entries: bytes


def decode_batch(payloads: Sequence[bytes]) -> list[Report | str]:
    """A `Report` per payload, or the reason why it is refused. At most `BATCH_MAX` at once."""
    quick = _Walk(payloads).reports() if payloads else []
    return [_strict(payload) if found is None else found for payload, found in zip(payloads, quick, strict=True)]


def _strict(payload: bytes) -> Report | str:
    try:
        reports = read_reports("", payload)
    except InvalidInputError as error:
        return str(error)
    images = b"".join(bytes.fromhex(report.image) for report in reports)
    entries = pack_counters([(report.role, report.counters) for report in reports])
    return Report(reports[0].boot, reports[0].number, images, entries) if reports else Report(0, 0, b"", b"")


def _head_lengths() -> Array:
    """Bytes of a CBOR item without its children; 0 for what telemetry has no use for."""
    lengths = np.zeros(256, np.int64)
    for major in (0, _ARRAY, _MAP):
        lengths[major << 5 : (major << 5) + 24] = 1
    lengths[24:28] = (2, 3, 5, 9)
    lengths[_ARRAY << 5 | 24] = 2
    lengths[_ID_HEAD] = 1 + ID_BYTES
    return lengths


_LENGTHS = _head_lengths()


class _Walk:
    """The lock-step reader: `_ok` (N,) bool says which messages are still on the known way.

    The heads of all messages lie in a table (T, N), flat; a token is its argument plus `_MAJOR` times its major type,
    so that a plain number is itself. `_rows` are the messages being read, `_at` their next token, `_bad` who strayed.
    """

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._count = len(payloads)
        self._bytes = np.frombuffer(bytes([_END]).join([*payloads, bytes([_END] * _PAD)]), np.uint8)
        sizes = np.array([len(payload) for payload in payloads], np.int64)
        self._ends = np.cumsum(sizes + 1) - 1
        self._offsets = self._find_heads(self._ends - sizes)
        self._heads = self._bytes[self._offsets]
        self._ok = sizes > 0
        self._tokens = self._read_tokens()
        self._last = len(self._tokens) - self._count  # where the last row of the table begins
        self._select(np.arange(self._count))
        self._kept: list[tuple[Array, Array, Array]] = []

    def reports(self) -> list[Report | None]:
        """None where the strict reader must look."""
        boots, numbers, places = self._read_header()
        ids = np.zeros((self._count, int(places.max(initial=1)), ID_BYTES), np.uint8)
        cursor = self._at
        for place in range(ids.shape[1]):
            self._select(np.flatnonzero(places > place), cursor)
            self._read_image(place, ids)
            cursor[self._rows] = self._at
        self._select(np.arange(self._count), cursor)
        self._read_tail(places)
        self._refuse_twins(ids, places)
        rows, slots, values = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        entries, bounds = pack(rows, slots, values, self._count)
        return self._cut(boots, numbers, ids.reshape(self._count, -1), places * ID_BYTES, entries, bounds)

    def _cut(
        self, boots: Array, numbers: Array, ids: Array, widths: Array, entries: Array, bounds: Array
    ) -> list[Report | None]:
        names, stride, data = ids.tobytes(), ids.shape[1], entries.tobytes()
        edges = (bounds * entries.itemsize).tolist()
        columns = zip(self._ok.tolist(), boots.tolist(), numbers.tolist(), widths.tolist(), strict=True)
        return [
            Report(boot, number, names[i * stride : i * stride + width], data[edges[i] : edges[i + 1]]) if ok else None
            for i, (ok, boot, number, width) in enumerate(columns)
        ]

    def _find_heads(self, at: Array) -> Array:
        """Offsets (T * N,) of every head; a message that has ended stays at its end mark."""
        steps, limit = [at], len(self._bytes) - _PAD
        for _ in range(_TOKENS_MAX):
            moved = at + _LENGTHS.take(self._bytes.take(at))
            np.minimum(moved, limit, out=moved)
            if np.array_equal(moved, at):
                break
            steps.append(at := moved)
        return np.concatenate([*steps, at])

    def _read_tokens(self) -> Array:
        """Every head as a token; one longer than it need be makes its message stray."""
        info = self._heads & 31
        tokens = info + _MAJOR * (self._heads >> 5).astype(np.int64)
        for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
            found = np.flatnonzero((info == code) & (self._heads != _END))
            first = self._offsets[found] + 1
            value = np.zeros(len(found), np.int64)
            for offset in range(width):
                value = value << 8 | self._bytes[first + offset]
            strays = (value < (24 if width == 1 else 1 << (4 * width))) | (value >= MAX_COUNT)  # an eighth byte: < 0
            self._ok[found[strays] % self._count] = False
            tokens[found] += value - code
        return tokens

    def _select(self, rows: Array, cursor: Array | None = None) -> None:
        self._rows, self._bad = rows, np.zeros(len(rows), bool)
        self._at = rows.copy() if cursor is None else cursor[rows]

    def _settle(self) -> None:
        self._ok[self._rows[self._bad]] = False

    def _next(self) -> Array:
        token = self._tokens.take(self._at)
        self._at += self._count
        np.minimum(self._at, self._last + self._rows, out=self._at)
        return token

    def _number(self) -> Array:
        token = self._next()
        self._bad |= token >= _MAJOR
        return token

    def _size(self, major: int) -> Array:
        token = self._next() - major * _MAJOR
        self._bad |= (token < 0) | (token >= _MAJOR)
        return token

    def _key(self, key: int) -> None:
        self._bad |= self._next() != key

    def _read_header(self) -> tuple[Array, Array, Array]:
        self._fields = self._size(_MAP)
        self._key(0)
        self._key(PROTOCOL_VERSION)  # the value
        values = []
        for key in (1, 2, 3):
            self._key(key)
            values.append(self._number())
        self._key(4)
        places = self._size(_ARRAY)
        self._bad |= (values[0] > BIGGEST_BOOT) | (places <= 0) | (places > MAX_IMAGES)
        self._bad |= (self._fields < _HEADER) | (self._fields > _HEADER + 2)
        self._settle()
        return values[0], values[1], np.where(self._ok, places, 0)

    def _read_image(self, place: int, ids: Array) -> None:
        self._bad |= self._size(_MAP) != len(_IMAGE_KEYS)
        for key, name in _IMAGE_KEYS:
            self._key(key)
            if name == "image":
                self._read_id(place, ids)
            elif name in HISTOGRAMS:
                self._read_histogram(place, HISTOGRAM_BASE[name])
            elif name == "shadow_pairs":
                self._bad |= self._size(_ARRAY) != PAIRS
                for n in range(PAIRS):
                    self._keep(self._rows, place, PAIRS_BASE + n, self._number())
            else:
                value = self._number()
                if name == "role":
                    self._bad |= value > max(SlotState)
                self._keep(self._rows, place, ROLE if name == "role" else SCALARS[name], value)
        self._settle()

    def _read_id(self, place: int, ids: Array) -> None:
        first = self._offsets[self._at] + 1
        self._bad |= self._heads[self._at] != _ID_HEAD
        self._next()
        ids[self._rows, place] = self._bytes[first[:, None] + np.arange(ID_BYTES)]

    def _read_histogram(self, place: int, base: int) -> None:
        counts = self._size(_ARRAY)
        self._bad |= (counts % 2 != 0) | (self._at + counts * self._count > self._last + self._rows)
        counts[self._bad] = 0
        pairs = counts >> 1
        owner = np.repeat(np.arange(len(pairs)), pairs)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        at = self._at[owner] + number * (2 * self._count)
        buckets, values = self._tokens.take(at), self._tokens.take(at + self._count)
        strays = (buckets > MAX_BUCKET) | (values >= _MAJOR)
        strays[1:] |= (number[1:] > 0) & (buckets[1:] <= buckets[:-1])
        self._bad[owner[strays]] = True
        self._keep(self._rows[owner], place, base + buckets, values)
        self._at += counts * self._count

    def _keep(self, rows: Array, place: int, codes: Array | int, values: Array) -> None:
        found = np.flatnonzero(values)
        slots = np.broadcast_to(np.asarray(codes | place << PLACE_SHIFT, np.int32), rows.shape)
        self._kept.append((rows[found].astype(np.int32), slots[found], values[found]))

    def _read_tail(self, places: Array) -> None:
        """Optional fields behind the images, then nothing."""
        for fields in (1, 2):
            for n in range(fields):
                rows = np.flatnonzero(self._fields == _HEADER + fields)
                cursor, bad = self._at, self._bad
                self._select(rows, cursor)
                keys = self._next()
                wanted = (keys == _STACK_KEY) | (keys == _RESETS_KEY) if fields == 1 else keys == _STACK_KEY + n
                self._bad |= ~wanted
                self._read_stack(self._number(), keys == _STACK_KEY, places)
                self._settle()
                cursor[rows] = self._at
                self._rows, self._at, self._bad = np.arange(self._count), cursor, bad
        self._ok &= self._offsets[self._at] == self._ends

    def _read_stack(self, values: Array, stack: Array, places: Array) -> None:
        """The device's one stack counts for each of its images."""
        for place in range(int(places.max(initial=0))):
            owners = stack & (places[self._rows] > place)
            self._keep(self._rows[owners], place, STACK, values[owners])

    def _refuse_twins(self, ids: Array, places: Array) -> None:
        """The same image twice in one message is nonsense."""
        for later in range(1, ids.shape[1]):
            for earlier in range(later):
                same = (ids[:, later] == ids[:, earlier]).all(axis=1)
                self._ok &= ~(same & (places > later))
