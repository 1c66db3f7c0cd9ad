"""Certificates and the files they lie in."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.config import write_config
from tinyfleet_service.broker.pki import SERVICES, Pki
from tinyfleet_service.errors import InvalidInputError, SettingsError
from tinyfleet_service.maintenance import examine
from tinyfleet_service.settings import Settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data=tmp_path_factory.mktemp("pki"), public_host="fleet.example", broker_port=18883)


@pytest.fixture(scope="module")
def pki(settings: Settings) -> Pki:
    return Pki.create(settings)


def test_keys_are_private_and_every_service_has_its_own_name(pki: Pki, settings: Settings) -> None:
    for key in settings.dirs.pki.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    names = set()
    for name in SERVICES:
        certificate = x509.load_pem_x509_certificate(pki.service(name).certificate.read_bytes())
        assert pki.ca.issued(certificate)
        names.add(x.name_of(certificate))
    assert names == set(SERVICES)
    with pytest.raises(SettingsError):
        pki.service("svc-unknown")


def test_a_leaf_made_before_the_clock_was_set_back_is_made_again(
    pki: Pki, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pki.server.certificate
    path.unlink()
    with monkeypatch.context() as ahead:
        ahead.setattr(x, "BACKDATE", timedelta(days=-1))
        Pki.create(settings)
    begins = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc
    (finding,) = [one for one in examine(settings) if one.check == "certificates"]
    assert finding.verdict == "fail"
    assert f"server.crt is valid from {begins:%Y-%m-%d %H:%M} UTC on only" in finding.found
    Pki.create(settings)
    assert x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc < datetime.now(UTC)


def test_a_list_made_before_the_clock_was_set_back_is_good(pki: Pki) -> None:
    """OpenSSL refuses every certificate beside a list that is not valid yet."""
    made = x509.load_pem_x509_crl(x.make_crl(pki.ca, [7]))
    assert made.last_update_utc == pki.ca.certificate.not_valid_before_utc


def test_server_certificate_names_the_hosts_and_cannot_pose_as_a_client(pki: Pki) -> None:
    certificate = x509.load_pem_x509_certificate(pki.server.certificate.read_bytes())
    hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(host.value) for host in hosts} >= {"fleet.example", "localhost", "127.0.0.1"}
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [x.SERVER]


def test_second_start_changes_nothing_and_a_new_host_renews_the_server_only(pki: Pki, settings: Settings) -> None:
    before = {path.name: path.read_bytes() for path in settings.dirs.pki.iterdir()}
    Pki.create(settings)
    assert {path.name: path.read_bytes() for path in settings.dirs.pki.iterdir()} == before
    Pki.create(settings.model_copy(update={"public_host": "moved.example"}))
    changed = {path.name for path in settings.dirs.pki.iterdir() if before[path.name] != path.read_bytes()}
    assert changed == {"server.crt", "server.key"}


def test_start_cut_between_key_and_certificate_goes_on(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    first = Pki.create(settings)
    (settings.dirs.pki / "ca.crt").unlink()
    (settings.dirs.pki / "svc-api.crt").unlink()
    again = Pki.create(settings)
    assert again.ca.key.private_numbers() == first.ca.key.private_numbers()
    assert again.service("svc-api").certificate.exists()


def test_damaged_authority_is_never_replaced(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    Pki.create(settings)
    (settings.dirs.pki / "ca.key").write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="restore the pki folder"):
        Pki.create(settings)
    assert (settings.dirs.pki / "ca.key").read_bytes() == b"damaged"


def test_key_of_another_authority_is_noticed(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    Pki.create(settings)
    (settings.dirs.pki / "ca.key").write_bytes((settings.dirs.pki / "claim-ca.key").read_bytes())
    with pytest.raises(SettingsError, match="does not belong"):
        Pki.load(settings)


@pytest.mark.parametrize(
    "name", ["svc-controller", "svc-x", "server", "localhost", "", "A", "a b", "a/b", "a" * 65, "+", "#"]
)
def test_reserved_and_impossible_device_names_get_no_certificate(pki: Pki, name: str) -> None:
    with pytest.raises(InvalidInputError):
        pki.issue_device(name, x.new_key().public_key())


def test_claim_authority_is_none_of_the_brokers(pki: Pki) -> None:
    certificate, _ = pki.issue_claim("factory")
    assert pki.claim_ca.issued(certificate)
    assert not pki.ca.issued(certificate)


def test_broker_configuration_has_no_gap_and_holds_a_batch_in_flight(pki: Pki, settings: Settings) -> None:
    config = write_config(settings, pki, 18883).read_text()
    assert "@" not in config
    for line in (
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "set_tcp_nodelay true",
        f"max_inflight_messages {2 * settings.ingest_batch}",
        "listener 18883 127.0.0.1",
    ):
        assert line in config.splitlines()
    acl = (settings.dirs.broker / "fleet.acl").read_text()
    assert "user svc-ingest-7" in acl


def test_line_break_in_a_path_cannot_add_configuration(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="line break"):
        write_config(Settings(data=tmp_path / "a\nallow_anonymous true"), pki, 18883)
