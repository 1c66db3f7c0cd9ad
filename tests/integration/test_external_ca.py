"""Device certificates from an authority whose key we never hold: openssl behind a program, broker, EST, an agent."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from sqlmodel import Session, select

from agent.ports.fleet_world import Fleet
from integration import company_ca
from integration.company import ISSUING, Company
from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import connected, eventually, make_settings, running_broker, store
from integration.test_authority import csr_of, findings, held_by, refused, run, running_est
from integration.test_fleet_device import House
from tinyfleet_service import est
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker import external_ca
from tinyfleet_service.broker.pki import Pki, TlsFiles
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate, Device
from tinyfleet_service.devices import create_claim, enroll, revoke_device
from tinyfleet_service.devices.issuing import Issuer, issue_certificate
from tinyfleet_service.devices.revocation import follow_outside
from tinyfleet_service.errors import UnavailableError
from tinyfleet_service.settings import Settings


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    company = Company.found(tmp_path / "company")
    for name in ("issuing", "sibling"):
        company.issue(name, f"/O=Example/CN=Example {name}", extensions=ISSUING)
    return company


def make(folder: Path, company: Company) -> Settings:
    program = f"{sys.executable} {company_ca.__file__} {company.folder}"
    return make_settings(folder / "fleet", device_ca=program)


def test_a_fleet_whose_authority_is_a_program(company: Company, tmp_path: Path) -> None:
    settings = make(tmp_path, company)
    before = settings.model_copy(update={"device_ca": ""})
    engine, own, key = make_database(settings), Pki.create(before), x.new_key()
    with session_scope(engine) as session:
        claim = create_claim(session, own, project_id=PROJECT, name="early", device_class=CLASS)[0]
        early = enroll(session, own, claim, csr_of(key))[1]
    with running_broker(settings) as pki, running_est(settings, pki) as listener:
        house = House(tmp_path, settings, pki, listener)
        fleet = Fleet(house.arguments())
        name = fleet.wait("connected")[0]["device"]
        assert fleet.end() == 0
        held = tmp_path / "devices" / "device-0000"
        certificate = x509.load_pem_x509_certificate((held / "cert.pem").read_bytes())
        assert x.name_of(certificate) == name
        assert certificate.issuer.rfc4514_string() == "CN=Example issuing,O=Example"
        renewed = renew_by_curl(tmp_path, pki, listener.port, held)
        assert renewed.serial_number != certificate.serial_number
        old = held_by(tmp_path, pki, (early, key))
        files = TlsFiles(pki.ca_path, held / "cert.pem", held / "key.pem")
        with connected(settings, files, name) as device, connected(settings, old, old.certificate.stem) as other:
            assert revoke_device(engine, settings, name)
            assert eventually(lambda: not device.connected)
            assert other.connected
        assert refused(settings, files, name)
        stranger = company.issue(
            "stranger", "/CN=svc-controller", by="sibling", extensions="extendedKeyUsage=clientAuth\n"
        )
        bundle = stranger.read_bytes() + (company.folder / "sibling.crt").read_bytes()
        key_of_stranger = (company.folder / "stranger.key").read_bytes()
        assert refused(settings, store(tmp_path, "stranger", bundle, key_of_stranger, pki), "svc-controller")
        serials = {f"{one.serial_number:x}" for one in (certificate, renewed)}
        assert serials <= {f"{int(line.split(chr(9))[3], 16):x}" for line in revoked_lines(company)}
        assert "Example issuing" in findings(settings)["device authority"].found
    engine.dispose()


def revoked_lines(company: Company) -> list[str]:
    """`openssl ca` moves its index away before the new one takes its place: between, there is none."""
    lines: list[str] = []

    def read() -> bool:
        with suppress(FileNotFoundError):
            lines[:] = (company.folder / "index.txt").read_text().splitlines()
        return bool(lines)

    assert eventually(read)
    return [line for line in lines if line.startswith("R")]


def renew_by_curl(folder: Path, pki: Pki, port: int, held: Path) -> x509.Certificate:
    der = run("openssl", "req", "-new", "-key", str(held / "key.pem"), "-subj", "/CN=x", "-outform", "DER")
    (folder / "request.b64").write_bytes(run("openssl", "base64", stdin=der))
    identity = ["--cacert", str(pki.ca_path), "--cert", str(held / "cert.pem"), "--key", str(held / "key.pem")]
    url = f"https://localhost:{port}/.well-known/est/simplereenroll"
    answer = run("curl", "-sS", "--fail-with-body", *identity, "--data-binary", f"@{folder / 'request.b64'}", url)
    der = run("openssl", "base64", "-d", stdin=answer)
    return x509.load_pem_x509_certificate(run("openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der))


@pytest.fixture
def quiet(company: Company, tmp_path: Path) -> Iterator[Quiet]:
    quiet = Quiet(company, make(tmp_path, company))
    yield quiet
    quiet.engine.dispose()


class Quiet:
    """An installation without a broker."""

    def __init__(self, company: Company, settings: Settings) -> None:
        self.company, self.settings = company, settings
        self.engine, self.pki = make_database(settings), Pki.create(settings)
        with session_scope(self.engine) as session:
            create_claim(session, self.pki, project_id=PROJECT, name="batch", device_class=CLASS)

    def mode(self, mode: str) -> None:
        (self.company.folder / "mode").write_text(mode)

    def enrol(self) -> x509.Certificate:
        csr = csr_of(x.new_key())

        def operation(session: Session, issuer: Issuer) -> x509.Certificate:
            return enroll(session, issuer, session.get_one(ClaimCertificate, 1), csr)[1]

        return issue_certificate(self.engine, self.pki, csr, operation)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("down", "sign: exit status 1: the vault is sealed"),
        ("hangs", "sign: no answer within"),
        ("babbles", "sign: Unable to load PEM"),
        ("other key", "is for another key"),
        ("other name", "its subject is 'CN=svc-controller'"),
        ("server", "for client authentication alone"),
        ("other issuer", "its issuer is none"),
    ],
)
def test_an_answer_that_will_not_do_enrols_nobody(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch, mode: str, says: str
) -> None:
    quiet.mode(mode)
    monkeypatch.setattr(external_ca, "TIMEOUT_S", 0.3 if mode == "hangs" else 30.0)
    with pytest.raises(UnavailableError, match=says):
        quiet.enrol()
    with session_scope(quiet.engine) as session:
        assert session.exec(select(Device)).all() == []
        assert session.get_one(ClaimCertificate, 1).used == 0


@pytest.mark.parametrize(
    ("mode", "says"), [("no list", "no revocation list"), ("other list", "signed by none"), ("old list", "is over")]
)
def test_a_list_that_would_lock_the_fleet_out_is_not_taken(quiet: Quiet, mode: str, says: str) -> None:
    before = quiet.pki.clients_crl.read_bytes()
    assert quiet.pki.external is not None
    quiet.mode(mode)
    with pytest.raises(UnavailableError, match=says):
        quiet.pki.external.refresh()
    assert findings(quiet.settings)["device authority"].verdict == "fail"
    assert Pki.create(quiet.settings).clients_crl.read_bytes() == before


def test_a_list_older_than_the_one_that_is_here_is_not_taken(quiet: Quiet) -> None:
    external, folder = quiet.pki.external, quiet.company.folder
    assert external is not None
    issuing = x509.load_pem_x509_certificate((folder / "issuing.crt").read_bytes())
    key = load_pem_private_key((folder / "issuing.key").read_bytes(), None)
    later = datetime.now(UTC) + timedelta(hours=1)
    builder = x509.CertificateRevocationListBuilder(issuing.subject, later, later + timedelta(days=1))
    newer = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]
    place = quiet.settings.dirs.pki / external_ca.LISTS
    place.write_bytes(newer)
    with pytest.raises(UnavailableError, match="older than the one that is here"):
        external.refresh()
    external.refresh_or_keep()
    assert place.read_bytes() == newer


def test_a_revocation_waits_for_an_authority_that_is_away(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyfleet_service.devices.revocation._EVICTION_S", 0.01)
    name = x.name_of(quiet.enrol())
    quiet.mode("down")
    with pytest.raises(UnavailableError, match="vault is sealed"):
        revoke_device(quiet.engine, quiet.settings, name)
    with pytest.raises(UnavailableError, match="vault is sealed"):
        follow_outside(quiet.engine, quiet.settings)
    assert revoked_lines(quiet.company) == []
    monkeypatch.setattr("tinyfleet_service.est.server.FOLLOW_S", 0.05)
    stop = threading.Event()
    process = threading.Thread(target=est.run, args=(quiet.settings, stop))
    process.start()
    quiet.mode("")
    asked_again = eventually(lambda: len(revoked_lines(quiet.company)) == 1)
    stop.set()
    process.join()
    assert asked_again
    follow_outside(quiet.engine, quiet.settings)
    lists = quiet.pki.clients_crl.read_bytes()
    assert quiet.pki.external is not None
    assert lists.endswith(quiet.pki.external.lists)
    follow_outside(quiet.engine, quiet.settings)
    assert len(revoked_lines(quiet.company)) == 1
