"""The head of a patch: 4 bytes, 7 where the image changes its size. SPEC section 6.1."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from tinyfleet_ota.errors import DeltaError

VERSION = 5
START = 0xF0 | VERSION
"""First byte: no text and no message of ours begins with it."""
HEADER = struct.Struct("<BBH")
CHECKED_BYTES = HEADER.size - 2
SIZE_BYTES = 3
"""New bytes less 1, behind the head of a patch whose images are of two sizes: for tools that have no manifest."""
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
    head_bytes: int = HEADER.size

    def pack(self, old: bytes, body_bytes: int) -> bytes:
        """The header's bytes, before so many bytes of blocks, for a patch from `old`."""
        number = (self.spacing // SPACING_UNIT).bit_length()
        sized = self.new_bytes != len(old)
        size = (self.new_bytes - 1).to_bytes(SIZE_BYTES, "little") if sized else b""
        head = bytes([START, 2 * number + sized])
        check = _check(head, old, self.new_bytes, HEADER.size + len(size) + body_bytes)
        return head + check.to_bytes(2, "little") + size

    @classmethod
    def unpack(cls, patch: bytes, old_bytes: int) -> Header:
        """Read the head of `patch`; new bytes are `old_bytes` where it names none. Raises DeltaError."""
        if len(patch) < HEADER.size:
            raise DeltaError("the patch is cut short: fetch it again", got=len(patch))
        start, number, _ = HEADER.unpack_from(patch)
        if start >> 4 != START >> 4 or number // 2 > SPACING_MAX:
            raise DeltaError("not a tinyfleet patch, or damaged: fetch it again")
        if start != START:
            raise DeltaError(f"patch version {start & 15} is unknown: update this decoder", version=start & 15)
        spacing, head_bytes = SPACING_UNIT * (1 << number // 2 >> 1), HEADER.size + number % 2 * SIZE_BYTES
        if len(patch) < head_bytes:
            raise DeltaError("the patch is cut short: fetch it again", got=len(patch))
        told = int.from_bytes(patch[HEADER.size : head_bytes], "little") + 1
        return cls(spacing, told if number % 2 else old_bytes, head_bytes)

    def verify(self, patch: bytes, old: bytes) -> None:
        """Whether `patch`, with this header, is whole in length and made for `old`. Raises DeltaError."""
        check = _check(patch[:CHECKED_BYTES], old, self.new_bytes, len(patch))
        if not self.new_bytes or check != HEADER.unpack_from(patch)[-1]:
            raise DeltaError("the patch was made for another base, or is cut short or damaged: take the full image")


def _check(head: bytes, old: bytes, new_bytes: int, patch_bytes: int) -> int:
    """Low 16 bits of a CRC-32 over what a device knows from its assignment and the head before the check."""
    base_id = hashlib.sha256(old).digest()[:BASE_ID_BYTES] if old else bytes(BASE_ID_BYTES)
    known = struct.pack("<III", len(old), new_bytes, patch_bytes) + base_id
    return zlib.crc32(head, zlib.crc32(known)) & 0xFFFF
