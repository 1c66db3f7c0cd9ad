"""EST as anybody's tools speak it: curl and openssl enrol a device, renew it, and check what they got."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from integration import test_est_enrolment as est

house = est.house


def run(folder: Path, *command: str, stdin: bytes = b"") -> bytes:
    result = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def request(folder: Path, subject: str) -> None:
    """A key and a PKCS#10 request, base64 of DER without PEM lines, as RFC 7030 section 4.2.1 asks for."""
    run(folder, "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "device.key")
    der = run(folder, "openssl", "req", "-new", "-key", "device.key", "-subj", subject, "-outform", "DER")
    (folder / "request.b64").write_bytes(run(folder, "openssl", "base64", stdin=der))


def ask(house: est.House, folder: Path, path: str, certificate: Path, key: Path) -> bytes:
    """What curl got, as PEM."""
    url = f"https://localhost:{house.port}{path}"
    identity = ["--cacert", str(house.pki.ca_path), "--cert", str(certificate), "--key", str(key)]
    headers = ["-H", "Content-Type: application/pkcs10", "-H", "Content-Transfer-Encoding: base64"]
    body = ["--data-binary", "@request.b64"]
    answer = run(folder, "curl", "--silent", "--show-error", "--fail-with-body", *identity, *headers, *body, url)
    der = run(folder, "openssl", "base64", "-d", stdin=answer)
    return run(folder, "openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der)


def test_curl_and_openssl_enrol_and_renew(house: est.House, tmp_path: Path) -> None:
    claim = house.claim()
    request(tmp_path, "/CN=what-the-factory-typed")
    (tmp_path / "device.crt").write_bytes(ask(house, tmp_path, est.ENROLL, claim.certificate, claim.key))
    run(tmp_path, "openssl", "verify", "-CAfile", str(house.pki.ca_path), "device.crt")
    subject = run(tmp_path, "openssl", "x509", "-in", "device.crt", "-noout", "-subject")
    assert b"CN = cortex-m4-" in subject
    assert b"what-the-factory-typed" not in subject
    old = (tmp_path / "device.crt").read_bytes()
    new = ask(house, tmp_path, est.REENROLL, tmp_path / "device.crt", tmp_path / "device.key")
    (tmp_path / "renewed.crt").write_bytes(new)
    run(tmp_path, "openssl", "verify", "-CAfile", str(house.pki.ca_path), "renewed.crt")
    assert new != old
    assert run(tmp_path, "openssl", "x509", "-in", "renewed.crt", "-noout", "-subject") == subject


def test_curl_reads_the_authority_without_a_certificate(house: est.House, tmp_path: Path) -> None:
    url = f"https://localhost:{house.port}{est.CACERTS}"
    answer = run(tmp_path, "curl", "--silent", "--show-error", "--fail", "--cacert", str(house.pki.ca_path), url)
    der = run(tmp_path, "openssl", "base64", "-d", stdin=answer)
    assert b"BEGIN CERTIFICATE" in run(tmp_path, "openssl", "pkcs7", "-inform", "DER", "-print_certs", stdin=der)


def test_curl_with_a_claim_cannot_renew(house: est.House, tmp_path: Path) -> None:
    claim = house.claim()
    request(tmp_path, "/CN=x")
    with pytest.raises(AssertionError, match="403"):
        ask(house, tmp_path, est.REENROLL, claim.certificate, claim.key)
