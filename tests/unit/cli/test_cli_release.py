"""`fleetctl release make`: the manifest of a firmware, signed with the release key of the keys folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tinyfleet_ota import parse_release
from tinyfleet_service.cli.main import main
from tinyfleet_service.keys.folder import KeyFolder

MCUBOOT_MAGIC = bytes.fromhex("3db8f396")
IMAGE = MCUBOOT_MAGIC + bytes(range(256)) * 4


def fleetctl(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert fleetctl("keys", "init", "--keys", tmp_path / "keys") == 0
    capsys.readouterr()
    return tmp_path / "keys"


def options(keys: Path, out: Path, **changed: object) -> list[object]:
    values = {"device-class": "cortex-m4", "version": "fw7", "counter": 7, "abi": 1, "floor": 3} | changed
    return ["--keys", keys, "--out", out, *(word for name, value in values.items() for word in (f"--{name}", value))]


def test_a_firmware_is_signed_and_described(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = tmp_path / "firmware.signed", tmp_path / "firmware.manifest"
    image.write_bytes(IMAGE)
    assert fleetctl("release", "make", image, *options(keys, out), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    release = parse_release(out.read_bytes(), KeyFolder(keys).newest().release_keys)
    assert (release.component, release.version, release.abi) == ("firmware", "fw7", 1)
    assert (release.release_counter, release.security_floor, release.image_bytes) == (7, 3, len(IMAGE))
    assert release.image_digest == hashlib.sha256(IMAGE).digest()
    assert (said["component"], said["image_digest"]) == ("firmware", release.image_digest.hex())


def test_what_mcuboot_cannot_boot_is_refused(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = tmp_path / "firmware.bin", tmp_path / "firmware.manifest"
    image.write_bytes(b"\x00" * 100)
    assert fleetctl("release", "make", image, *options(keys, out)) == 1
    assert "imgtool sign" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("changed", [{"floor": 8}, {"version": "v" * 33}, {"component": "x" * 17}])
def test_values_outside_the_profile_are_refused(
    keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object]
) -> None:
    image, out = tmp_path / "firmware.signed", tmp_path / "firmware.manifest"
    image.write_bytes(IMAGE)
    assert fleetctl("release", "make", image, *options(keys, out, **changed)) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not out.exists()
