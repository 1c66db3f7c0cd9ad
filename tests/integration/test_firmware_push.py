"""Firmware as a version: images of imgtool, checked before they count, immutable, signed like any build."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from agent.agent.firmware_rig import firmware_image
from service_harness import Api, push_digits, running_api
from tinyfleet_ota import read_release
from tinyfleet_service.builds import sign_waiting
from tinyfleet_service.builds.sign import load_release_signer
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build
from tinyfleet_service.errors import InvalidInputError, TooLargeError, VersionConflictError
from tinyfleet_service.registry.firmware import parse_firmware

LIMIT = 300_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), upload_limit_bytes=LIMIT) as api:
        serve_json = {"url": api.url, "ports": {}, "pids": {}}
        api.settings.dirs.serve_json.write_text(json.dumps(serve_json))
        yield api


def write(folder: Path, data: bytes, name: str = "app-signed.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def fleetctl(api: Api, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinyfleet_service.cli", *arguments]
    where = {"TINYFLEET_DATA": str(api.settings.data), "COLUMNS": "120", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=where, capture_output=True, text=True, timeout=60)


def builds(api: Api) -> int:
    with session_scope(api.engine, read_only=True) as session:
        return len(session.exec(select(Build)).all())


def test_an_image_is_registered_signed_and_shown(api: Api, tmp_path: Path) -> None:
    image = firmware_image(1)
    path = write(tmp_path, image)
    done = fleetctl(api, "firmware", "push", "app:v1", "--image", f"cortex-m4={path}", "--no-wait", "-o", "json")
    assert done.returncode == 0, done.stderr
    (build,) = json.loads(done.stdout)["builds"]
    assert (build["device_class"], build["state"], build["image_bytes"]) == (
        "cortex-m4",
        "awaiting-signature",
        len(image),
    )
    signer = load_release_signer(api.settings)
    assert signer is not None
    assert sign_waiting(api.engine, BlobStore(api.settings.dirs.blobs), signer) == 1
    with session_scope(api.engine, read_only=True) as session:
        release = read_release(session.get_one(Build, build["id"]).manifest or b"")
    assert (release.component, release.version, release.image_bytes) == ("firmware", "v1", len(image))
    said = api.client().version("app", "v1")["builds"][0]
    assert (said["state"], said["report"]["firmware"]["version"]) == ("ready", "1.1.0+0")
    assert said["report"]["firmware"]["signed"] is True
    for arguments in (("model", "show", "app:v1"), ("model", "list", "-o", "wide"), ("build", "list")):
        done = fleetctl(api, *arguments)
        assert done.returncode == 0, done.stderr
    assert {m["name"]: m["component"] for m in api.client().models()}["app"] == "firmware"


def test_versions_are_immutable_and_names_keep_their_kind(api: Api, tmp_path: Path) -> None:
    client, first = api.client(), {"cortex-m4": write(tmp_path, firmware_image(1))}
    pushed = client.push_firmware("boot", "v1", first)
    before = builds(api)
    assert client.push_firmware("boot", "v1", first)["id"] == pushed["id"]
    with pytest.raises(VersionConflictError, match="other content"):
        client.push_firmware("boot", "v1", {"cortex-m4": write(tmp_path, firmware_image(2), "other.bin")})
    with pytest.raises(VersionConflictError, match="other content"):
        client.push_firmware("boot", "v1", first, abi=99)
    push_digits(client)
    with pytest.raises(VersionConflictError, match="for component model/0"):
        client.push_firmware("digits", "v9", first)
    with pytest.raises(VersionConflictError, match="for component firmware"):
        push_digits(client, name="boot", version="v2")
    with pytest.raises(InvalidInputError, match="no device class 'cortex-m99'"):
        client.push_firmware("boot", "v2", {"cortex-m99": first["cortex-m4"]})
    assert builds(api) == before + 1, "digits"
    client.add_device_class("cortex-m7")
    assert len(client.version("boot", "v1")["builds"]) == 1, "nobody can compile it for another class"


def header(**changes: int) -> Callable[[bytes], bytes]:
    """The image with other numbers in its header: offset of the field -> value."""
    at = {"header_bytes": ("<H", 8), "protected": ("<H", 10), "body": ("<I", 12), "flags": ("<I", 16)}

    def change(image: bytes) -> bytes:
        data = bytearray(image)
        for name, value in changes.items():
            struct.pack_into(at[name][0], data, at[name][1], value)
        return bytes(data)

    return change


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda image: b"", "magic is missing"),
    "another file": (lambda image: b"\x7fELF" + image[4:], "magic is missing"),
    "half of it": (lambda image: image[: len(image) // 2], "cut short"),
    "without its end": (lambda image: image[:-3], "no whole TLV area"),
    "a flipped bit": (lambda image: image[:900] + bytes([image[900] ^ 1]) + image[901:], "is damaged"),
    "another version": (lambda image: image[:20] + b"\x09" + image[21:], "is damaged"),
    "padded": (lambda image: image + b"\xff" * 64, "bytes behind its TLVs"),
    "a header of nothing": (header(header_bytes=0), "cut short or its header"),
    "no body": (header(body=0), "cut short or its header"),
    "a body of 4 GB": (header(body=0xFFFFFFFF), "cut short or its header"),
    "protected TLVs that are not there": (header(protected=8), "TLV area"),
    "encrypted": (header(flags=4), "is encrypted"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_mcuboot_would_refuse_is_refused_here_first(api: Api, tmp_path: Path, kind: str) -> None:
    change, why = HOSTILE[kind]
    before = builds(api)
    with pytest.raises(InvalidInputError, match=why) as caught:
        api.client().push_firmware("bad", "v1", {"cortex-m4": write(tmp_path, change(firmware_image(1)))})
    assert "imgtool" in caught.value.next
    assert builds(api) == before


def test_no_byte_of_header_or_body_can_change(api: Api) -> None:
    """Nor of the TLVs, but for the signature: that is MCUboot's to check, with a key that is not here."""
    image = firmware_image(1)
    body = parse_firmware(image, "x").body_bytes + 32
    for at in (*range(0, 32), *range(32, body, 97), *range(body, body + 8)):
        changed = image[:at] + bytes([image[at] ^ 0x55]) + image[at + 1 :]
        with pytest.raises(InvalidInputError):
            parse_firmware(changed, "x")


def test_bad_requests_are_refused_whole(api: Api, tmp_path: Path) -> None:
    path = write(tmp_path, firmware_image(1))
    large = write(tmp_path, b"\x3d\xb8\xf3\x96" * (LIMIT // 4 + 100), "large.bin")
    before = builds(api)
    with pytest.raises(TooLargeError):
        api.client().push_firmware("bad", "v1", {"cortex-m4": large})
    for wrong in ("cortex-m4", f"={path}", f"cortex-m4={tmp_path}/none.bin"):
        done = fleetctl(api, "firmware", "push", "bad:v1", "--image", wrong)
        assert (done.returncode, "CLASS=FILE" in done.stderr) == (1, True)
    form: dict[str, Any] = {"version": "v1", "device_class": ["cortex-m4", "cortex-m4"]}
    files = [("image", ("a.bin", path.read_bytes())), ("image", ("b.bin", path.read_bytes()))]
    with pytest.raises(InvalidInputError, match="each class once") as caught:
        api.client()._object("POST", "/api/v1/models/bad/firmware", data=form, files=files)
    assert caught.value.next
    assert builds(api) == before
