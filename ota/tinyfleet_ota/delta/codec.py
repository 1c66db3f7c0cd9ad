"""Patches: header, then blocks of coded segments, each block decodable on its own. SPEC section 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyfleet_ota.delta.header import IMAGE_BYTES_MAX, SPACING_UNIT, VERSION, Header
from tinyfleet_ota.delta.models import CONTEXTS, WORD, Op
from tinyfleet_ota.delta.pairing import Region, pair_images
from tinyfleet_ota.delta.plan import Tactics, plan_segments
from tinyfleet_ota.delta.range_coder import RangeDecoder, RangeEncoder, without_end
from tinyfleet_ota.delta.refine import refine_segments
from tinyfleet_ota.delta.segments import Expected, Segment, code_body, code_head
from tinyfleet_ota.errors import DeltaError

SPACING_BYTES = 16384
"""Default distance of checkpoints: what a power cut costs at most, against what starting a block anew costs."""
SMALL_BYTES = 4096
"""A patch up to this size needs no checkpoints: fetching all of it again costs no more than a few chunks."""
TACTICS = (Tactics(), Tactics(fresh=False))
SMALL_TACTICS = (*TACTICS, Tactics(fresh=False, channels=False))


def make_delta(
    old: bytes,
    new: bytes,
    old_sections: Sequence[dict[str, Any]] = (),
    new_sections: Sequence[dict[str, Any]] = (),
    *,
    spacing: int | None = None,
) -> bytes:
    """Patch that turns `old` (may be empty) into `new`: the smallest of several plans.

    Sections are hints, plain dictionaries {kind, offset, size, element, rows, row_length, packing}; wrong ones cost
    bytes, never correctness. `spacing` is a power of two from 256 to 16 MiB, 0 for no checkpoints; None lets the
    encoder choose. Raises DeltaError.
    """
    if not 0 < len(new) <= IMAGE_BYTES_MAX or len(old) > IMAGE_BYTES_MAX:
        raise DeltaError(f"images have 1 to {IMAGE_BYTES_MAX} bytes", old=len(old), new=len(new))
    if spacing and (not SPACING_UNIT <= spacing <= IMAGE_BYTES_MAX or spacing & spacing - 1):
        raise DeltaError("checkpoint spacing is a power of two from 256 to 16 MiB, or 0", spacing=spacing)
    regions = pair_images(old, new, old_sections, new_sections)
    distance = SPACING_BYTES if spacing is None else spacing
    patch = _smallest(old, new, regions, distance, TACTICS)
    if len(patch) > SMALL_BYTES:
        return patch
    if spacing is not None:
        return _smallest(old, new, regions, spacing, SMALL_TACTICS)
    return min(patch, _refined(old, new, regions), key=len)


def _smallest(old: bytes, new: bytes, regions: Sequence[Region], spacing: int, tactics: Sequence[Tactics]) -> bytes:
    """The smallest patch that any of the tactics gives."""
    plans = _plans(old, new, regions, spacing, tactics)
    return min((_encode(old, new, plan, spacing) for plan in plans), key=len)


def _refined(old: bytes, new: bytes, regions: Sequence[Region]) -> bytes:
    """One block, of each plan's segments refined; where two plans lead is not known before."""
    plans = _plans(old, new, regions, 0, SMALL_TACTICS)
    return min((_encode(old, new, refine_segments(old, new, plan), 0) for plan in plans), key=len)


def _plans(
    old: bytes, new: bytes, regions: Sequence[Region], spacing: int, tactics: Sequence[Tactics]
) -> list[list[Segment]]:
    plans: list[list[Segment]] = []
    for one in tactics:
        plan = plan_segments(old, new, regions, spacing, one)
        if plan not in plans:
            plans.append(plan)
    return plans


