"""Looks an installation over, from its own machine: each finding says what is so, and what to do about it.

Nothing is changed. A check that cannot be made because another thing is broken says so instead of failing the rest.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tinyfleet_ota import topics
from tinyfleet_service import broker
from tinyfleet_service.broker.external_ca import read_lists
from tinyfleet_service.broker.pki import CLIENTS, TRUSTED, Pki
from tinyfleet_service.database.engine import database_now, make_engine, session_scope
from tinyfleet_service.database.migrate import revisions
from tinyfleet_service.database.models import Build, Device, DeviceState, Lease, Outbox, Project, utc_now
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.errors import DatabaseUnavailableError, FleetError
from tinyfleet_service.maintenance.authority import pki_status
from tinyfleet_service.mqtt import MqttClient
from tinyfleet_service.publish import CONTROLLER_LEASE, load_director, read_retained
from tinyfleet_service.publish.outbox import expected_sentinel
from tinyfleet_service.publish.sentinel import Sentinel
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from tinyfleet_service.words import quantity

CONNECT_S = 5.0
CLOCK_S = 5.0
EXPIRES_SOON = timedelta(days=30)
LIST_ENDS_SOON = timedelta(days=2)
OLD_MESSAGE = timedelta(minutes=5)
LOW_BYTES, LOW_SHARE = 1 << 30, 0.05
FULL_BYTES = 4 << 20
BLOBS_READ = 20
MIGRATE = "`fleetctl serve` migrates at its start, `fleetctl migrate` without it; back up first"
_RENEWALS = {
    "ca.crt": "put another authority in its place: `fleetctl pki csr`, `fleetctl pki install`",
    "ca-chain.crt": "an authority above ours ends: `fleetctl pki csr`, `fleetctl pki install`",
    "device-ca.crt": "have TINYFLEET_DEVICE_CA name its successor beside it in `chain`, then restart",
    "claim-ca.crt": "claims end with it: move claim-ca.* out of `pki`, start again, make new claims",
}
"""What to do where a new start does not make another certificate."""


class Verdict(StrEnum):
    """WARN will become a problem, FAIL is one."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One look at one thing."""

    check: str
    verdict: Verdict
    found: str
    next: str = ""


