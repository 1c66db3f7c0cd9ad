"""The 32-byte head of a patch. SPEC section 6.1."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from tinyfleet_ota.errors import DeltaError

MAGIC = b"tfpd"
VERSION = 3
HEADER = struct.Struct("<4sBBHIII8sI")
SPACING_UNIT = 256
IMAGE_BYTES_MAX = 1 << 24


@dataclass(frozen=True)
class Header:
    """Sizes in bytes; `spacing` is the distance of checkpoints, 0 for none; `base_id` is zeros without a base."""

    spacing: int
    old_bytes: int
    new_bytes: int
    patch_bytes: int
    base_id: bytes

    def pack(self) -> bytes:
        """The header's bytes."""
        units = self.spacing // SPACING_UNIT
        fields = (MAGIC, VERSION, 0, units, self.old_bytes, self.new_bytes, self.patch_bytes, self.base_id)
        head = HEADER.pack(*fields, 0)[:-4]
        return head + zlib.crc32(head).to_bytes(4, "little")

    @classmethod
    def unpack(cls, patch: bytes) -> Header:
        """Read and check the head of `patch`. Raises DeltaError."""
        if len(patch) < HEADER.size:
            raise DeltaError("the patch is cut short: fetch it again", got=len(patch))
        magic, version, flags, units, old, new, size, base_id, crc = HEADER.unpack_from(patch)
        if magic != MAGIC or crc != zlib.crc32(patch[: HEADER.size - 4]):
            raise DeltaError("not a tinyfleet patch, or damaged: fetch it again")
        if version != VERSION or flags:
            raise DeltaError(f"patch version {version} is unknown: update this decoder", version=version)
        if size != len(patch):
            raise DeltaError(f"the patch says {size} bytes but has {len(patch)}: fetch it again", got=len(patch))
        if not 0 < new <= IMAGE_BYTES_MAX or old > IMAGE_BYTES_MAX:
            raise DeltaError(f"images have at most {IMAGE_BYTES_MAX} bytes", old=old, new=new)
        return cls(units * SPACING_UNIT, old, new, size, base_id)


def base_id(old: bytes) -> bytes:
    """First 8 bytes of the base's SHA-256; zeros without a base."""
    return hashlib.sha256(old).digest()[:8] if old else bytes(8)
