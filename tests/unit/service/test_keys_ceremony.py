"""Changes of trust: at one machine, between two, and with files somebody touched."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinyfleet_ota import Root, draft_release, key_id, parse_release, parse_root, read_root, sign_release
from tinyfleet_service.builds import load_release_signer
from tinyfleet_service.cli.main import make_app
from tinyfleet_service.errors import (
    FleetError,
    InvalidInputError,
    NotFoundError,
    SettingsError,
    StateConflictError,
    StorageError,
)
from tinyfleet_service.keys import KeyFolder
from tinyfleet_service.keys.ceremony import (
    Ceremony,
    check_signed,
    make_first_root,
    missing,
    revoke,
    rotate,
    settle,
    take_draft,
    take_up,
    to_sign,
)
from tinyfleet_service.settings import Settings


def manifest_of(image: bytes) -> bytes:
    named = {"device_class": "cortex-m4", "component": "model/0", "version": "v4"}
    return draft_release(image, abi=1, release_counter=4, security_floor=2, **named)


MANIFEST = manifest_of(b"image")


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    made = KeyFolder(tmp_path / "keys")
    make_first_root(made)
    return made


@pytest.fixture
def offline(folder: KeyFolder, tmp_path: Path) -> KeyFolder:
    """The machine that now holds root and release keys; `folder` keeps the director only."""
    away = KeyFolder(tmp_path / "safe").create()
    for name in ("root1", "root2", "root3", "release"):
        shutil.copy(folder.path / f"{name}.key", away.path)
        (folder.path / f"{name}.key").unlink()
    for name in ("passphrase", "root-1.cbor"):
        shutil.copy(folder.path / name, away.path)
    return away


def carry(folder: KeyFolder, path: Path, **more: dict[int, bytes]) -> Path:
    Ceremony(folder.roots(), folder.draft(), **more).write(path)
    return path


def sign(path: Path, folder: KeyFolder) -> list[str]:
    carried = Ceremony.read(path)
    wanted = to_sign(carried, folder.signers())
    for item in wanted:
        item.sign()
    carried.write(path)
    return [item.text for item in wanted]


@pytest.mark.parametrize("name", ["root2", "release", "director"])
def test_a_key_is_replaced_and_the_old_one_put_aside(folder: KeyFolder, name: str) -> None:
    old = folder.load(name)
    assert rotate(folder, name) == 2
    new, root = folder.load(name), folder.newest()
    held = (*root.root_keys, *root.release_keys, *root.director_keys)
    assert new.public_key in held
    assert old.public_key not in held
    assert root.director_epoch == (2 if name == "director" else 1)
    assert list(folder.path.glob(f"{name}.{old.kid.hex()}.key.old"))
    assert folder.draft() is None
    assert folder.names() == ["director", "release", "root1", "root2", "root3"]
    assert [parse_root(folder.roots()[0]).number, root.number] == [1, 2]


def test_two_commands_change_no_keys_at_once(folder: KeyFolder) -> None:
    command = CliRunner().invoke(make_app("keys"), ["keys", "rotate", "release", "--keys", str(folder.path)])
    assert command.exit_code == 0
    before = sorted(path.name for path in folder.path.iterdir())
    for words in (["init"], ["rotate", "director"], ["revoke", "root1"], ["drop"]):
        with folder.alone():
            command = CliRunner().invoke(make_app("keys"), ["keys", *words, "--keys", str(folder.path)])
        assert isinstance(command.exception, StateConflictError)
    assert sorted(path.name for path in folder.path.iterdir()) == before


def test_five_changes_walk_one_by_one(folder: KeyFolder) -> None:
    for number, name in enumerate(("director", "release", "root1", "root2", "director"), start=2):
        assert rotate(folder, name) == number
    previous: Root | None = None
    for data in folder.roots():
        previous = parse_root(data, previous)
    assert previous is not None
    assert (previous.number, previous.director_epoch) == (6, 3)


def test_a_root_key_is_revoked_by_name_or_id_and_the_last_ones_are_not(folder: KeyFolder) -> None:
    lost = folder.load("root3")
    assert revoke(folder, lost.kid.hex()[:6]) == 2
    assert lost.public_key not in folder.newest().root_keys
    for name in ("root1", "release", "director"):
        with pytest.raises(StateConflictError, match="too few"):
            revoke(folder, name)
    with pytest.raises(NotFoundError, match="root3"):
        revoke(folder, "root3")
    assert folder.newest().number == 2


def test_keys_on_another_machine_sign_what_is_carried_to_them(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    assert rotate(folder, "director") is None
    assert len(missing(folder)) == 2  # by the root before and by the new one
    old = folder.load("director")
    file = carry(folder, tmp_path / "carried.json", waiting={7: MANIFEST})
    change, release = sign(file, offline)
    assert "director epoch 2" in change
    assert f"- director key {old.kid.hex()}" in change
    assert "model/0 v4, counter 4, floor 2" in release
    carried = Ceremony.read(file)
    assert carried.draft is not None
    folder.set_draft(carried.draft)
    assert settle(folder) == 2
    assert folder.load("director").public_key in folder.newest().director_keys
    assert check_signed(MANIFEST, carried.signed[7], folder.newest()).version == "v4"


def test_two_holders_sign_one_after_the_other(folder: KeyFolder, offline: KeyFolder, tmp_path: Path) -> None:
    second = KeyFolder(tmp_path / "second").create()
    for name in ("root2.key", "root3.key"):
        (offline.path / name).rename(second.path / name)
    shutil.copy(offline.path / "passphrase", second.path)
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    sign(file, offline)
    folder.set_draft(Ceremony.read(file).draft or b"")
    assert settle(folder) is None
    assert all("1 more of" in line for line in missing(folder))
    sign(file, second)
    folder.set_draft(Ceremony.read(file).draft or b"")
    assert settle(folder) == 2


def test_a_second_change_waits_and_a_dropped_one_leaves_nothing(folder: KeyFolder, offline: KeyFolder) -> None:
    rotate(folder, "director")
    with pytest.raises((StateConflictError, SettingsError)):
        rotate(folder, "director")
    assert folder.drop()
    assert not folder.drop()
    assert folder.names() == ["director"]
    assert folder.newest().number == 1
    assert rotate(folder, "director") is None


def test_a_change_that_was_dropped_and_comes_back_signed_finds_its_key(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    rotate(folder, "director")
    file, wanted = carry(folder, tmp_path / "carried.json"), folder.load("director.next").public_key
    sign(file, offline)
    folder.drop()
    assert take(folder, file) == 2
    assert folder.newest().director_keys == (folder.load("director").public_key,) == (wanted,)
    assert folder.names() == ["director"]


def test_a_root_finished_elsewhere_finds_the_key_of_a_dropped_change_before_that_of_a_later_one(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    rotate(folder, "director")
    file, wanted = carry(folder, tmp_path / "carried.json"), folder.load("director.next").public_key
    sign(file, offline)
    folder.drop()
    rotate(folder, "director")
    later = folder.load("director.next").kid.hex()
    folder.add_root(Ceremony.read(file).draft or b"")
    take_up(folder)
    assert folder.newest().director_keys == (folder.load("director").public_key,) == (wanted,)
    assert list(folder.path.glob(f"director.next.{later}.key.old"))
    assert rotate(folder, "director") is None


def test_a_signature_over_another_manifest_or_by_another_key_is_refused(folder: KeyFolder) -> None:
    other = manifest_of(b"imago")
    for manifest, name in ((other, "release"), (MANIFEST, "director")):
        carried = Ceremony(folder.roots(), waiting={1: manifest})
        signers = folder.signers()
        root = folder.newest()
        if name == "release":
            to_sign(carried, signers)[0].sign()
            envelope = carried.signed[1]
        else:
            envelope = sign_release(manifest, signers[name])
        with pytest.raises(InvalidInputError):
            check_signed(MANIFEST, envelope, root)


def test_nobody_signs_bytes_that_are_no_manifest_or_no_root(folder: KeyFolder) -> None:
    for carried in (Ceremony(folder.roots(), waiting={1: MANIFEST[:-1]}), Ceremony(folder.roots(), b"\x80")):
        with pytest.raises(InvalidInputError):
            to_sign(carried, folder.signers())
    with pytest.raises(InvalidInputError, match="no root"):
        to_sign(Ceremony([]), folder.signers())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "nonsense",
        '{"format": "tinyfleet-ceremony-1"}',
        '{"format": "other", "roots": []}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(InvalidInputError, match="no ceremony file"):
        Ceremony.read(tmp_path / "file")


def test_a_file_with_a_changed_root_or_signature_changes_nothing(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    sign(file, offline)
    document = json.loads(file.read_text())
    draft = bytearray.fromhex(document["draft"])
    draft[-1] ^= 1
    folder.set_draft(bytes(draft))
    with pytest.raises(StateConflictError, match="does not follow"):
        settle(folder)
    assert folder.newest().number == 1
    document["roots"][0] = document["roots"][0][:-2] + f"{int(document['roots'][0][-2:], 16) ^ 1:02x}"
    file.write_text(json.dumps(document))
    with pytest.raises(InvalidInputError):
        to_sign(Ceremony.read(file), offline.signers())


def test_the_file_holds_no_secret(folder: KeyFolder, offline: KeyFolder, tmp_path: Path) -> None:
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json", waiting={7: MANIFEST})
    sign(file, offline)
    text = file.read_text()
    assert "PRIVATE" not in text
    assert (folder.path / "passphrase").read_text() not in text
    assert read_root(bytes.fromhex(json.loads(text)["draft"]))[0].number == 2


def test_a_full_stick_loses_no_signature_that_is_there(folder: KeyFolder, offline: KeyFolder, tmp_path: Path) -> None:
    rotate(folder, "director")
    stick = tmp_path / "stick"
    stick.mkdir()
    file = carry(folder, stick / "carried.json")
    sign(file, offline)
    signed = file.read_text()
    with no_file_larger_than(1000), pytest.raises(StorageError, match="cannot write"):
        sign(file, offline)
    assert file.read_text() == signed
    assert list(stick.iterdir()) == [file]


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_errors_name_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FleetError) as caught:
        KeyFolder(tmp_path / "none").newest()
    assert caught.value.next
    with pytest.raises(InvalidInputError, match="no key 'king'"):
        rotate(KeyFolder(tmp_path / "none"), "king")


def test_release_signed_here_is_the_one_a_device_reads(folder: KeyFolder) -> None:
    carried = Ceremony(folder.roots(), waiting={3: MANIFEST})
    to_sign(carried, folder.signers())[0].sign()
    release = parse_release(carried.signed[3], folder.newest().release_keys)
    assert key_id(folder.newest().release_keys[0]) == release.kid


def test_a_change_that_is_refused_leaves_no_key_for_the_one_under_way(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    shutil.copy(offline.path / "release.key", folder.path)
    director = folder.load("director").public_key
    rotate(folder, "release")
    with pytest.raises(StateConflictError, match="under way"):
        rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    sign(file, offline)
    folder.set_draft(Ceremony.read(file).draft or b"")
    assert settle(folder) == 2
    assert folder.load("director").public_key == director
    assert folder.load("release").public_key in folder.newest().release_keys


def test_a_finished_change_taken_twice_is_not_under_way_again(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    sign(file, offline)
    for _ in range(2):
        folder.set_draft(Ceremony.read(file).draft or b"")
        assert settle(folder) == 2
    assert folder.draft() is None
    assert rotate(folder, "director") is None


@pytest.mark.parametrize("retired", [False, True])
def test_a_change_cut_between_root_and_key_is_finished_at_the_next_start(
    folder: KeyFolder, monkeypatch: pytest.MonkeyPatch, retired: bool
) -> None:
    def cut(folder: KeyFolder, name: str) -> None:
        if retired:
            folder.retire(name.removesuffix(".next"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeyFolder, "promote", cut)
        with pytest.raises(KeyboardInterrupt):
            rotate(folder, "director")
    assert folder.newest().number == 2
    make_first_root(folder)
    assert folder.load("director").public_key in folder.newest().director_keys
    assert folder.names() == ["director", "release", "root1", "root2", "root3"]


def test_a_change_cut_before_its_draft_is_begun_anew(folder: KeyFolder) -> None:
    folder.make("director.next")
    assert rotate(folder, "director") == 2
    assert folder.load("director").public_key in folder.newest().director_keys


def test_a_lost_release_key_is_replaced_where_the_root_keys_are(offline: KeyFolder) -> None:
    lost = offline.load("release").public_key
    (offline.path / "release.key").unlink()
    assert rotate(offline, "release") == 2
    assert offline.newest().release_keys == (offline.load("release").public_key,)
    assert lost not in offline.newest().release_keys


def test_a_release_key_in_a_broken_token_is_replaced(folder: KeyFolder) -> None:
    (folder.path / "release.key").unlink()
    token = {"module": "/no.so", "token": "t", "label": "l"}
    (folder.path / "release.pkcs11").write_text(json.dumps(token))
    assert rotate(folder, "release") == 2
    assert folder.newest().release_keys == (folder.load("release").public_key,)
    (kept,) = folder.path.glob("release.lost-*.pkcs11.old")
    assert json.loads(kept.read_text()) == token


def test_a_lost_root_key_is_replaced_by_its_id(folder: KeyFolder) -> None:
    lost = folder.load("root3")
    (folder.path / "root3.key").unlink()
    with pytest.raises(NotFoundError, match="keys list"):
        rotate(folder, "root3")
    assert rotate(folder, lost.kid.hex()[:8]) == 2
    assert folder.names() == ["director", "release", "root1", "root2", "root4"]
    assert lost.public_key not in folder.newest().root_keys
    assert folder.load("root4").public_key in folder.newest().root_keys
    assert rotate(folder, folder.load("root2").kid.hex()) == 3  # by its id, but it is here: it keeps its name
    assert folder.names() == ["director", "release", "root1", "root2", "root4"]
    assert rotate(folder, folder.load("release").kid.hex()) == 4


def test_holders_who_sign_copies_of_their_own_are_all_heard(
    folder: KeyFolder, offline: KeyFolder, tmp_path: Path
) -> None:
    second = KeyFolder(tmp_path / "second").create()
    (offline.path / "root2.key").rename(second.path / "root2.key")
    (offline.path / "root3.key").rename(second.path / "root3.key")
    shutil.copy(offline.path / "passphrase", second.path)
    rotate(folder, "director")
    unsigned = carry(folder, tmp_path / "unsigned.json")
    files = [Path(shutil.copy(unsigned, tmp_path / name)) for name in ("a", "b")]
    (second.path / "root3.key").rename(tmp_path / "root3.key")
    sign(files[0], offline)
    sign(files[1], second)
    assert take(folder, files[0]) is None
    assert take(folder, unsigned) is None  # the first signature stays
    assert take(folder, files[1]) == 2
    assert folder.draft() is None
    assert take(folder, files[0]) == 2
    assert folder.draft() is None


def take(folder: KeyFolder, file: Path) -> int | None:
    return take_draft(folder, Ceremony.read(file).draft or b"")


def test_a_draft_that_does_not_hold_changes_nothing(folder: KeyFolder, offline: KeyFolder, tmp_path: Path) -> None:
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    sign(file, offline)
    signed = Ceremony.read(file).draft or b""
    before = folder.draft()
    for damaged in (b"\x80", b"", signed[:-1] + bytes([signed[-1] ^ 1])):
        with pytest.raises(InvalidInputError, match="does not hold"):
            take_draft(folder, damaged)
        assert folder.draft() == before
    folder.drop()
    with pytest.raises(InvalidInputError, match="does not hold"):
        take_draft(folder, b"\x80")
    assert folder.draft() is None


def test_a_draft_of_another_time_is_refused(folder: KeyFolder, offline: KeyFolder, tmp_path: Path) -> None:
    rotate(folder, "director")
    file = carry(folder, tmp_path / "carried.json")
    folder.drop()
    assert rotate(offline, "root1") == 2
    folder.add_root(offline.roots()[1])
    sign(file, offline)
    with pytest.raises(StateConflictError, match="does not follow root 2"):
        take(folder, file)
    assert folder.draft() is None


@pytest.mark.parametrize("version", ["v4\x1b[8m", "v3\rrelease of build 2: v3", "v3\nall is well", "v\u202e4"])
def test_a_name_that_hides_what_is_signed_is_not_shown(folder: KeyFolder, version: str) -> None:
    named = {"device_class": "cortex-m4", "component": "model/0", "version": version}
    manifest = draft_release(b"image", abi=1, release_counter=4, security_floor=2, **named)
    with pytest.raises(InvalidInputError, match="to deceive"):
        to_sign(Ceremony(folder.roots(), waiting={1: manifest}), folder.signers())


def test_a_release_key_that_no_root_names_signs_no_build(folder: KeyFolder) -> None:
    settings = Settings(data=folder.path.parent)
    signer = load_release_signer(settings)
    assert signer is not None
    shutil.copy(folder.path / "release.key", folder.path.parent)
    assert rotate(folder, "release") == 2
    (folder.path.parent / "release.key").replace(folder.path / "release.key")  # as between the root and its key
    assert load_release_signer(settings) is None
    folder.retire("release")
    assert load_release_signer(settings) is None
