"""An issuing authority below a company's root: openssl signs it, and broker, EST, curl and the C agent live with it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlmodel import select

from agent.ports.fleet_world import Fleet
from integration.company import ABOVE, ISSUING, Company
from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import connected, eventually, make_settings, running_broker, store
from integration.test_fleet_device import House
from tinyfleet_service import maintenance
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.change_authority import make_request
from tinyfleet_service.broker.files import write_file
from tinyfleet_service.broker.pki import Pki, TlsFiles
from tinyfleet_service.cli.main import main
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.devices import create_claim, enroll, renew, revoke_device
from tinyfleet_service.errors import InvalidInputError, StateConflictError
from tinyfleet_service.est import EstServer
from tinyfleet_service.maintenance.authority import finish_authority, install_authority, pki_status
from tinyfleet_service.serve.data_lock import standing_still
from tinyfleet_service.settings import Settings

CA_NAME = x.common_name("Fleet Issuing")
LAST_THIRD_DAYS = 1200 / 86400
"""A certificate so short that it is due for renewal when it is made, because it begins an hour ago."""


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A root, a regional authority below it, and another department's issuing authority."""
    company = Company.found(tmp_path_factory.mktemp("company"))
    company.issue("region", "/O=Example/CN=Example Region")
    company.issue("sibling", "/O=Example/CN=Sibling Issuing", by="region", extensions=ISSUING)
    return company


def request(settings: Settings, folder: Path, name: x509.Name = CA_NAME) -> Path:
    (folder / "ca.csr").write_bytes(make_request(settings.dirs.pki, name))
    return folder / "ca.csr"


def install(settings: Settings, company: Company, folder: Path) -> None:
    signed = company.sign(request(settings, folder), "issuing", by="region")
    chain = company.chain("region")
    install_authority(settings, signed.read_bytes(), chain)


@contextmanager
def running_est(settings: Settings, pki: Pki) -> Iterator[EstServer]:
    engine = make_engine(settings)
    est = EstServer(settings, engine, pki)
    thread = threading.Thread(target=est.serve_forever, daemon=True)
    thread.start()
    try:
        yield est
    finally:
        est.shutdown()
        est.server_close()
        thread.join()
        engine.dispose()


