"""Registering models: immutable versions, and uploads that count only when they hold."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

import web
from service_harness import DIGITS, Api, push_digits, running_api
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, Model, ModelVersion
from tinyfleet_service.errors import (
    ConflictError,
    InvalidInputError,
    ModelInvalidError,
    NotFoundError,
    StorageError,
    TooLargeError,
    VersionConflictError,
)

LIMIT = 300_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), upload_limit_bytes=LIMIT) as api:
        yield api


def state_of(api: Api) -> tuple[int, int, int, list[Path]]:
    """Rows and files: what a refused push must leave as it was."""
    with session_scope(api.engine, read_only=True) as session:
        rows = [len(session.exec(select(table)).all()) for table in (Model, ModelVersion, Build)]
    return (*rows, sorted(path for path in api.settings.dirs.blobs.rglob("*") if path.is_file()))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_same_push_again_changes_nothing(api: Api) -> None:
    first = push_digits(api.client())
    before = state_of(api)
    assert push_digits(api.client())["id"] == first["id"]
    assert state_of(api) == before
    assert [build["device_class"] for build in first["builds"]] == ["cortex-m4"]
    assert api.client().model("digits")["versions"][0]["model_sha256"] == first["model_sha256"]
    assert "digits" in [model["name"] for model in api.client().models()]


def test_the_same_version_with_other_bytes_is_refused(api: Api) -> None:
    push_digits(api.client())
    before = state_of(api)[:3]
    with pytest.raises(VersionConflictError) as caught:
        api.client().push_model("digits", "v1", DIGITS / "digits_v2.onnx", calibration=DIGITS / "calibration.npz")
    assert "model_sha256" in caught.value.data["differing"]
    assert state_of(api)[:3] == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_a_lineage_is_json_to_everybody_who_reads_it(api: Api, value: object) -> None:
    data, lineage = DIGITS / "calibration.npz", {"metrics": {"loss": value}}
    with pytest.raises(InvalidInputError, match="lineage is not JSON"):
        api.client().push_model("odd", "v1", DIGITS / "digits_v1.onnx", calibration=data, lineage=lineage)


def test_a_models_component_is_said_by_its_first_version_and_stays(api: Api) -> None:
    def push(version: str, component: str | None) -> dict[str, Any]:
        return api.client().push_model(
            "gesture", version, DIGITS / "digits_v1.onnx", calibration=DIGITS / "calibration.npz", component=component
        )

    before = state_of(api)
    for wrong in ("model/10", "model/-1", "model/", "firmware", "Model/1", "model/1 ", "model/\u0661"):
        with pytest.raises(InvalidInputError, match="no model component"):
            push("v1", wrong)
    assert state_of(api) == before
    push("v1", "model/1")
    push("v2", None)
    push("v2", "model/1")
    assert {m["name"]: m["component"] for m in api.client().models()}["gesture"] == "model/1"
    with pytest.raises(VersionConflictError, match="for component model/1") as caught:
        push("v3", "model/0")
    assert caught.value.data["differing"] == ["component"]
    assert [row["version"] for row in api.client().model("gesture")["versions"]] == ["v1", "v2"]


@pytest.mark.parametrize(
    "data", [b"", b"not a model", b"\x08\x07" * 1000, (DIGITS / "digits_v1.onnx").read_bytes()[:20_000]]
)
def test_broken_models_are_refused_whole(api: Api, tmp_path: Path, data: bytes) -> None:
    before = state_of(api)
    with pytest.raises(ModelInvalidError) as caught:
        api.client().push_model("m", "v1", write(tmp_path, "m.onnx", data), calibration=DIGITS / "calibration.npz")
    assert caught.value.data["problems"]
    assert "tmp" not in caught.value.message
    assert ": :" not in caught.value.message
    assert caught.value.next
    assert state_of(api) == before


BAD_DATA = {
    "no zip": b"text",
    "pickle": npz(x=np.array([{}], dtype=object)),
    "no x": npz(z=np.zeros(3)),
    "wrong shape": npz(x=np.zeros((4, 1, 9, 8), np.float32)),
    "no samples": npz(x=np.zeros((0, 1, 8, 8), np.float32)),
    "NaN": npz(x=np.full((4, 1, 8, 8), np.nan, np.float32)),
}


@pytest.mark.parametrize("kind", BAD_DATA)
@pytest.mark.parametrize("field", ["calibration", "evaluation"])
def test_bad_data_files_are_refused_whole(api: Api, tmp_path: Path, kind: str, field: str) -> None:
    before = state_of(api)
    files = {"calibration": DIGITS / "calibration.npz", field: write(tmp_path, "bad.npz", BAD_DATA[kind])}
    with pytest.raises(InvalidInputError, match=field):
        api.client().push_model("m", "v1", DIGITS / "digits_v1.onnx", **files)
    assert state_of(api) == before


def test_a_float_model_needs_calibration(api: Api) -> None:
    before = state_of(api)
    with pytest.raises(InvalidInputError, match="calibration"):
        api.client().push_model("m", "v1", DIGITS / "digits_v1.onnx")
    assert state_of(api) == before


def test_a_file_above_the_limit_is_refused(api: Api, tmp_path: Path) -> None:
    before = state_of(api)
    with pytest.raises(TooLargeError) as caught:
        api.client().push_model("m", "v1", write(tmp_path, "big.onnx", bytes(LIMIT + 1)))
    assert caught.value.data["limit_bytes"] == LIMIT
    assert state_of(api) == before


def test_a_body_above_the_limit_is_refused_before_it_is_read(api: Api, tmp_path: Path) -> None:
    with pytest.raises(TooLargeError):
        api.client().push_model("m", "v1", write(tmp_path, "huge.onnx", bytes(5 * LIMIT)))


def test_a_body_without_a_declared_length_is_counted(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    chunks = (b"x" * 65536 for _ in range(40))
    answer = web.post(f"{api.url}/api/v1/device-classes", headers=headers, content=chunks)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too-large")


def test_a_full_disk_is_named_and_changes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state_of(api)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tinyfleet_service.database.blobs.os.replace", full)
        with pytest.raises(StorageError, match="No space left"):
            api.client().push_model("m", "v1", DIGITS / "digits_v3.onnx", calibration=DIGITS / "calibration.npz")
    assert state_of(api) == before


@pytest.mark.parametrize(
    ("name", "version"),
    [("Digits", "v1"), ("a" * 65, "v1"), ("a b", "v1"), ("-a", "v1"), ("m", ""), ("m", "v 1"), ("m", "v" * 33)],
)
def test_bad_names_are_refused(api: Api, name: str, version: str) -> None:
    before = state_of(api)
    with pytest.raises(InvalidInputError):
        api.client().push_model(name, version, DIGITS / "digits_v1.onnx", calibration=DIGITS / "calibration.npz")
    assert state_of(api) == before


def test_metrics_in_python_files_never_run_on_the_service(api: Api) -> None:
    with pytest.raises(InvalidInputError, match="metric"):
        api.client().push_model("m", "v1", DIGITS / "digits_v1.onnx", metric="evil.py:run")


def test_unknown_things_are_named_with_what_there_is(api: Api) -> None:
    push_digits(api.client())
    with pytest.raises(NotFoundError, match=r"digits"):
        api.client().model("nothing")
    with pytest.raises(NotFoundError, match=r"v1"):
        api.client().version("digits", "v9")
    with pytest.raises(NotFoundError):
        api.client().build(10**9)


def test_device_classes_are_added_once_and_build_the_newest(api: Api) -> None:
    push_digits(api.client())
    client = api.client()
    assert client.add_device_class("esp32-s3")["name"] == "esp32-s3"
    client.add_device_class("esp32-s3")
    assert {row["name"] for row in client.device_classes()} == {"cortex-m4", "esp32-s3"}
    assert [b["device_class"] for b in client.version("digits", "v1")["builds"]] == ["cortex-m4", "esp32-s3"]


def test_images_of_a_class_are_encrypted_by_its_switch(api: Api) -> None:
    client = api.client()
    client.add_device_class("cortex-m7")
    assert client.encrypt_class("cortex-m7")["encrypted"] is True
    assert {row["name"]: row["encrypted"] for row in client.device_classes()}["cortex-m7"] is True
    assert client.encrypt_class("cortex-m7", False)["encrypted"] is False
    with pytest.raises(NotFoundError, match="cortex-m99"):
        client.encrypt_class("cortex-m99")


def test_bad_device_classes_are_refused(api: Api) -> None:
    client = api.client()
    with pytest.raises(NotFoundError, match="cortex-m4"):
        client.add_device_class("cortex-m99")
    with pytest.raises(InvalidInputError) as caught:
        client.add_device_class(toml='name = "x"\narena_bytes = -1\n')
    assert len(caught.value.data["problems"]) > 5
    with pytest.raises(InvalidInputError):
        client.add_device_class("cortex-m4", toml="x")
    toml = next(row["toml"] for row in client.device_classes() if row["name"] == "cortex-m4")
    with pytest.raises(ConflictError, match="other values"):
        client.add_device_class(toml=toml.replace("131072", "65536"))