def _encode(old: bytes, new: bytes, segments: Sequence[Segment], spacing: int) -> bytes:
    body = b"".join(_encode_block(old, new, start, block) for start, block in _blocks(segments, len(new), spacing))
    body = without_end(body)
    return Header(spacing, len(new)).pack(old, len(body)) + body


def apply_delta(old: bytes, patch: bytes) -> bytes:
    """The new image: the reference of the agent's C decoder. Raises DeltaError."""
    new, _ = _decode(old, patch)
    return new


def patch_info(patch: bytes, old: bytes | None = None) -> dict[str, Any]:
    """What the head of `patch` says; with its base also bytes and segments per operation. Raises DeltaError.

    `new_bytes` is None when they are as many as the base's and that is not given.
    """
    header = Header.unpack(patch, len(old or b""))
    info: dict[str, Any] = {
        "version": VERSION,
        "new_bytes": header.new_bytes or None,
        "patch_bytes": len(patch),
        "spacing": header.spacing,
    }
    if old is not None:
        _, segments = _decode(old, patch)
        info["segments"] = {
            op.name: {"count": len(lengths), "bytes": sum(lengths)}
            for op in Op
            if (lengths := [segment.length for segment in segments if segment.op == op])
        }
    return info


def _blocks(segments: Sequence[Segment], new_bytes: int, spacing: int) -> list[tuple[int, list[Segment]]]:
    """Segments grouped by block, with the new offset each block starts at."""
    blocks: list[tuple[int, list[Segment]]] = []
    at = 0
    for segment in segments:
        if not blocks or (spacing and at % spacing == 0):
            blocks.append((at, []))
        blocks[-1][1].append(segment)
        at += segment.length
    assert at == new_bytes
    return blocks


def _encode_block(old: bytes, new: bytes, start: int, segments: Sequence[Segment]) -> bytes:
    coder = RangeEncoder(CONTEXTS)
    at, expected = start, Expected(start)
    for segment in segments:
        done = code_head(coder, segment, expected)
        code_body(coder, done, old, new, new[at : at + done.length])
        expected.follow(done)
        at += done.length
    return coder.finish()


def _decode(old: bytes, patch: bytes) -> tuple[bytes, list[Segment]]:
    header = Header.unpack(patch, len(old))
    header.verify(patch, old)
    new, segments, offset = bytearray(), list[Segment](), header.head_bytes
    while len(new) < header.new_bytes:
        end = min(header.new_bytes, len(new) + header.spacing) if header.spacing else header.new_bytes
        coder = RangeDecoder(CONTEXTS, patch, offset)
        _decode_block(coder, old, new, end, header.new_bytes, segments)
        offset = coder.offset
    if offset < len(patch):
        raise DeltaError("bytes follow the last block: make the patch again", offset=offset)
    return bytes(new), segments


def _decode_block(
    coder: RangeDecoder, old: bytes, new: bytearray, end: int, row_bytes: int, segments: list[Segment]
) -> None:
    expected = Expected(len(new))
    while len(new) < end:
        segment = code_head(coder, Segment(Op.COPY, 1), expected)
        _check_segment(segment, len(old), len(new), end)
        segments.append(segment)
        if _row_bytes(segments) > row_bytes:
            raise DeltaError("the patch adds up more rows than there are: make it again")
        new += code_body(coder, segment, old, new, bytes(segment.length))
        expected.follow(segment)


def _check_segment(segment: Segment, old_bytes: int, done: int, end: int) -> None:
    inside = segment.op == Op.LITERAL or 0 <= segment.old_offset <= old_bytes - segment.length
    if segment.op == Op.ROWSUM32:
        inside = inside and segment.rows.fits(segment.length // WORD, old_bytes, done)
    if segment.length > end - done or not inside:
        raise DeltaError("a segment leaves its image: make the patch again", segment=segment)


def _row_bytes(segments: Sequence[Segment]) -> int:
    return sum(one.rows.length * (one.length // WORD) for one in segments if one.op == Op.ROWSUM32)
