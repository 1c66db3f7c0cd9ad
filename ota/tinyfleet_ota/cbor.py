"""Deterministic CBOR (RFC 8949 section 4.2.1): one encoding per value, so equal messages are equal bytes.

The reader checks the bytes themselves before `cbor2` builds values: shortest heads, definite lengths, ascending
distinct map keys, bounded depth, no floats, nothing after the item. What it accepts, `encode` reproduces byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2

from tinyfleet_ota.errors import ProtocolError

DEPTH_MAX = 8
UINT, NINT, BSTR, TSTR, ARRAY, MAP, TAG, SIMPLE = range(8)
_FALSE, _TRUE, _NULL = 20, 21, 22


def encode(value: Any) -> bytes:
    """The deterministic encoding of `value` (integers, bytes, text, lists, maps, tags, booleans, None)."""
    return cbor2.dumps(value, canonical=True)


def head(major: int, argument: int) -> bytes:
    """The shortest head of an item: for messages that are put together from parts encoded before."""
    if argument < 24:
        return bytes((major << 5 | argument,))
    size = 1 if argument < 1 << 8 else 2 if argument < 1 << 16 else 4 if argument < 1 << 32 else 8
    return bytes((major << 5 | 23 + size.bit_length(),)) + argument.to_bytes(size, "big")


def byte_string(data: bytes) -> bytes:
    """`encode` of bytes."""
    return head(BSTR, len(data)) + data


def decode(data: bytes, *, size_max: int, tags: tuple[int, ...] = ()) -> Any:
    """The value of `data`: one deterministic item with no tags but `tags`. Raises ProtocolError."""
    if not isinstance(data, bytes) or not 0 < len(data) <= size_max:
        raise ProtocolError(f"a payload has 1 to {size_max} bytes", got=len(data))
    end = _check_item(data, 0, DEPTH_MAX, tags)
    if end != len(data):
        raise ProtocolError("bytes follow the CBOR item: send exactly one", offset=end)
    try:
        return cbor2.loads(data)
    except (ValueError, TypeError, cbor2.CBORDecodeError) as error:
        raise ProtocolError(f"not CBOR: {error}") from error


def plain(value: Any) -> Any:
    """The same value with lists and dictionaries: inside a tag `cbor2` makes arrays and maps immutable."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def _check_item(data: bytes, offset: int, depth: int, tags: tuple[int, ...]) -> int:
    """Offset behind the item at `offset`."""
    major, argument, after = read_head(data, offset)
    if major in (ARRAY, MAP, TAG) and depth == 0:
        raise ProtocolError(f"nested deeper than {DEPTH_MAX}", offset=offset)
    if major in (BSTR, TSTR):
        return _bounded(data, argument, after) + after
    if major == ARRAY:
        for _ in range(_bounded(data, argument, after)):
            after = _check_item(data, after, depth - 1, tags)
    elif major == MAP:
        after = _check_map(data, _bounded(data, argument, after), after, depth - 1, tags)
    elif major == TAG:
        if argument not in tags:
            raise ProtocolError(f"tag {argument} has no place here", offset=offset)
        after = _check_item(data, after, depth - 1, tags)
    elif major == SIMPLE and argument not in (_FALSE, _TRUE, _NULL):
        raise ProtocolError("floats and simple values but true, false, null have no place here", offset=offset)
    return after


def read_head(data: bytes, offset: int) -> tuple[int, int, int]:
    """Major type, argument and the offset behind the head."""
    if offset >= len(data):
        raise ProtocolError("the payload is cut short: send it whole", offset=offset)
    major, info = data[offset] >> 5, data[offset] & 31
    if info < 24:
        return major, info, offset + 1
    if info > 27 or major == SIMPLE:
        raise ProtocolError("indefinite length, float or reserved head: encode deterministically", offset=offset)
    width = 1 << (info - 24)
    if offset + 1 + width > len(data):
        raise ProtocolError("the payload is cut short: send it whole", offset=offset)
    argument = int.from_bytes(data[offset + 1 : offset + 1 + width], "big")
    if argument < (24 if width == 1 else 1 << (4 * width)):
        raise ProtocolError("a head is longer than it must be: encode deterministically", offset=offset)
    return major, argument, offset + 1 + width


def _bounded(data: bytes, count: int, after: int) -> int:
    """`count`, if that many bytes can follow at all, or items: each takes a byte or more."""
    if count > len(data) - after:
        raise ProtocolError("the payload is cut short: send it whole", offset=after)
    return count


def _check_map(data: bytes, pairs: int, after: int, depth: int, tags: tuple[int, ...]) -> int:
    previous = b""
    for _ in range(pairs):
        start = after
        after = _check_item(data, start, depth, tags)
        key = data[start:after]
        if key <= previous:
            raise ProtocolError("map keys must ascend and be distinct: encode deterministically", offset=start)
        previous = key
        after = _check_item(data, after, depth, tags)
    return after
