"""`fleetctl claim` against a real API: files for the firmware, the quota's list, and an end to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlmodel import Session

from service_harness import Api, running_api
from tinyfleet_ota import read_root
from tinyfleet_service import devices
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.cli.commands_claims import FILES
from tinyfleet_service.cli.main import main
from tinyfleet_service.cli.new_files import NewFiles
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import ClaimCertificate
from tinyfleet_service.errors import ForbiddenError, StorageError

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), device_classes="cortex-m4") as api:
        yield api


def fleetctl(api: Api, *arguments: object, token: str | None = None) -> int:
    with pytest.raises(SystemExit) as done:
        main(["--url", api.url, "--token", token or api.token, *map(str, arguments)])
    return int(done.value.code or 0)


def create(api: Api, out: Path, *arguments: object, token: str | None = None) -> int:
    return fleetctl(api, "claim", "create", "batch-7", "--class", "cortex-m4", "--out", out, *arguments, token=token)


def claims(api: Api) -> list[dict[str, object]]:
    return api.client().claims()


def find(session: Session, folder: Path) -> ClaimCertificate:
    return devices.find_claim(session, x509.load_pem_x509_certificate((folder / "claim.pem").read_bytes()))


def test_a_claim_is_four_files_that_belong_together(api: Api, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "new" / "batch-7"
    options = ("--quota", 500, "--days", 30, "--tag", "site=lyon", "--tag", "line=2")
    assert create(api, out, *options, "-o", "json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["files"] == [str(out / name) for name in FILES]
    assert (made["quota"], made["used"], made["state"]) == (500, 0, "open")
    assert made["tags"] == {"site": "lyon", "line": "2"}
    assert not {"key_pem", "certificate_pem"} & set(made)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}
    certificate = x509.load_pem_x509_certificate((out / "claim.pem").read_bytes())
    key = load_pem_private_key((out / "claim.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days in (30, 31)
    assert (out / "ca.pem").read_bytes() == api.client().ca()
    assert read_root((out / "root1.cbor").read_bytes())[0].number == 1
    with session_scope(api.engine) as session:
        assert find(session, out).id == made["id"]


def test_claims_are_listed_with_what_is_left_and_page_by_page(api: Api, tmp_path: Path, capsys: Output) -> None:
    for number in range(3):
        assert create(api, tmp_path / str(number), "--quota", 1) == 0
    with session_scope(api.engine) as session:
        find(session, tmp_path / "1").used = 1
    capsys.readouterr()
    assert fleetctl(api, "claim", "list") == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert ["open" in line for line in lines] == [True, False, True]
    assert "used up" in lines[1]
    assert "1/1" in lines[1]
    known = [claim["id"] for claim in claims(api)]
    assert known == sorted(known)
    with session_scope(api.engine) as session:
        pages = [devices.list_claims(session, 1, after, 1)[0].id for after in (0, *known[:-1])]
    assert pages == known


def test_who_holds_a_revoked_claim_enrols_no_more(api: Api, tmp_path: Path, capsys: Output) -> None:
    assert create(api, tmp_path / "batch", "-o", "name") == 0
    claim = capsys.readouterr().out.strip()
    assert fleetctl(api, "claim", "revoke", claim, "--yes") == 0
    revoked = next(row for row in claims(api) if str(row["id"]) == claim)
    assert revoked["state"] == "revoked"
    with session_scope(api.engine) as session, pytest.raises(ForbiddenError, match="was revoked"):
        find(session, tmp_path / "batch")
    assert fleetctl(api, "claim", "revoke", claim, "--yes") == 0
    assert next(row for row in claims(api) if str(row["id"]) == claim) == revoked, "the day it was revoked stays"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--quota", 0), "quota"),
        (("--days", -1), "lifetime"),
        (("--tag", "site"), "KEY=VALUE"),
        (("--tag", "Site=lyon"), "bad tag"),
        (("--class", "cortex-m99"), "no device class 'cortex-m99'"),
    ],
)
def test_a_refused_claim_leaves_nothing(
    api: Api, tmp_path: Path, capsys: Output, arguments: tuple[object, ...], said: str
) -> None:
    before = claims(api)
    assert create(api, tmp_path / "batch", *arguments) == 1
    assert said in capsys.readouterr().err
    assert claims(api) == before
    assert not list(tmp_path.rglob("*.*"))


def test_files_are_never_overwritten_and_no_claim_is_made_in_vain(api: Api, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "ca.pem").write_text("mine")
    before = claims(api)
    assert create(api, tmp_path) == 1
    assert "ca.pem is there already next: name another folder" in " ".join(capsys.readouterr().err.split())

    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]
    assert (tmp_path / "ca.pem").read_text() == "mine"
    assert claims(api) == before


def test_a_claim_whose_key_cannot_be_stored_is_revoked(
    api: Api, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, Path("/dev/full").open("wb", buffering=0) as full:
        patch.setattr(Path, "write_bytes", lambda _, data: full.write(data))
        assert create(api, tmp_path / "batch") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert claims(api)[-1]["state"] == "revoked"
    assert not list(tmp_path.rglob("*.*"))


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"), NewFiles(tmp_path / "file" / "x", FILES):
        pass


def test_another_projects_claim_is_not_there(api: Api, tmp_path: Path, capsys: Output) -> None:
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other").id or 0
        stranger = create_token(session, other, "stranger", Role.ADMIN)[1]
    assert create(api, tmp_path / "batch", "-o", "name") == 0
    claim = capsys.readouterr().out.strip()
    assert fleetctl(api, "claim", "revoke", claim, "--yes", token=stranger) == 1
    assert f"no claim {claim}" in capsys.readouterr().err
    assert fleetctl(api, "claim", "list", token=stranger) == 0
    assert "no claims yet" in capsys.readouterr().out
