"""EST client: enrolment and renewal, and every answer that must not become an identity."""

import base64
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates

from agent.ports import est_server
from agent.ports.mosquitto import free_port
from agent.ports.pki import Authority, Files
from agent.ports.posix_port import Crypto, ffi, lib

TIMEOUT_MS = 20_000


class World(NamedTuple):
    """A running server, its authority, a claim certificate of another authority that it trusts for claims."""

    est: est_server.EstServer
    authority: Authority
    claim: Files
    folder: Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority, claims = Authority(tmp_path / "ca"), Authority(tmp_path / "claims", "claim CA")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.path.read_bytes() + claims.path.read_bytes())
    server = authority.issue("est", server_names=("127.0.0.1",))
    with est_server.serve(authority, server, trusted) as est:
        yield World(est, authority, claims.issue("claim"), tmp_path)


class Enrolment:
    """One request until its end."""

    def __init__(self, world: World, **options: Any) -> None:
        files = options.get("files", world.claim)
        self.crypto = Crypto(options.get("key_path", world.folder / "key.pem"))
        texts = ("127.0.0.1", options.get("port", world.est.port), options.get("ca", world.authority.path), *files)
        self.texts = [ffi.new("char[]", str(text).encode()) for text in texts]
        names = ("host", "port", "ca_path", "cert_path", "key_path")
        self.config = ffi.new("fleet_posix_tls_config_t *", dict(zip(names, self.texts, strict=True)))
        self.est = ffi.new("fleet_posix_est_t *")
        renewal, name = options.get("renewal", False), options.get("name", "unassigned").encode()
        timeout_ms = options.get("timeout_ms", TIMEOUT_MS)
        if options.get("trust"):
            self.status = lib.fleet_posix_est_start_cacerts(self.est, self.config, timeout_ms)
        else:
            self.status = lib.fleet_posix_est_start(self.est, self.config, self.crypto.port, name, renewal, timeout_ms)
        if self.status == lib.FLEET_OK:
            self.status = 1
            while self.status == 1:
                self.status = lib.fleet_posix_est_step(self.est, lib.fleet_posix_now_ms())
                time.sleep(0.002)
        lib.fleet_posix_est_close(self.est)

    @property
    def error(self) -> str:
        return str(ffi.string(self.est.error).decode())

    @property
    def device(self) -> str:
        return str(ffi.string(self.est.device).decode())

    @property
    def certificate(self) -> bytes:
        return bytes(ffi.string(self.est.certificate))

    @property
    def trust(self) -> list[x509.Certificate]:
        text = bytes(ffi.string(self.est.trust))
        return x509.load_pem_x509_certificates(text) if text else []


@pytest.mark.parametrize("chunked", [False, True])
def test_enrolment_gives_the_id_the_server_assigned(world: World, chunked: bool) -> None:
    world.est.chunked = chunked
    world.est.next_id = "cortex-m4-k7x2"
    got = Enrolment(world, name="please-call-me-this")
    assert got.status == lib.FLEET_OK, got.error
    assert got.device == "cortex-m4-k7x2"
    certificate = x509.load_pem_x509_certificate(got.certificate)
    certificate.verify_directly_issued_by(world.authority.certificate)
    assert world.est.requests == [("/.well-known/est/simpleenroll", "claim", "please-call-me-this")]


def test_renewal_shows_the_present_certificate_and_keeps_key_and_name(world: World) -> None:
    first = Enrolment(world)
    present = world.folder / "cert.pem"
    present.write_bytes(first.certificate)
    files = Files(present, world.folder / "key.pem")
    again = Enrolment(world, files=files, renewal=True, name=first.device)
    assert again.status == lib.FLEET_OK, again.error
    assert world.est.requests[-1] == ("/.well-known/est/simplereenroll", first.device, first.device)
    old, new = (x509.load_pem_x509_certificate(e.certificate) for e in (first, again))
    assert old.serial_number != new.serial_number
    assert old.public_key() == new.public_key()


def test_the_authorities_are_what_the_server_names(world: World) -> None:
    world.est.trust = [Authority(world.folder / "next", "next CA").certificate, world.authority.certificate]
    got = Enrolment(world, trust=True)
    assert got.status == lib.FLEET_OK, got.error
    assert set(got.trust) == set(world.est.trust)  # a SET: in the order of its encodings
    assert world.est.requests == []


def test_authorities_that_are_none_or_lock_the_device_out_are_not_taken(world: World) -> None:
    ours, other = world.authority.certificate, Authority(world.folder / "next", "next CA").certificate
    leaf = x509.load_pem_x509_certificate(world.authority.issue("device-7").cert.read_bytes())
    same_name = Authority(world.folder / "same", world.authority.certificate.subject.rfc4514_string()[3:]).certificate
    for trust, says in (
        ([other], "do not vouch for the server"),
        ([same_name], "do not vouch for the server"),
        ([ours, leaf], "is no authority"),
        ([], "no base64 certs-only PKCS#7"),
        ([ours] * 60, "too long"),
        (None, "HTTP 404"),
    ):
        world.est.trust = trust
        got = Enrolment(world, trust=True)
        assert (got.status, got.trust) == (lib.FLEET_ERR_ENROLMENT, []), says
        assert says in got.error
    world.est.trust = [ours, other]
    assert Enrolment(world, trust=True, ca=world.claim.cert).status == lib.FLEET_ERR_TLS


