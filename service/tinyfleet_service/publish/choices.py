"""What a build would cost to bring to the fleet: per base that devices run, the bytes of every form that was tried."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, select

from tinyfleet_ota.protocol import Codec
from tinyfleet_service.database.models import Build, TransferBlob
from tinyfleet_service.publish.bases import count_bases
from tinyfleet_service.publish.transfers import is_delta, worth_sending


@dataclass(frozen=True)
class Choice:
    """What travels to devices that run `base` (an image digest, "" for none).

    `form` is raw, packed or delta; `choices` has the bytes of each form that was computed for this base, `devices`
    counts those that run it now.
    """

    base: str
    form: str
    bytes: int
    choices: dict[str, int]
    devices: int
    published: bool
    encrypted: bool


def transfer_choices(session: Session, build: Build) -> list[Choice]:
    """Every transfer of the build that was computed, the full image first."""
    rows = session.exec(
        select(TransferBlob).where(TransferBlob.image_sha256 == build.image_sha256).order_by(TransferBlob.base_sha256)
    ).all()
    plain = {row.base_sha256: row for row in rows if not row.encrypted}
    devices = count_bases(session, build) if plain else {}
    return [_choice(base, plain, [row for row in rows if row.base_sha256 == base], devices) for base in plain]


def all_choices(full: TransferBlob | None, blob: TransferBlob) -> dict[str, int]:
    """Bytes by form: what was tried without a base and from this one."""
    return {**(full.choices if full else {}), **blob.choices}


def _choice(base: str, plain: dict[str, TransferBlob], rows: list[TransferBlob], devices: dict[str, int]) -> Choice:
    full, blob = plain.get(""), plain[base]
    chosen = worth_sending(full, blob) if full and full is not blob else blob
    return Choice(
        base=base,
        form=form_of(chosen),
        bytes=chosen.blob_bytes,
        choices=all_choices(full, blob),
        devices=devices.get(base[:32], 0),
        published=any(row.published_at is not None for row in rows),
        encrypted=any(row.encrypted for row in rows),
    )


def form_of(blob: TransferBlob) -> str:
    """raw, packed or delta."""
    return "delta" if is_delta(blob) else "packed" if blob.codec == Codec.DELTA else "raw"
