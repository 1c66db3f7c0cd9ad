"""Another authority for an installation: installed while it stands still, finished once no device needs the old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, inspect

from tinyfleet_service.broker import change_authority
from tinyfleet_service.broker.certificates import Authority
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Device, utc_now
from tinyfleet_service.devices import write_revocations
from tinyfleet_service.devices.enrolment import count_issued_before
from tinyfleet_service.errors import StateConflictError
from tinyfleet_service.settings import Settings
from tinyfleet_service.words import quantity


def install_authority(settings: Settings, certificate: bytes, chain: bytes = b"") -> dict[str, Any]:
    """Put the signed certificate of `fleetctl pki csr` in place; `pki_status` afterwards.

    With devices that hold certificates, the authority in use goes on being trusted until `finish_authority`.
    Raises InvalidInputError for a certificate or chain that will not do, StateConflictError.
    """
    path = settings.dirs.pki
    authority = change_authority.check_authority(path, certificate, chain)
    with _engine(settings) as engine:
        keep = (path / "ca.crt").exists() and _holders(engine) > 0
        change_authority.install(path, authority, keep_previous=keep)
        _renew(settings, engine)
    return pki_status(settings)


def finish_authority(settings: Settings, *, leave_behind: bool = False) -> dict[str, Any]:
    """Trust the replaced authority no longer. Raises StateConflictError while devices hold certificates of it."""
    status = pki_status(settings)
    left = status["devices_on_previous"]
    if left and not leave_behind:
        raise StateConflictError(
            f"{quantity(left, 'device')} with a certificate of the previous authority would be out",
            next="wait until they have renewed, or leave them behind with --leave-behind and reset them later",
            devices=left,
        )
    change_authority.finish(settings.dirs.pki)
    with _engine(settings) as engine:
        _renew(settings, engine)
    return pki_status(settings)


def pki_status(settings: Settings) -> dict[str, Any]:
    """The authorities in use, newest first, and how many devices hold a certificate of the one being replaced."""
    pki = Pki.load(settings)
    since = change_authority.replaced_at(settings.dirs.pki)
    waiting = 0
    if since is not None:
        with _engine(settings) as engine, session_scope(engine, read_only=True) as session:
            waiting = count_issued_before(session, since)
    return {
        "authorities": [_described(authority) for authority in pki.authorities],
        "replaced_at": since.isoformat() if since else None,
        "devices_on_previous": waiting,
    }


def _described(authority: Authority) -> dict[str, Any]:
    names = [one.subject.rfc4514_string() for one in authority.chain]
    ends = min(one.not_valid_after_utc for one in authority.chain)
    return {"name": names[0], "below": names[1:], "ends": ends.isoformat()}


def _renew(settings: Settings, engine: Engine) -> None:
    pki = Pki.create(settings)
    if _has_tables(engine):
        write_revocations(engine, pki)


def _holders(engine: Engine) -> int:
    if not _has_tables(engine):
        return 0
    with session_scope(engine, read_only=True) as session:
        return count_issued_before(session, utc_now())


def _has_tables(engine: Engine) -> bool:
    return inspect(engine).has_table(Device.__tablename__)


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings)
    try:
        yield engine
    finally:
        engine.dispose()
