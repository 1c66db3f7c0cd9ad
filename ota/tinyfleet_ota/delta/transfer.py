"""How an image travels: raw, or as a patch when that is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tinyfleet_ota.delta.codec import apply_delta, make_delta
from tinyfleet_ota.delta.header import IMAGE_BYTES_MAX
from tinyfleet_ota.errors import DeltaError
from tinyfleet_ota.protocol import Codec


@dataclass(frozen=True)
class Transfer:
    """What travels. `choices` says how many bytes each codec tried would take: {"raw": n, "delta" or "packed": n}."""

    codec: Codec
    data: bytes
    choices: dict[str, int] = field(default_factory=dict)


def choose_transfer(
    new: bytes,
    base: bytes | None = None,
    base_sections: Sequence[dict[str, Any]] = (),
    new_sections: Sequence[dict[str, Any]] = (),
    *,
    pack: bool = False,
) -> Transfer:
    """The smaller of `new` as it is and a patch from `base`; sections as in `make_delta`.

    With `pack` an image without a base travels as a patch from nothing when that is smaller: codec DELTA, and an
    assignment without base digest. Images above 16 MiB travel raw. Any patch is applied once here before it may leave.
    Raises DeltaError.
    """
    raw = Transfer(Codec.RAW, new, {"raw": len(new)})
    if (not base and not pack) or max(len(base or b""), len(new)) > IMAGE_BYTES_MAX:
        return raw
    base = base or b""
    patch = make_delta(base, new, base_sections if base else (), new_sections)
    choices = {"raw": len(new), "delta" if base else "packed": len(patch)}
    if len(patch) >= len(new):
        return Transfer(Codec.RAW, new, choices)
    if apply_delta(base, patch) != new:
        raise DeltaError("the patch does not give the new image: report this, and send the full image")
    return Transfer(Codec.DELTA, patch, choices)
