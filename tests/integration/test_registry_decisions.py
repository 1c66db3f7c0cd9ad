"""Aliases, approval, diffs, builds that are cancelled and tried again, and the small client for notebooks and CI."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from service_harness import DIGITS, Api, build_all, running_api
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.cli.main import main
from tinyfleet_service.client import Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, Device, ModelVersion
from tinyfleet_service.errors import (
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    SettingsError,
    StateConflictError,
    UnavailableError,
)
from tinyfleet_service.fleet import split_reference


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), require_approval=True) as api:
        yield api


@pytest.fixture(scope="module")
def fleet(api: Api) -> Fleet:
    """v1 from files, v2 from arrays, both built; one device."""
    fleet = Fleet(api.url, api.token)
    files = {"calibration": DIGITS / "calibration.npz", "evaluation": DIGITS / "evaluation.npz"}
    fleet.push("digits", "v1", DIGITS / "digits_v1.onnx", **files, metric="top1")
    arrays = {key: dict(np.load(path)) for key, path in files.items()}
    lineage = {"run_id": "r-7", "dataset_sha256": "0" * 64, "git_commit": "abc", "parent": "v1", "metrics": {"f1": 0.9}}
    fleet.push("digits", "v2", str(DIGITS / "digits_v2.onnx"), **arrays, metric="top1", lineage=lineage)
    build_all(api)
    with session_scope(api.engine) as session:
        session.add(Device(id="d-1", project_id=1, device_class="cortex-m4"))
    return fleet


def test_the_small_client_pushes_waits_and_reads(api: Api, fleet: Fleet) -> None:
    version = fleet.version("digits:v2").wait(timeout_s=60)
    assert 0.5 < (version.accuracy()["cortex-m4"] or 0) <= 1.0
    assert api.client().version("digits", "v2")["lineage"]["parent"] == "v1"
    assert [device["id"] for device in fleet.devices("class=cortex-m4")] == ["d-1"]


def test_an_alias_moves_and_is_resolved_when_a_rollout_starts(api: Api, fleet: Fleet) -> None:
    fleet.version("digits:v1").alias("champion")
    assert fleet.version("digits@champion").version == "v1"
    fleet.version("digits:v2").alias("champion")
    assert fleet.version("digits@champion").version == "v2"
    assert api.client().version("digits", "v2")["aliases"] == ["champion"]
    assert api.client().plan_rollout({"model": "digits", "version": "@champion"})["version"] == "digits:v2"
    api.client().drop_alias("digits", "champion")
    with pytest.raises(NotFoundError, match="known aliases: none"):
        fleet.version("digits@champion")
    with pytest.raises(NotFoundError):
        api.client().drop_alias("digits", "champion")
    for bad in ("UPPER", "a b", "@x", "a" * 40):
        with pytest.raises((InvalidInputError, NotFoundError)):
            api.client().set_alias("digits", bad, "v1")
    with pytest.raises(NotFoundError):
        api.client().set_alias("digits", "champion", "v9")


def test_only_an_approved_version_goes_out(api: Api, fleet: Fleet) -> None:
    with pytest.raises(StateConflictError, match="not approved"):
        fleet.rollout("digits:v2", canary="100%")
    operator = Fleet(api.url, api.client().create_token("op", "operator")["token"])
    with pytest.raises(ForbiddenError, match="approver"):
        operator.version("digits:v2").approve()
    fleet.version("digits:v2").approve("rejected")
    with pytest.raises(StateConflictError, match="rejected"):
        fleet.rollout("digits:v2", canary="100%")
    fleet.version("digits:v2").approve()
    assert api.client().version("digits", "v2")["approved_by"] == "admin"
    rollout = fleet.rollout("digits:v2", canary="100%")
    assert rollout.state() == "running"
    with pytest.raises(UnavailableError, match="took too long"):
        rollout.wait(timeout_s=-1)


def test_a_diff_shows_size_delta_accuracy_and_layers(fleet: Fleet) -> None:
    found = fleet.version("digits:v1").diff("v2")
    (row,) = found["classes"]
    builds = {v: fleet.version(f"digits:{v}").builds()[0] for v in ("v1", "v2")}
    assert row["image_bytes"] == [builds["v1"]["image_bytes"], builds["v2"]["image_bytes"]]
    assert row["accuracy"] == [builds[v]["report"]["accuracy"]["quantized"] for v in ("v1", "v2")]
    assert 0 < row["delta_bytes"] < builds["v2"]["image_bytes"]
    assert row["layers"] == [len(builds[v]["report"]["layers"]) for v in ("v1", "v2")]
    same = fleet.version("digits:v1").diff("v1")
    assert (same["same_file"], same["classes"][0]["delta_bytes"], same["classes"][0]["layers_changed"]) == (True, 0, [])
    with pytest.raises(NotFoundError):
        fleet.version("digits:v1").diff("v9")


def test_a_build_is_cancelled_and_tried_again(api: Api, fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    with session_scope(api.engine) as session:
        row = ModelVersion(model_id=1, version="v3", model_sha256="0" * 64, model_bytes=1)
        session.add(row)
        session.flush()
        build = Build(version_id=row.id or 0, device_class="cortex-m4", state="running", lease_owner="me", attempt=3)
        session.add(build)
        session.flush()
        number = build.id or 0
    client = api.client()
    assert client.cancel_build(number)["state"] == "cancelled"
    with pytest.raises(StateConflictError):
        client.cancel_build(number)
    builder = Builder(api.settings, api.engine)
    assert builder.step() is False  # nobody takes it
    builder.close()
    found = client.retry_build(number)
    assert (found["state"], found["attempt"], found["error"]) == ("queued", 0, None)
    with pytest.raises(StateConflictError):
        client.retry_build(number)
    client.cancel_build(number)
    said = [line["text"] for line in client.build_log(number)]
    assert said == ["cancelled", "queued", "cancelled"]
    assert client.builds(1)[0] | {"step": said[-1], "version": "digits:v3"} == client.builds(1)[0]
    for words, shown in ((["logs", str(number), "-f"], said), (["status", str(number)], said[-1:]), (["list"], ["v3"])):
        text = fleetctl(api, capsys, "build", *words)
        assert all(part in text for part in shown)


def fleetctl(api: Api, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["--url", api.url, "--token", api.token, *words])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_tags_are_replaced_and_selected(api: Api, fleet: Fleet) -> None:
    assert api.client().set_tags("d-1", {"site": "oslo", "line": "2"})["tags"] == {"site": "oslo", "line": "2"}
    assert [device["id"] for device in fleet.devices("site=oslo and not line=1")] == ["d-1"]
    with pytest.raises(SystemExit) as ended:
        main(["--url", api.url, "--token", api.token, "device", "tag", "d-1", "site=lyon", "line-"])
    assert ended.value.code == 0
    assert api.client().device("d-1")["tags"] == {"site": "lyon"}
    assert fleet.devices("site=oslo") == []
    for bad in ({"": "x"}, {"A": "x"}, {"site": "a b"}, {f"k{n}": "v" for n in range(40)}):
        with pytest.raises(InvalidInputError):
            api.client().set_tags("d-1", bad)
    assert api.client().device("d-1")["tags"] == {"site": "lyon"}


def test_references_and_a_missing_address_are_clear_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_reference("m:v1") == ("m", "v1")
    assert split_reference("m@champion") == ("m", "@champion")
    for bad in ("m", "m:", ":v1", "m@", "@a"):
        with pytest.raises(InvalidInputError):
            split_reference(bad)
    monkeypatch.delenv("TINYFLEET_URL", raising=False)
    with pytest.raises(SettingsError, match="TINYFLEET_URL"):
        Fleet()
