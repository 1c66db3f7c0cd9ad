"""EST over real TLS: who gets a certificate, under which name, and who does not."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from sqlalchemy import Engine

from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import device_files, eventually, make_settings, store
from postgres import database_away
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.pki import Pki, TlsFiles
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate, Device, DeviceState, Project
from tinyfleet_service.devices import apply_event, create_claim, revoke_claim
from tinyfleet_service.devices.revocation import mark_reset, mark_revoked
from tinyfleet_service.errors import StartError
from tinyfleet_service.est import EstServer, run
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_state_builders import event
from unit.service.fleet_telemetry_builders import IMAGE, image_counters
from unit.service.fleet_telemetry_builders import telemetry as report

ENROLL, REENROLL, CACERTS = (f"/.well-known/est/{name}" for name in ("simpleenroll", "simplereenroll", "cacerts"))


@dataclass
class House:
    settings: Settings
    engine: Engine
    pki: Pki
    port: int
    folder: Path

    def claim(self, quota: int = 1000, device_class: str = CLASS, project_id: int = PROJECT) -> TlsFiles:
        with session_scope(self.engine) as session:
            row, certificate, key = create_claim(
                session,
                self.pki,
                project_id=project_id,
                name="factory",
                device_class=device_class,
                tags={"site": "lyon"},
                quota=quota,
            )
        return store(self.folder, row.serial, certificate, key, self.pki)

    def post(self, path: str, body: bytes, files: TlsFiles | None) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.pki.ca_path))
        if files:
            context.load_cert_chain(files.certificate, files.key)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=20)
        try:
            connection.request("POST" if path != CACERTS else "GET", path, body or None)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def issued(self, path: str, csr: bytes, files: TlsFiles) -> x509.Certificate:
        status, body = self.post(path, base64.b64encode(csr), files)
        assert status == 200, body
        (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
        return certificate

    def hold(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> TlsFiles:
        return store(self.folder, x.serial_text(certificate), x.certificate_pem(certificate), x.key_pem(key), self.pki)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = make_settings(tmp_path / "fleet")
    engine = make_database(settings)
    server = EstServer(settings, engine, Pki.create(settings))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield House(settings, engine, server.pki, server.port, tmp_path / "held")
    server.shutdown()
    server.server_close()
    engine.dispose()


def request(key: ec.EllipticCurvePrivateKey, name: str = "") -> bytes:
    subject = x.common_name(name) if name else x509.Name([])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def test_device_enrols_under_an_id_the_server_chooses(house: House) -> None:
    key = x.new_key()
    certificate = house.issued(ENROLL, request(key, "call-me-boss"), house.claim())
    name = x.name_of(certificate)
    assert name.startswith("cortex-m4-")
    assert certificate.public_key() == key.public_key()
    assert house.pki.ca.issued(certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x.CLIENT]
    with session_scope(house.engine) as session:
        device = session.get(Device, name)
        assert device is not None
        assert (device.device_class, device.tags, device.state) == (CLASS, {"site": "lyon"}, DeviceState.ENROLLED)
        assert device.certificate_serial == x.serial_text(certificate)


def test_cacerts_needs_no_certificate_and_gives_the_devices_authority(house: House) -> None:
    status, body = house.post(CACERTS, b"", None)
    assert status == 200
    assert pkcs7.load_der_pkcs7_certificates(base64.b64decode(body)) == [house.pki.ca.certificate]


def test_lost_answer_is_given_again_for_the_same_key_and_costs_no_second_place(house: House) -> None:
    claim, csr = house.claim(quota=1), request(x.new_key())
    assert house.issued(ENROLL, csr, claim) == house.issued(ENROLL, csr, claim)
    status, body = house.post(ENROLL, base64.b64encode(request(x.new_key())), claim)
    assert status == 403
    assert b"make another claim certificate" in body


def test_request_for_another_devices_name_is_refused(house: House) -> None:
    claim = house.claim()
    victim = x.name_of(house.issued(ENROLL, request(x.new_key()), claim))
    status, body = house.post(ENROLL, base64.b64encode(request(x.new_key(), victim)), claim)
    assert status == 403
    assert victim.encode() in body
    own_key = x.new_key()
    own = house.issued(ENROLL, request(own_key), claim)
    status, _ = house.post(REENROLL, base64.b64encode(request(own_key, victim)), house.hold(own, own_key))
    assert status == 403
    with session_scope(house.engine) as session:
        claims = session.get(ClaimCertificate, 1)
        assert claims is not None
        assert claims.used == 2


def test_reset_lets_one_device_enrol_again_under_its_name(house: House) -> None:
    claim = house.claim()
    old_key, new_key = x.new_key(), x.new_key()
    old = house.issued(ENROLL, request(old_key), claim)
    name = x.name_of(old)
    with session_scope(house.engine) as session:
        mark_reset(session, name)
    assert house.post(REENROLL, base64.b64encode(request(old_key)), house.hold(old, old_key))[0] == 403
    other_class = house.claim(device_class="cortex-m0plus")
    assert house.post(ENROLL, base64.b64encode(request(new_key, name)), other_class)[0] == 403
    assert x.name_of(house.issued(ENROLL, request(new_key, name), claim)) == name
    assert house.post(ENROLL, base64.b64encode(request(x.new_key(), name)), claim)[0] == 403


def test_what_a_replaced_flash_numbers_from_the_beginning_counts(house: House) -> None:
    """Its events and reports have numbers that the part before it had used."""
    claim, telemetry = house.claim(), TelemetryStore(house.settings)
    name = x.name_of(house.issued(ENROLL, request(x.new_key()), claim))
    for boot in range(1, 12):
        telemetry.ingest([(name, report(image_counters(inferences=10), boot=boot))])
    with session_scope(house.engine) as session:
        assert apply_event(session, name, event())
        mark_reset(session, name)
    house.issued(ENROLL, request(x.new_key(), name), claim)
    with session_scope(house.engine) as session:
        assert apply_event(session, name, event())
        assert apply_event(session, name, event()) is None
    assert telemetry.ingest([(name, report(image_counters(inferences=5)))]).stored == 1
    assert telemetry.read_counters([name], IMAGE.hex())[name].inferences == 11 * 10 + 5
    telemetry.close()


def test_certificate_that_a_reset_ended_renews_nothing_afterwards(house: House) -> None:
    """The broker refuses it; whoever holds it must not exchange it for one that the broker takes."""
    claim = house.claim()
    old_key, new_key = x.new_key(), x.new_key()
    old = house.issued(ENROLL, request(old_key), claim)
    with session_scope(house.engine) as session:
        mark_reset(session, x.name_of(old))
    present = house.issued(ENROLL, request(new_key, x.name_of(old)), claim)
    status, body = house.post(REENROLL, base64.b64encode(request(x.new_key())), house.hold(old, old_key))
    assert (status, b"replaced" in body) == (403, True)
    renewed = house.issued(REENROLL, request(new_key), house.hold(present, new_key))
    assert house.issued(REENROLL, request(new_key), house.hold(present, new_key)) == renewed


@pytest.mark.parametrize("named", [True, False])
def test_reset_device_that_kept_its_key_enrols_again_under_its_name_once(house: House, named: bool) -> None:
    """As one does whose certificate ran out: it makes no new key, and may not know its name."""
    claim, key = house.claim(quota=2), x.new_key()
    old = house.issued(ENROLL, request(key), claim)
    with session_scope(house.engine) as session:
        mark_reset(session, x.name_of(old))
    csr = request(key, x.name_of(old) if named else "")
    present = house.issued(ENROLL, csr, claim)
    assert (x.name_of(present), present == old) == (x.name_of(old), False)
    assert house.issued(ENROLL, csr, claim) == present, "the answer was lost"
    with session_scope(house.engine) as session:
        row = session.get_one(ClaimCertificate, 1)
        assert row.used == 2


def test_renewal_needs_a_certificate_of_the_device(house: House, tmp_path: Path) -> None:
    key, next_key = x.new_key(), x.new_key()
    first = house.issued(ENROLL, request(key), house.claim())
    second = house.issued(REENROLL, request(next_key), house.hold(first, key))
    assert x.name_of(second) == x.name_of(first)
    assert second.public_key() == next_key.public_key()
    again = house.issued(REENROLL, request(next_key), house.hold(first, key))  # the answer was lost
    assert again == second
    third_key = x.new_key()
    house.issued(REENROLL, request(third_key), house.hold(second, next_key))
    status, body = house.post(REENROLL, base64.b64encode(request(x.new_key())), house.hold(first, key))
    assert (status, b"replaced" in body) == (403, True)
    assert house.post(REENROLL, base64.b64encode(request(key)), house.claim())[0] == 403
    assert house.post(REENROLL, base64.b64encode(request(key)), None)[0] == 401
    unknown = device_files(house.pki, "m4-unknown", tmp_path)
    assert house.post(REENROLL, base64.b64encode(request(key)), unknown)[0] == 403


def test_revoked_device_neither_renews_nor_enrols_again(house: House) -> None:
    claim, key = house.claim(), x.new_key()
    certificate = house.issued(ENROLL, request(key), claim)
    with session_scope(house.engine) as session:
        mark_revoked(session, x.name_of(certificate))
    assert house.post(REENROLL, base64.b64encode(request(key)), house.hold(certificate, key))[0] == 403
    assert house.post(ENROLL, base64.b64encode(request(key)), claim)[0] == 403


def test_device_certificate_does_not_enrol_and_a_foreign_one_fails_the_handshake(house: House, tmp_path: Path) -> None:
    csr = base64.b64encode(request(x.new_key()))
    assert house.post(ENROLL, csr, device_files(house.pki, "m4-one", tmp_path))[0] == 403
    assert house.post(ENROLL, csr, None)[0] == 401
    stranger = x.make_authority("tinyfleet claim CA", x.new_key())  # the same name, another key
    key = x.new_key()
    forged = x.issue(stranger, "claim factory", key.public_key(), usage=x.CLIENT, days=1)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        house.post(ENROLL, csr, house.hold(forged, key))


def test_revoked_claim_enrols_nobody_and_its_devices_renew(house: House) -> None:
    claim, key = house.claim(), x.new_key()
    held = house.hold(house.issued(ENROLL, request(key), claim), key)
    with session_scope(house.engine) as session:
        revoke_claim(session, PROJECT, 1)
    for csr in (request(x.new_key()), request(key)):
        status, body = house.post(ENROLL, base64.b64encode(csr), claim)
        assert status == 403
        assert b"was revoked" in body
    assert house.issued(REENROLL, request(key), held)


def test_claim_of_our_authority_without_a_row_is_refused(house: House) -> None:
    certificate, key = house.pki.issue_claim("unknown")
    status, body = house.post(ENROLL, base64.b64encode(request(x.new_key())), house.hold(certificate, key))
    assert (status, b"not known" in body) == (403, True)


def _unsigned(csr: bytes) -> bytes:
    return csr[:-1] + bytes([csr[-1] ^ 1])


def _rsa_request() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not base64 !!",
        base64.b64encode(b"\x30\x82\xff\xff"),
        base64.b64encode(os.urandom(700)),
        base64.b64encode(_unsigned(request(x.new_key()))),
        base64.b64encode(_rsa_request()),
        base64.b64encode(request(x.new_key(), "m4-1\0")),
    ],
    ids=["empty", "no base64", "truncated", "noise", "forged signature", "rsa", "NUL in the name"],
)
def test_bad_requests_are_refused_and_count_nothing(house: House, body: bytes) -> None:
    status, answer = house.post(ENROLL, body, house.claim())
    assert status == 400
    assert answer.count(b"\n") == 1
    with session_scope(house.engine) as session:
        claim = session.get(ClaimCertificate, 1)
        assert claim is not None
        assert claim.used == 0


def test_endless_body_and_unknown_operation_are_refused(house: House) -> None:
    claim = house.claim()
    assert house.post(ENROLL, b"A" * 9000, claim)[0] == 413
    assert house.post("/.well-known/est/fullcmc", b"", claim)[0] == 404
    assert house.post("/../../etc/passwd", b"", claim)[0] == 404


def test_peers_that_drip_their_requests_take_no_place_for_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyfleet_service.est.handler.PEER_TIMEOUT_S", 1.0)
    context = ssl.create_default_context(cafile=str(house.pki.ca_path))
    for sent in (b"G", b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nContent-Length: 900\r\n\r\nM"):
        with context.wrap_socket(
            socket.create_connection(("localhost", house.port)), server_hostname="localhost"
        ) as peer:
            peer.sendall(sent)
            peer.settimeout(0.2)
            assert eventually(lambda: has_ended(peer))
    assert house.post(CACERTS, b"", None)[0] == 200


def has_ended(peer: ssl.SSLSocket) -> bool:
    """Whether the server closed the connection, to which one more byte is sent."""
    try:
        peer.sendall(b"M")
        return peer.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_quota_holds_when_many_enrol_at_once(house: House) -> None:
    claim = house.claim(quota=5)
    bodies = [base64.b64encode(request(x.new_key())) for _ in range(12)]
    with ThreadPoolExecutor(8) as pool:
        statuses = [status for status, _ in pool.map(lambda body: house.post(ENROLL, body, claim), bodies)]
    assert sorted(statuses) == [200] * 5 + [403] * 7


def test_dead_database_says_try_later(house: House) -> None:
    claim = house.claim()
    with database_away(house.engine):
        status, _ = house.post(ENROLL, base64.b64encode(request(x.new_key())), claim)
    assert status == 503


def test_class_and_project_come_from_the_claim(house: House) -> None:
    with session_scope(house.engine) as session:
        session.add(Project(id=2, name="other"))
        from tinyfleet_service.database.models import ProjectClass

        session.flush()
        session.add(ProjectClass(project_id=2, name="svc", toml=""))
    certificate = house.issued(ENROLL, request(x.new_key()), house.claim(device_class="svc", project_id=2))
    assert x.name_of(certificate).startswith("d-svc-")  # never a name that looks like the service's own
    with session_scope(house.engine) as session:
        device = session.get(Device, x.name_of(certificate))
        assert device is not None
        assert device.project_id == 2


def test_run_serves_until_stopped_and_names_a_taken_port(house: House, tmp_path: Path) -> None:
    stop = threading.Event()
    taken = house.settings.model_copy(update={"est_port": house.port})
    with pytest.raises(StartError, match="TINYFLEET_EST_PORT"):
        run(taken, stop)
    stop.set()
    run(house.settings.model_copy(update={"est_port": 0}), stop)