@pytest.mark.parametrize("status", [202, 400, 401, 403, 503])
def test_refusals_carry_the_servers_words(world: World, status: int) -> None:
    world.est.status = status
    got = Enrolment(world)
    assert got.status == lib.FLEET_ERR_ENROLMENT
    assert str(status) in got.error
    assert "claim quota exhausted" in got.error
    assert got.certificate == b""


def test_certificate_over_another_key_is_not_taken(world: World) -> None:
    world.est.foreign_key = True
    got = Enrolment(world)
    assert got.status == lib.FLEET_ERR_ENROLMENT
    assert "no certificate for our key" in got.error


@pytest.mark.parametrize("name", ["Upper", "a/b", "a b", "../../etc"])
def test_illegal_ids_are_not_taken(world: World, name: str) -> None:
    world.est.next_id = name
    got = Enrolment(world)
    assert got.status == lib.FLEET_ERR_ENROLMENT
    assert "no legal device id" in got.error


@pytest.mark.parametrize(
    "body",
    [b"", b"!!!!", b"AAAA", b"AAA", b"A" * 20_000, b"\0" * 100, base64.b64encode(b"\x30\x80" + b"\x06" * 500)],
)
def test_garbage_answers_are_not_taken(world: World, body: bytes) -> None:
    world.est.body = body
    got = Enrolment(world)
    assert got.status in (lib.FLEET_ERR_ENROLMENT, lib.FLEET_ERR_NETWORK)
    assert got.certificate == b""


def test_answer_cut_anywhere_is_not_taken(world: World) -> None:
    der = serialize_certificates([world.authority.certificate], Encoding.DER)
    for cut in range(0, len(der), 37):
        world.est.body = base64.b64encode(der[:cut])
        assert Enrolment(world).status < 0


@pytest.mark.parametrize(
    "raw",
    [b"", b"SSH-2.0-nope\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nAAAA"],
)
def test_what_is_no_http_is_a_network_error(world: World, raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Any) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(raw)
        self.close_connection = True

    monkeypatch.setattr(world.est.handler, "do_POST", answer)
    got = Enrolment(world, timeout_ms=5000)
    assert got.status in (lib.FLEET_ERR_NETWORK, lib.FLEET_ERR_TLS)
    assert got.error


def test_server_of_another_authority_gets_no_request(world: World) -> None:
    other = Authority(world.folder / "other", "other CA")
    got = Enrolment(world, ca=other.path)
    assert got.status == lib.FLEET_ERR_TLS
    assert "not trusted" in got.error
    assert world.est.requests == []


def test_claim_of_another_authority_is_refused(world: World) -> None:
    other = Authority(world.folder / "other", "other CA")
    got = Enrolment(world, files=other.issue("claim-2"))
    assert got.status in (lib.FLEET_ERR_TLS, lib.FLEET_ERR_NETWORK)
    assert re.search(r"alert|reset|pipe", got.error)
    assert world.est.requests == []


def test_dead_and_silent_servers(world: World) -> None:
    dead = Enrolment(world, port=free_port())
    assert dead.status == lib.FLEET_ERR_NETWORK
    assert "refused" in dead.error
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = Enrolment(world, port=listener.getsockname()[1], timeout_ms=200)
    assert silent.status == lib.FLEET_ERR_NETWORK
    assert "no answer in time" in silent.error


def test_no_room_for_a_key_is_said_before_anything_is_asked(world: World) -> None:
    got = Enrolment(world, key_path=world.folder / "missing" / "key.pem")
    assert got.status == lib.FLEET_ERR_STORAGE
    assert "writable" in got.error
    assert world.est.requests == []


def test_life_and_name_of_a_stored_certificate(world: World) -> None:
    left, whole, name = ffi.new("int64_t *"), ffi.new("int64_t *"), ffi.new("char[65]")
    stored = world.authority.issue("device-7", life=(-1000, 2000)).cert
    assert lib.fleet_posix_certificate_life(str(stored).encode(), left, whole) == lib.FLEET_OK
    assert whole[0] == 3000
    assert 1900 < left[0] <= 2000
    assert lib.fleet_posix_certificate_name(str(stored).encode(), name) == lib.FLEET_OK
    assert ffi.string(name) == b"device-7"
    bad = world.folder / "bad.pem"
    bad.write_text("nothing")
    assert lib.fleet_posix_certificate_life(str(bad).encode(), left, whole) == lib.FLEET_ERR_STORAGE
    assert lib.fleet_posix_certificate_name(str(bad).encode(), name) == lib.FLEET_ERR_STORAGE