Check = Callable[[], Iterator[Finding]]
ASK_DATABASE = {"telemetry", "clock", "device certificates", "retained messages", "leases", "outbox", "blobs", "freeze"}


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which things depend on each other."""
    if settings.url.startswith("sqlite") and not settings.dirs.path.exists():
        return list(_data(settings))  # of nothing there is nothing to restore
    engine = make_engine(settings)
    checks: tuple[tuple[str, Check], ...] = (
        ("data directory", lambda: _data(settings)),
        ("disk space", lambda: _disk(settings)),
        ("database", lambda: _database(engine)),
        ("telemetry", lambda: _telemetry(settings)),
        ("clock", lambda: _clock(engine)),
        ("director key", lambda: _director(settings)),
        ("certificates", lambda: _certificates(settings)),
        ("authority", lambda: _authority(settings)),
        ("device authority", lambda: _device_authority(settings)),
        ("device certificates", lambda: _device_certificates(engine)),
        ("broker", lambda: _broker(settings)),
        ("retained messages", lambda: _retained(settings, engine)),
        ("leases", lambda: _leases(engine)),
        ("outbox", lambda: _outbox(engine)),
        ("blobs", lambda: _blobs(settings, engine)),
        ("freeze", lambda: _freeze(engine)),
    )
    try:
        return _made(checks)
    finally:
        engine.dispose()


def _made(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks:
        dead = any(found.check == "database" and found.verdict == Verdict.FAIL for found in findings)
        if dead and name in ASK_DATABASE:
            findings.append(Finding(name, Verdict.WARN, "not looked at", "see `database` first"))
        else:
            findings += _guarded(name, check)
    return findings


def _guarded(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except FleetError as error:
        yield Finding(name, Verdict.FAIL, error.message, error.next)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        yield Finding(name, Verdict.FAIL, text, "let this user read and write it, or restore it from a backup")


def _data(settings: Settings) -> Iterator[Finding]:
    dirs = settings.dirs
    if not dirs.database.exists() and settings.url.startswith("sqlite"):
        yield Finding("data directory", Verdict.FAIL, f"{dirs.path} holds no service", "name it with --data")
        return
    missing = [path for path in (dirs.keys, dirs.pki) if not path.is_dir()]
    for path in missing:
        advice = f"restore {path.name} from a backup; `fleetctl serve` would make another, that no device knows"
        yield Finding("data directory", Verdict.FAIL, f"{path} is missing", advice)
    open_to_others = [p for p in (dirs.keys, dirs.pki) if p.is_dir() and stat.S_IMODE(p.stat().st_mode) & 0o077]
    for path in open_to_others:
        yield Finding("data directory", Verdict.FAIL, f"others can read {path}", f"chmod 700 {path}")
    if not missing and not open_to_others:
        yield Finding("data directory", Verdict.OK, f"{dirs.path}, secrets readable by their owner only")


def _disk(settings: Settings) -> Iterator[Finding]:
    usage = shutil.disk_usage(settings.dirs.path)
    text = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f}"
    low = usage.free < LOW_BYTES or usage.free < LOW_SHARE * usage.total
    advice = "free space or move the data directory; a full disk stops writes, it loses nothing" if low else ""
    verdict = Verdict.FAIL if usage.free < FULL_BYTES else Verdict.WARN if low else Verdict.OK
    yield Finding("disk space", verdict, text, advice)


def _database(engine: Engine) -> Iterator[Finding]:
    try:
        has, newest = revisions(engine)
    except DatabaseUnavailableError as error:
        yield Finding("database", Verdict.FAIL, error.message, _revive(engine))
        return
    if has == newest:
        yield Finding("database", Verdict.OK, f"answers, schema {has}")
        return
    yield Finding("database", Verdict.FAIL, f"schema {has or 'none'}, this tinyfleet needs {newest}", MIGRATE)


def _revive(engine: Engine) -> str:
    url = engine.url
    if engine.dialect.name == "sqlite":
        return f"let this user read and write {url.database}, or `fleetctl restore` the newest backup elsewhere"
    return f"start PostgreSQL at {url.host}:{url.port or 5432}, or correct TINYFLEET_DATABASE_URL"


def _telemetry(settings: Settings) -> Iterator[Finding]:
    with closing(TelemetryStore(settings)) as store:
        has, needed = store.schemas()
    if has == needed:
        yield Finding("telemetry", Verdict.OK, f"answers, schema {has}")
    else:
        yield Finding("telemetry", Verdict.FAIL, f"schema {has or 'none'}, this tinyfleet needs {needed}", MIGRATE)


def _clock(engine: Engine) -> Iterator[Finding]:
    with session_scope(engine, read_only=True) as session:
        apart_s = abs((database_now(session) - utc_now()).total_seconds())
    if apart_s <= CLOCK_S:
        yield Finding("clock", Verdict.OK, f"{utc_now():%Y-%m-%d %H:%M:%S} UTC, as the database's")
        return
    advice = "run NTP on both machines: certificates, tokens and leases depend on time"
    yield Finding("clock", Verdict.FAIL, f"{apart_s:.0f} s apart from the database's", advice)


def _director(settings: Settings) -> Iterator[Finding]:
    keys = load_director(settings)
    text = f"readable, root {len(keys.roots)} names it, epoch {keys.director_epoch}"
    yield Finding("director key", Verdict.OK, text)


def _certificates(settings: Settings) -> Iterator[Finding]:
    Pki.load(settings)
    paths = sorted(path for path in settings.dirs.pki.glob("*.crt") if path.name not in (TRUSTED, CLIENTS))
    now = datetime.now(UTC)
    found = {path: x509.load_pem_x509_certificates(path.read_bytes()) for path in paths}
    starts = {path: max(one.not_valid_before_utc for one in found[path]) for path in paths}
    ends = {path: min(one.not_valid_after_utc for one in found[path]) for path in paths}
    early = [path for path in paths if starts[path] > now]
    for path in early:
        text = f"{path.name} is valid from {starts[path]:%Y-%m-%d %H:%M} UTC on only: the clock was set back since"
        yield Finding("certificates", Verdict.FAIL, text, _RENEWALS.get(path.name, "restart `fleetctl serve`"))
    soon = [path for path in paths if ends[path] < now + EXPIRES_SOON]
    for path in soon:
        over = ends[path] < now
        advice = _RENEWALS.get(path.name, "restart `fleetctl serve`")
        verdict = Verdict.FAIL if over else Verdict.WARN
        yield Finding("certificates", verdict, f"{path.name} ends {ends[path]:%Y-%m-%d}", advice)
    if not soon and not early:
        yield Finding("certificates", Verdict.OK, f"{len(paths)}, the first ends {min(ends.values()):%Y-%m-%d}")


def _authority(settings: Settings) -> Iterator[Finding]:
    found = pki_status(settings)
    newest, left = found["authorities"][0], found["devices_on_previous"]
    names = " below ".join([newest["name"], *newest["below"]])
    if found["replaced_at"] is None:
        yield Finding("authority", Verdict.OK, names)
        return
    advice = "it is trusted until `fleetctl pki finish`, once all have renewed and know the new root"
    text = f"{names}; {quantity(left, 'device')} with a certificate of {found['authorities'][1]['name']}"
    yield Finding("authority", Verdict.WARN, text, advice)


def _device_authority(settings: Settings) -> Iterator[Finding]:
    authority = Pki.load(settings).external
    if authority is None:
        return
    chain, lists = authority.ask()
    ends = min(one.next_update_utc or utc_now() for one in read_lists(lists))
    names = ", ".join(one.subject.rfc4514_string() for one in chain)
    text = f"{names}; revocation list good until {ends:%Y-%m-%d %H:%M} UTC"
    soon = ends < utc_now() + LIST_ENDS_SOON
    advice = "a list that is over locks every device out: have it last for weeks and made anew daily" if soon else ""
    yield Finding("device authority", Verdict.WARN if soon else Verdict.OK, text, advice)


def _device_certificates(engine: Engine) -> Iterator[Finding]:
    now = utc_now()
    with session_scope(engine, read_only=True) as session:
        enrolled = select(func.count()).select_from(Device).where(Device.state == DeviceState.ENROLLED)
        over = session.exec(enrolled.where(col(Device.certificate_not_after) < now)).one()
        total = session.exec(enrolled).one()
    advice = "those that cannot renew: `fleetctl device reset ID`, then they enrol again with a claim" if over else ""
    verdict = Verdict.WARN if over else Verdict.OK
    text = f"{over} of {quantity(total, 'enrolled device')} with an expired one"
    yield Finding("device certificates", verdict, text, advice)


def _broker(settings: Settings) -> Iterator[Finding]:
    """A handshake with the name devices use, and no MQTT: the one who has the certificate's name stays connected."""
    files = Pki.load(settings).service("svc-tool")
    for path in (files.certificate, files.key):
        if not path.exists():
            yield Finding("broker", Verdict.FAIL, f"{path} is missing", "restart `fleetctl serve`: it makes it anew")
            return
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.certificate, files.key)
    address = (broker.address(settings), settings.broker_port)
    try:
        with (
            socket.create_connection(address, CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=settings.public_host) as secure,
        ):
            yield Finding("broker", Verdict.OK, f"answers at port {address[1]} with {secure.version()}")
    except ssl.SSLError as error:
        advice = "its certificate must be of this authority and name TINYFLEET_PUBLIC_HOST"
        yield Finding("broker", Verdict.FAIL, f"TLS with {address[0]}:{address[1]} fails: {error}", advice)
    except OSError as error:
        advice = "start `fleetctl serve`, or see log/broker.log"
        yield Finding("broker", Verdict.FAIL, f"{address[0]}:{address[1]}: {error.strerror or error}", advice)


