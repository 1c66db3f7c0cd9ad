"""The 7-byte head of a patch. SPEC section 6.1."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from tinyfleet_ota.errors import DeltaError

VERSION = 4
START = 0xF0 | VERSION
"""First byte: no text and no message of ours begins with it."""
HEADER = struct.Struct("<BB3sH")
CHECKED_BYTES = HEADER.size - 2
SPACING_UNIT = 256
SPACING_MAX = 17
"""Largest number that stands for a spacing: 2^24 bytes."""
IMAGE_BYTES_MAX = 1 << 24
BASE_ID_BYTES = 8


@dataclass(frozen=True)
class Header:
    """Sizes in bytes; `spacing` is the distance of checkpoints, 0 for none, else a power of two from 256 on."""

    spacing: int
    new_bytes: int

    def pack(self, old: bytes, patch_bytes: int) -> bytes:
        """The header's bytes, for a patch of so many bytes, these included, from `old`."""
        number = (self.spacing // SPACING_UNIT).bit_length()
        fields = (START, number, (self.new_bytes - 1).to_bytes(3, "little"))
        head = HEADER.pack(*fields, 0)[:CHECKED_BYTES]
        return head + _check(head, old, self.new_bytes, patch_bytes).to_bytes(2, "little")

    @classmethod
    def unpack(cls, patch: bytes) -> Header:
        """Read the head of `patch`. Raises DeltaError."""
        if len(patch) < HEADER.size:
            raise DeltaError("the patch is cut short: fetch it again", got=len(patch))
        start, number, last, _ = HEADER.unpack_from(patch)
        if start >> 4 != START >> 4 or number > SPACING_MAX:
            raise DeltaError("not a tinyfleet patch, or damaged: fetch it again")
        if start != START:
            raise DeltaError(f"patch version {start & 15} is unknown: update this decoder", version=start & 15)
        return cls(SPACING_UNIT * (1 << number >> 1), int.from_bytes(last, "little") + 1)

    def verify(self, patch: bytes, old: bytes) -> None:
        """Whether `patch`, with this header, is whole in length and made for `old`. Raises DeltaError."""
        check = _check(patch[:CHECKED_BYTES], old, self.new_bytes, len(patch))
        if check != HEADER.unpack_from(patch)[-1]:
            raise DeltaError("the patch was made for another base, or is cut short or damaged: take the full image")


def _check(head: bytes, old: bytes, new_bytes: int, patch_bytes: int) -> int:
    """Low 16 bits of a CRC-32 over what a device knows from its assignment and the head before the check."""
    base_id = hashlib.sha256(old).digest()[:BASE_ID_BYTES] if old else bytes(BASE_ID_BYTES)
    known = struct.pack("<III", len(old), new_bytes, patch_bytes) + base_id
    return zlib.crc32(head, zlib.crc32(known)) & 0xFFFF