def refused(settings: Settings, files: TlsFiles, name: str) -> bool:
    """Whether the broker hangs up on an MQTT CONNECT with this certificate; the server itself must be trusted."""
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.certificate, files.key)
    hello = bytes([0x10, 12 + len(name), 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, len(name)]) + name.encode()
    try:
        with (
            socket.create_connection(("127.0.0.1", settings.broker_port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(hello)
            return tls.recv(4) == b""
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionError):
        return True


def run(*command: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_a_fleet_below_a_companys_root(company: Company, tmp_path: Path) -> None:
    """Devices know the root alone; the broker lets in what our authority issued, not all that is below the root."""
    settings = make_settings(tmp_path / "fleet")
    make_database(settings).dispose()
    install(settings, company, tmp_path)
    with running_broker(settings) as pki, running_est(settings, pki) as est:
        house = House(tmp_path, settings, pki, est)
        fleet = Fleet(house.arguments(ca=company.root))
        name = fleet.wait("connected")[0]["device"]
        assert fleet.end() == 0
        held = tmp_path / "devices" / "device-0000"
        run("openssl", "verify", "-CAfile", str(company.root), "-untrusted", str(pki.ca_path), str(held / "cert.pem"))
        url = f"https://localhost:{est.port}/.well-known/est/cacerts"
        answer = run("curl", "--silent", "--show-error", "--fail", "--cacert", str(company.root), url)
        shown = run(
            "openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=run("openssl", "base64", "-d", stdin=answer)
        )
        assert [part in shown for part in (b"Fleet Issuing", b"Example Region", b"Example Root")] == [True] * 3
        files = TlsFiles(company.root, held / "cert.pem", held / "key.pem")
        with connected(settings, files, name) as device:
            assert revoke_device(est.engine, settings, name)
            assert eventually(lambda: not device.connected)
        assert refused(settings, files, name)
        for by in ("sibling", "root"):
            for stranger in ("svc-controller", name):
                made = company.issue("stranger", f"/CN={stranger}", by=by, extensions="extendedKeyUsage=clientAuth\n")
                bundle = made.read_bytes() + (company.folder / f"{by}.crt").read_bytes()
                key = (company.folder / "stranger.key").read_bytes()
                assert refused(settings, store(tmp_path / "strangers", by, bundle, key, pki), stranger), by


def test_an_authority_is_changed_under_devices_that_are_enrolled(company: Company, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "fleet")
    engine, old = make_database(settings), Pki.create(settings)
    keys = [x.new_key() for _ in range(3)]
    with session_scope(engine) as session:
        claim = create_claim(session, old, project_id=PROJECT, name="batch", device_class=CLASS)[0]
        certificates = [enroll(session, old, claim, csr_of(key))[1] for key in keys]
    install(settings, company, tmp_path)
    assert pki_status(settings)["devices_on_previous"] == 3
    with running_broker(settings) as pki:
        held = [held_by(tmp_path, pki, pair) for pair in zip(certificates, keys, strict=True)]
        knows_old = TlsFiles(tmp_path / "old.pem", held[0].certificate, held[0].key)
        knows_old.ca.write_bytes(x.certificate_pem(old.ca.certificate))
        names = [x.name_of(certificate) for certificate in certificates]
        with connected(settings, knows_old, names[0]), connected(settings, pki.service("svc-tool"), "svc-tool"):
            pass
        with session_scope(engine) as session:
            renewed = renew(session, pki, certificates[0], csr_of(keys[0]))[1]
        assert pki.ca.issued(renewed)
        assert not old.ca.issued(renewed)
        both = held_by(tmp_path / "renewed", pki, (renewed, keys[0]))
        with connected(settings, both, names[0]), connected(settings, held[1], names[1]) as other:
            revoke_device(engine, settings, names[1])
            assert eventually(lambda: not other.connected)
        assert refused(settings, held[1], names[1])
    assert "1 device with a certificate of CN=tinyfleet CA" in findings(settings)["authority"].found
    with pytest.raises(StateConflictError, match="1 device with a certificate of the previous"):
        finish_authority(settings)
    with pytest.raises(StateConflictError, match="being replaced already"):
        install(settings, company, tmp_path)
    finish_authority(settings, leave_behind=True)
    with running_broker(settings) as pki:
        assert pki.ca.issued(x509.load_pem_x509_certificate(pki.server.certificate.read_bytes()))
        now = TlsFiles(company.root, both.certificate, both.key)
        with connected(settings, now, names[0]):
            assert refused(settings, TlsFiles(company.root, held[2].certificate, held[2].key), names[2])
    assert findings(settings)["authority"].verdict == "ok"
    engine.dispose()


def test_agents_learn_the_new_authority_before_the_old_one_goes(
    company: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fleet_device renews while both are trusted, and connects when the old one is gone; nobody visited it."""
    settings = make_settings(tmp_path / "fleet")
    engine, old = make_database(settings), Pki.create(settings)
    provisioned = tmp_path / "provisioned.pem"
    provisioned.write_bytes(x.certificate_pem(old.ca.certificate))
    key = x.new_key()
    with monkeypatch.context() as patch, session_scope(engine) as session:
        patch.setattr(Pki, "issue_device", partialmethod(Pki.issue_device, days=LAST_THIRD_DAYS))
        claim = create_claim(session, old, project_id=PROJECT, name="batch", device_class=CLASS)[0]
        device, certificate = enroll(session, old, claim, csr_of(key))
    held = tmp_path / "devices" / "device-0000"
    held.mkdir(parents=True)
    for name, data in (("cert.pem", x.certificate_pem(certificate)), ("key.pem", x.key_pem(key))):
        (held / name).write_bytes(data)
    install(settings, company, tmp_path)
    with running_broker(settings) as pki, running_est(settings, pki) as est:
        house = House(tmp_path, settings, pki, est)
        fleet = Fleet(house.arguments(ca=provisioned))
        assert fleet.wait("renewed")[0]["device"] == device.id
        fleet.wait("connected")
        assert fleet.end() == 0
        assert set(x509.load_pem_x509_certificates((held / "ca.pem").read_bytes())) == set(pki.trusted)
    finish_authority(settings)
    with running_broker(settings) as pki, running_est(settings, pki) as est:
        house = House(tmp_path, settings, pki, est)
        fleet = Fleet(house.arguments(ca=provisioned))
        fleet.wait("connected")
        assert fleet.end() == 0
        (held / "ca.pem").unlink()  # as a device that was away all the time
        fleet = Fleet(house.arguments(ca=provisioned))
        assert "not trusted" in fleet.wait("offline")[0]["error"]
        assert fleet.end() == 0
    engine.dispose()


def findings(settings: Settings) -> dict[str, maintenance.Finding]:
    return {finding.check: finding for finding in maintenance.examine(settings)}


def csr_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def held_by(folder: Path, pki: Pki, pair: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> TlsFiles:
    certificate, key = pair
    return store(folder, x.name_of(certificate), x.certificate_pem(certificate), x.key_pem(key), pki)


NARROW = ISSUING + "nameConstraints=critical,permitted;DNS:example.com\n"


@pytest.mark.parametrize(
    ("extensions", "above", "says"),
    [
        ("basicConstraints=CA:FALSE\n", ABOVE, "is no authority"),
        ("keyUsage=digitalSignature\n", ABOVE, "is no authority"),
        (ISSUING.replace(",cRLSign", ""), ABOVE, "lacks cRLSign"),
        (ISSUING, ABOVE.replace("CA:TRUE", "CA:TRUE,pathlen:0"), "allows 0 authorities below it, here are 1"),
        (ISSUING, "basicConstraints=CA:FALSE\n", "'CN=Above,O=Example' is no authority"),
        (NARROW, ABOVE, "OpenSSL does not trust certificates below this authority: permitted subtree violation"),
    ],
)
def test_what_may_not_sign_is_refused(company: Company, tmp_path: Path, extensions: str, above: str, says: str) -> None:
    settings = make_settings(tmp_path / "fleet")
    company.issue("above", "/O=Example/CN=Above", extensions=above)
    signed = company.sign(request(settings, tmp_path), "wrong", by="above", extensions=extensions)
    with pytest.raises(InvalidInputError, match=says):
        install_authority(
            settings, signed.read_bytes() + (company.folder / "above.crt").read_bytes(), company.root.read_bytes()
        )
    assert not (settings.dirs.pki / "ca.crt").exists()


def test_files_that_do_not_fit_are_refused(company: Company, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "fleet")
    Pki.create(settings)
    before = {path.name: path.read_bytes() for path in settings.dirs.pki.iterdir()}
    root, region = company.root.read_bytes(), (company.folder / "region.crt").read_bytes()
    with pytest.raises(StateConflictError, match="no key waits"):
        install_authority(settings, region, root)
    signed = company.sign(request(settings, tmp_path), "fits", by="region").read_bytes()
    past = company.sign(tmp_path / "ca.csr", "past", by="region", days=-1).read_bytes()
    named = company.sign(request(settings, tmp_path, x.common_name("tinyfleet CA")), "named", by="region").read_bytes()
    for certificate, chain, says in (
        (region, root, "not for the key"),
        (signed, root, "issuer of 'CN=Fleet Issuing' is missing: 'CN=Example Region,O=Example'"),
        (signed, region, "issuer of 'CN=Example Region,O=Example' is missing"),
        (signed, b"", "is missing"),
        (past, root + region, "ended"),
        (named, root + region, "is called 'CN=tinyfleet CA' too"),
        (b"no certificate", root, "no readable PEM"),
        (signed, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no readable PEM"),
        (signed, root * 9, "holds 9 certificates"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            install_authority(settings, certificate, chain)
    shutil.rmtree(settings.dirs.pki / "next")
    assert {path.name: path.read_bytes() for path in settings.dirs.pki.iterdir()} == before


def test_the_commands(company: Company, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings(tmp_path / "fleet")
    Pki.create(settings)

    def fleetctl(*words: object) -> str:
        with pytest.raises(SystemExit) as done:
            main(["--data", str(settings.data), "pki", *map(str, words)])
        output = capsys.readouterr()
        return output.err if done.value.code else output.out

    assert "nobody: it signs itself" in fleetctl("status")
    assert "have it signed" in fleetctl("csr", "--out", tmp_path / "ca.csr", "--name", "Fleet Issuing")
    signed = company.sign(tmp_path / "ca.csr", "typed", by="region")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(company.chain("region"))
    with standing_still(settings):
        assert "already runs" in fleetctl("install", signed, chain)
    installed = fleetctl("install", signed, chain)
    assert "CN=Fleet Issuing  CN=Example Region,O=Example below CN=Example Root,O=Example" in installed
    assert "tinyfleet CA" not in installed  # no device held a certificate
    assert "no authority is being replaced" in fleetctl("finish")


@pytest.mark.parametrize("cut", range(1, 8))
def test_an_installation_that_was_cut_off_goes_on(
    company: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    settings = make_settings(tmp_path / "fleet")
    engine, old = make_database(settings), Pki.create(settings)
    with session_scope(engine) as session:
        session.add(Device(id="m4-1", project_id=PROJECT, device_class=CLASS, certificate_serial="1"))
    engine.dispose()
    request(settings, tmp_path)
    writes = iter(range(1, 100))

    def write_some(path: Path, data: bytes, mode: int = 0o644) -> None:
        if next(writes) == cut:
            raise KeyboardInterrupt
        write_file(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr("tinyfleet_service.broker.change_authority.write_file", write_some)
        try:
            install_again(settings, company)
        except KeyboardInterrupt:
            install_again(settings, company)
    pki = Pki.load(settings)
    assert pki.previous is not None
    assert pki.previous.certificate == old.ca.certificate
    assert x.name_of(pki.ca.certificate) == "Fleet Issuing"
    assert not (settings.dirs.pki / "next").exists()
    with session_scope(make_engine(settings)) as session:
        assert session.exec(select(Device.id)).all() == ["m4-1"]


def install_again(settings: Settings, company: Company) -> None:
    signed = company.folder / "once.crt"
    if not (settings.dirs.pki / "next" / "ca.crt").exists():
        signed = company.sign(settings.data.parent / "ca.csr", "once", by="region")
    install_authority(settings, signed.read_bytes(), company.chain("region"))