def _retained(settings: Settings, engine: Engine) -> Iterator[Finding]:
    with session_scope(engine, read_only=True) as session:
        expected = expected_sentinel(session)
    if expected is None:
        yield Finding("retained messages", Verdict.OK, "nothing was published yet")
        return
    files = Pki.load(settings).service("svc-tool")
    client = MqttClient(
        broker.address(settings), settings.broker_port, ca=files.ca, certificate=files.certificate, key=files.key,
        client_id="svc-tool",
    ).connect(CONNECT_S)  # fmt: skip
    try:
        held = read_retained(client, topics.sentinel())
    finally:
        client.close()
    mark = Sentinel.decode(held) if held is not None else None
    if mark == expected:
        yield Finding("retained messages", Verdict.OK, f"the broker holds all up to message {expected.number}")
        return
    text = f"the broker holds {f'message {mark.number}' if mark else 'no mark'}, expected {expected.number}"
    advice = "the controller publishes again by itself within a minute; if not, see its lease and log/controller.log"
    yield Finding("retained messages", Verdict.WARN, text, advice)


def _leases(engine: Engine) -> Iterator[Finding]:
    with session_scope(engine, read_only=True) as session:
        for name in (CONTROLLER_LEASE, "webhooks"):
            row, now = session.get(Lease, name), database_now(session)
            if row is not None and row.until > now:
                yield Finding("leases", Verdict.OK, f"{name}: {row.owner}")
            else:
                advice = f"start `fleetctl serve`, or see why its process {name} ends: log/{name}.log"
                yield Finding("leases", Verdict.FAIL, f"{name}: nobody holds it", advice)


