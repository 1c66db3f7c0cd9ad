"""`fleetctl doctor` beside broken installations: it names what is broken and what to do, and looks at the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from integration.fleet_support import free_port
from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.files import write_file
from tinyfleet_service.cli.main import main
from tinyfleet_service.database.models import utc_now
from tinyfleet_service.errors import SettingsError
from tinyfleet_service.maintenance import doctor, examine
from tinyfleet_service.serve.first_start import prepare
from tinyfleet_service.settings import Settings, load_settings

pytestmark = pytest.mark.sqlite_only


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that never ran: only its processes are missing."""
    settings = load_settings(tmp_path_factory.mktemp("whole") / "data")
    prepare(settings)
    return settings.data


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def load(data: Path, **changes: object) -> Settings:
    return load_settings(data, **{"broker_port": free_port(), "public_host": "localhost", **changes})


def failures(settings: Settings) -> dict[str, str]:
    """Check -> what it found and what to do, of those that fail."""
    found = examine(settings)
    assert [finding for finding in found if finding.verdict != "ok" and not finding.next] == []
    return {finding.check: f"{finding.found} -> {finding.next}" for finding in found if finding.verdict == "fail"}


def remove(*names: str) -> Callable[[Path], None]:
    def work(data: Path) -> None:
        for name in names:
            path = data / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return work


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda data: write_file(data / name, content, 0o600)


def folder_for_database(data: Path) -> None:
    (data / "tinyfleet.db").unlink()
    (data / "tinyfleet.db").mkdir()


def expire(data: Path) -> None:
    """Both authorities ended half an hour ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(x, "AUTHORITY_DAYS", -0.02)
        for name in ("ca", "claim-ca"):
            authority = x.make_authority(f"tinyfleet {name}", x.new_key())
            write_file(data / "pki" / f"{name}.crt", x.certificate_pem(authority.certificate), 0o600)
            write_file(data / "pki" / f"{name}.key", x.key_pem(authority.key), 0o600)


@pytest.mark.parametrize(
    ("damage", "check", "says"),
    [
        (remove("keys"), "data directory", "keys is missing -> restore keys from a backup"),
        (remove("pki"), "data directory", "pki is missing -> restore pki from a backup"),
        (remove("keys/director.key"), "director key", "director.key: No such file or directory -> restore the keys"),
        (remove("keys/passphrase"), "director key", "passphrase: No such file or directory"),
        (remove("pki/ca.key"), "certificates", "ca.key: No such file or directory -> restore the pki folder"),
        (remove("pki/svc-tool.crt"), "broker", "svc-tool.crt is missing -> restart `fleetctl serve`"),
        (expire, "certificates", "claims end with it"),
        (put("tinyfleet.db", b""), "database", "schema none, this tinyfleet needs 0"),
        (put("tinyfleet.db", b"SQLite format 3\0" + b"x" * 5000), "database", "not a database -> let this user read"),
        (folder_for_database, "database", "unable to open database file -> let this user read and write"),
        (lambda data: shutil.rmtree(data), "data directory", "holds no service -> name it with --data"),
        (lambda data: (data / "pki").chmod(0o755), "data directory", "others can read"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(data: Path, damage: Callable[[Path], None], check: str, says: str) -> None:
    settings = load(data)
    damage(data)
    found = failures(settings)
    assert says in found[check], found
    assert not {"clock", "outbox", "freeze"} & set(found), "a dead database is said once"


def test_a_directory_that_is_not_there_is_all_that_is_said(tmp_path: Path) -> None:
    assert [finding.check for finding in examine(load_settings(tmp_path / "typo"))] == ["data directory"]


def test_a_dead_database_is_said_once_and_the_rest_is_looked_at(data: Path) -> None:
    port = free_port()
    settings = load(data, database_url=f"postgresql+psycopg://fleet:hunter2@127.0.0.1:{port}/fleet")
    found = examine(settings)
    says = {finding.check: finding for finding in found}
    assert f"start PostgreSQL at 127.0.0.1:{port}" in says["database"].next
    assert {name for name, finding in says.items() if finding.found == "not looked at"} == doctor.ASK_DATABASE
    assert (says["director key"].verdict, says["certificates"].verdict) == ("ok", "ok")
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://fleet:hunter2@host/fleet", "postgresql+nothing://fleet:hunter2@h/x"]
)
def test_a_url_of_no_database_is_a_bad_setting(data: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="TINYFLEET_DATABASE_URL") as caught:
        examine(load(data, database_url=url))
    assert "hunter2" not in str(caught.value) + caught.value.next
    (data / "settings.toml").write_text(f'database_url = "{url}"\n')
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(data), "doctor"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "next:" in said
    assert "Traceback" not in said


def test_a_full_disk_and_clocks_apart(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(free=10 << 20, total=100 << 30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: full)
    monkeypatch.setattr(doctor, "utc_now", lambda: utc_now() + timedelta(minutes=10))
    found = {finding.check: finding for finding in examine(load(data))}
    assert (found["disk space"].verdict, found["clock"].verdict) == ("warn", "fail")
    assert "0.0 GiB free" in found["disk space"].found
    assert found["clock"].found == "600 s apart from the database's"
    assert "NTP" in found["clock"].next


def test_a_bucket_that_does_not_answer(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("tinyfleet_service.database.object_blobs.PATIENCE", timedelta(seconds=1))
    assert "does not answer" in failures(load(data, blobs="s3://bucket/fleet"))["blobs"]
