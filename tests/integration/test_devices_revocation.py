"""Revocation and reset against a real broker: live connections end, and the certificate opens nothing any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Engine, text
from sqlmodel import Session

from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import client, connected, eventually, make_settings, running_broker, store
from postgres import postgres_database, shared_server
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki, TlsFiles
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate, Device, DeviceState
from tinyfleet_service.devices import (
    apply_state,
    create_claim,
    enforce_revocations,
    enroll,
    reset_device,
    revocation,
    revoke_device,
)
from tinyfleet_service.devices.enrolment import issued_serials, renew
from tinyfleet_service.devices.revocation import mark_revoked, revoked_serials
from tinyfleet_service.errors import BrokerUnavailableError, ForbiddenError, NotFoundError, StateConflictError
from tinyfleet_service.settings import Settings
from unit.service.fleet_state_builders import state

server = pytest.fixture(shared_server, scope="module")


@dataclass
class House:
    settings: Settings
    engine: Engine
    pki: Pki
    folder: Path

    def enrol(self) -> tuple[str, TlsFiles, ec.EllipticCurvePrivateKey]:
        key = x.new_key()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        with session_scope(self.engine) as session:
            claim = session.get(ClaimCertificate, 1)
            assert claim is not None
            device, certificate = enroll(session, self.pki, claim, request.public_bytes(Encoding.PEM))
        files = store(self.folder, device.id, x.certificate_pem(certificate), x.key_pem(key), self.pki)
        return device.id, files, key

    def refuses(self, files: TlsFiles, device_id: str) -> bool:
        mqtt = client(self.settings, files, device_id)
        try:
            mqtt.connect(timeout_s=2)
        except BrokerUnavailableError:
            return True
        mqtt.close()
        return False


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = make_settings(tmp_path / "fleet")
    engine = make_database(settings)
    with running_broker(settings) as pki:
        with session_scope(engine) as session:
            create_claim(session, pki, project_id=PROJECT, name="factory", device_class=CLASS)
        yield House(settings, engine, pki, tmp_path / "held")
    engine.dispose()


def test_of_two_revocations_at_once_the_list_has_both(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one has read the database when the second one comes, and writes its list after it if it may."""
    first, second = (house.enrol()[0] for _ in range(2))
    other = threading.Thread(target=revoke_device, args=(house.engine, house.settings, second))

    def read_slowly(session: Session) -> set[str]:
        found = revoked_serials(session)
        if threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(2)  # it waits for us: without that it would be done
        return found

    monkeypatch.setattr(revocation, "revoked_serials", read_slowly)
    revoke_device(house.engine, house.settings, first)
    other.join()
    listed = {f"{one.serial_number:x}" for one in x509.load_pem_x509_crl(house.pki.crl_path.read_bytes())}
    with session_scope(house.engine, read_only=True) as session:
        assert listed == revoked_serials(session)
        assert len(listed) == 2


def test_revoking_ends_the_live_connection_and_refuses_the_next(house: House) -> None:
    device_id, files, _ = house.enrol()
    other_id, other_files, _ = house.enrol()
    with (
        connected(house.settings, files, device_id) as device,
        connected(house.settings, other_files, other_id) as other,
    ):
        assert revoke_device(house.engine, house.settings, device_id)
        assert eventually(lambda: not device.connected)
        assert house.refuses(files, device_id)
        assert not device.connected
        assert other.connected
        assert other.connections == 1
    with session_scope(house.engine) as session:
        revoked = session.get(Device, device_id)
        assert revoked is not None
        assert (revoked.state, revoked.certificate_serial) == (DeviceState.REVOKED, None)


def test_revoking_again_or_without_a_broker_is_no_error(house: House) -> None:
    device_id, files, _ = house.enrol()
    away = house.settings.model_copy(update={"broker_port": 1})
    assert not revoke_device(house.engine, away, device_id)
    assert revoke_device(house.engine, house.settings, device_id)
    assert house.refuses(files, device_id)
    with pytest.raises(StateConflictError, match="enrol it as a new device"):
        reset_device(house.engine, house.settings, device_id)
    with pytest.raises(NotFoundError):
        revoke_device(house.engine, house.settings, "m4-nobody")


def test_reset_device_loses_its_old_certificate(house: House) -> None:
    device_id, files, _ = house.enrol()
    reset_device(house.engine, house.settings, device_id)
    assert eventually(lambda: house.refuses(files, device_id))


def test_revocation_list_follows_from_the_database_after_a_restore(house: House) -> None:
    device_id, files, _ = house.enrol()
    revoke_device(house.engine, house.settings, device_id)
    house.pki.write_crl([])
    enforce_revocations(house.engine, house.settings, [])
    assert eventually(lambda: house.refuses(files, device_id))


def test_no_certificate_is_issued_while_its_device_is_being_revoked(server: str, tmp_path: Path) -> None:
    """Whoever holds a stolen certificate can renew it all the time, and so at that moment too."""
    with postgres_database(server) as url:
        settings = make_settings(tmp_path / "fleet", database_url=url)
        engine, pki = make_database(settings), Pki.create(settings)
        key = x.new_key()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(Encoding.DER)
        with session_scope(engine) as session:
            claim, _, _ = create_claim(session, pki, project_id=PROJECT, name="factory", device_class=CLASS)
            device, first = enroll(session, pki, claim, csr)

        refused: list[ForbiddenError] = []

        def thief() -> None:
            try:
                with session_scope(engine) as session:
                    renew(session, pki, first, csr)
            except ForbiddenError as error:
                refused.append(error)

        renewing = threading.Thread(target=thief)
        with session_scope(engine) as session:
            mark_revoked(session, device.id)
            renewing.start()
            assert eventually(lambda: _waits_for_a_row(engine))
        renewing.join()
        assert len(refused) == 1
        with session_scope(engine) as session:
            assert revoked_serials(session) == set(issued_serials(session, device.id))
        engine.dispose()


def test_a_device_that_is_being_revoked_is_not_quarantined_instead(server: str, tmp_path: Path) -> None:
    """It reports another class at that moment: whoever took the device may have put other firmware on it."""
    with postgres_database(server) as url:
        engine = make_database(make_settings(tmp_path / "fleet", database_url=url))
        with session_scope(engine) as session:
            session.add(Device(id="stolen", project_id=PROJECT, device_class=CLASS))

        def report() -> None:
            with session_scope(engine) as session:
                apply_state(session, "stolen", state(device_class="other", boot=7))

        reporting = threading.Thread(target=report)
        with session_scope(engine) as session:
            mark_revoked(session, "stolen")
            session.flush()
            reporting.start()
            assert eventually(lambda: _waits_for_a_row(engine))
        reporting.join()
        with session_scope(engine) as session:
            device = session.get_one(Device, "stolen")
            assert (device.state, device.reported["boot"]) == (DeviceState.REVOKED, 7)
        engine.dispose()


def _waits_for_a_row(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one() > 0