def _outbox(engine: Engine) -> Iterator[Finding]:
    with session_scope(engine, read_only=True) as session:
        old = select(func.count()).select_from(Outbox).where(col(Outbox.published_at).is_(None))
        waiting = session.exec(old.where(col(Outbox.created_at) < utc_now() - OLD_MESSAGE)).one()
    advice = "the controller cannot reach the broker, or is not running" if waiting else ""
    verdict = Verdict.FAIL if waiting else Verdict.OK
    yield Finding("outbox", verdict, f"{quantity(waiting, 'message')} waiting for more than five minutes", advice)


def _blobs(settings: Settings, engine: Engine) -> Iterator[Finding]:
    store = open_blobs(settings)
    with session_scope(engine, read_only=True) as session:
        digests = _image_digests(session)
    store.exists("0" * 64)  # raises StorageError where the bucket does not answer, also when nothing is stored
    missing = [digest for digest in digests if not store.exists(digest)]
    for digest in digests[-BLOBS_READ:]:
        if digest not in missing:
            store.get(digest)  # raises CorruptError, which says what to do
    if missing:
        advice = "restore the blobs folder from a backup"
        yield Finding("blobs", Verdict.FAIL, f"{len(missing)} of {quantity(len(digests), 'image')} missing", advice)
    else:
        yield Finding("blobs", Verdict.OK, f"{quantity(len(digests), 'image')}, the newest {BLOBS_READ} read and whole")


def _image_digests(session: Session) -> list[str]:
    query = select(Build.image_sha256).where(col(Build.image_sha256).is_not(None)).order_by(col(Build.id))
    return list(dict.fromkeys(digest for digest in session.exec(query) if digest))


def _freeze(engine: Engine) -> Iterator[Finding]:
    with session_scope(engine, read_only=True) as session:
        for project in session.exec(select(Project).where(col(Project.frozen_at).is_not(None))):
            text = f"project {project.name} is frozen by {project.frozen_by}"
            yield Finding("freeze", Verdict.WARN, text, "`fleetctl thaw` ends it")
