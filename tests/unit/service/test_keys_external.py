"""Keys that a program of the operator's holds: a real process signs releases, roots and assignments, or fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tinyfleet_ota import Algorithm, FileSigner, KeyFileError, make_release, parse_release
from tinyfleet_service.errors import SettingsError, StateConflictError
from tinyfleet_service.keys import KeyFolder, external
from tinyfleet_service.keys.ceremony import make_first_root, rotate
from tinyfleet_service.keys.external import ExternalKey, ExternalSigner
from unit.service import key_service


def held_by_service(folder: Path, algorithm: Algorithm = Algorithm.EDDSA) -> tuple[FileSigner, Path]:
    signer = FileSigner.generate(algorithm)
    signer.save(folder / "secret.pem", key_service.PASSPHRASE)
    return signer, folder / "secret.pem"


def command(path: Path, mode: str = "honest") -> ExternalKey:
    return ExternalKey((sys.executable, str(Path(key_service.__file__)), str(path), mode))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_release_key_moves_to_the_service_and_signs_there(tmp_path: Path, algorithm: Algorithm) -> None:
    folder = KeyFolder(tmp_path / "keys")
    make_first_root(folder)
    held, path = held_by_service(tmp_path, algorithm)
    assert rotate(folder, "release", where=command(path)) == 2
    assert folder.newest().release_keys == (held.public_key,)
    signer = folder.load("release")  # as another process finds it
    release = make_release(
        b"image", device_class="cortex-m4", abi=1, release_counter=1, security_floor=0, component="model/0",
        version="v1", signer=signer,
    )  # fmt: skip
    assert parse_release(release, folder.newest().release_keys).kid == held.kid
    assert not (folder.path / "release.key").exists(), "no private key is left in the folder"
    assert rotate(folder, "release") == 3, "and back to a file"
    assert [p.name for p in folder.path.glob("release.*.command.old")] == [f"release.{held.kid.hex()}.command.old"]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("refuses", "exit status 3: key release is disabled"),
        ("babbles", "not hexadecimal"),
        ("other key", "does not hold"),
        ("cut", "does not hold"),
        ("hangs", "no answer within"),
    ],
)
def test_a_service_that_fails_is_told_and_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, reason: str
) -> None:
    held, path = held_by_service(tmp_path)
    monkeypatch.setattr(external, "TIMEOUT_S", 0.5 if mode == "hangs" else 60.0)
    signer = ExternalSigner(command(path, mode), held.public_key)
    with pytest.raises(KeyFileError, match=reason):
        signer.sign(b"message")


def test_a_key_that_the_root_names_already_is_no_new_one(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    make_first_root(folder)
    _, path = held_by_service(tmp_path)
    rotate(folder, "release", where=command(path))
    with pytest.raises(StateConflictError, match="names this key already"):
        rotate(folder, "release", where=command(path))
    assert folder.names() == ["director", "release", "root1", "root2", "root3"]
    assert folder.newest().number == 2


def test_a_public_key_of_no_known_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no usable public key"):
        ExternalSigner(command(held_by_service(tmp_path)[1], "short"))


def test_a_program_that_is_not_there_changes_no_root(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    make_first_root(folder)
    with pytest.raises(SettingsError, match="cannot start /nowhere"):
        rotate(folder, "release", where=ExternalKey(("/nowhere/kms", "release")))
    assert (folder.newest().number, folder.draft()) == (1, None)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"command": "x"}', '{"command": ["x"], "public_key": "zz"}'])
def test_a_damaged_command_file_is_told(tmp_path: Path, text: str) -> None:
    folder = KeyFolder(tmp_path).create()
    (tmp_path / "release.command").write_text(text)
    with pytest.raises(SettingsError, match=r"release\.command"):
        folder.load("release")
