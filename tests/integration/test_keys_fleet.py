"""Keys change under a working fleet: real broker, real agents, real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from integration.fleet_database import PROJECT
from integration.fleet_support import eventually
from integration.hostile_world import WAIT_S, World, model, running_world, runs
from integration.test_hostile_outages import start, state_of, working_house
from service_harness import Api, running_api
from tinyfleet_service.builds import sign_waiting, waiting_builds, withdraw_revoked
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, BuildState, Device, Model, ModelVersion
from tinyfleet_service.keys import key_folder
from tinyfleet_service.keys.ceremony import rotate

pytestmark = pytest.mark.slow


def reported(world: World, device: str) -> dict[str, Any]:
    with session_scope(world.house.engine, read_only=True) as session:
        return session.get_one(Device, device).reported


def test_devices_walk_every_root_and_follow_the_new_director(tmp_path: Path) -> None:
    with running_world(tmp_path) as world, working_house(world):
        fleet = world.start(count=2)
        devices = [event["device"] for event in fleet.wait("connected", 2)]
        first = start(world, "v1")
        assert eventually(lambda: state_of(world, first) == "promoted", WAIT_S)
        folder = key_folder(world.settings)
        for name in ("director", "release", "root1", "director"):
            rotate(folder, name)
        assert eventually(lambda: all(reported(world, d)["root"] == 5 for d in devices), WAIT_S)
        assert eventually(lambda: all(reported(world, d)["director_epoch"] == 3 for d in devices), WAIT_S)
        assert all(runs(reported(world, d), world.house.image_id(model("v1")).hex()) for d in devices)

        with session_scope(world.house.engine, read_only=True) as session:
            builds = len(session.exec(select(Build).where(Build.state == BuildState.READY)).all())
        withdrawn = withdraw_revoked(world.house.engine, folder.newest())
        assert len(withdrawn) == builds == len(waiting_builds(world.house.engine))
        assert sign_waiting(world.house.engine, world.house.store, folder.load("release")) == builds
        second = start(world, "v2", margin=0.2)  # v2 is a point worse: by the default of 2 this takes minutes, or not
        assert eventually(lambda: state_of(world, second) == "promoted", WAIT_S)
        assert all(runs(reported(world, d), world.house.image_id(model("v2")).hex()) for d in devices)


def fleetctl(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinyfleet_service.cli", *map(str, arguments)]
    where = {"PATH": "/usr/bin:/bin", "COLUMNS": "200"} | environment
    return subprocess.run(command, env=where, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def shown(*arguments: object, **environment: str) -> str:
    done = fleetctl(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def waiting_build(api: Api, name: str = "offline", counter: int = 900) -> int:
    """A build as the builder leaves it where the release key is elsewhere."""
    with session_scope(api.engine) as session:
        row = Model(project_id=PROJECT, name=name)
        session.add(row)
        session.flush()
        version = ModelVersion(model_id=row.id or 0, version="v1", model_sha256="0" * 64, model_bytes=1)
        session.add(version)
        session.flush()
        image = BlobStore(api.settings.dirs.blobs).put(b"an image")
        build = Build(version_id=version.id or 0, device_class="cortex-m4", state=BuildState.AWAITING_SIGNATURE,
                      image_sha256=image, image_bytes=8, abi=1, release_counter=counter)  # fmt: skip
        session.add(build)
        session.flush()
        return build.id or 0


def test_a_ceremony_typed_by_hand(tmp_path: Path) -> None:
    with running_api(tmp_path / "data") as api:
        api.settings.dirs.serve_json.write_text(json.dumps({"url": api.url, "ports": {}, "pids": {}}))
        build, data, safe = waiting_build(api), api.settings.data, tmp_path / "safe"
        safe.mkdir()
        for name in ("root1.key", "root2.key", "root3.key", "release.key"):
            shutil.move(api.settings.dirs.keys / name, safe)
        for name in ("passphrase", "root-1.cbor"):
            shutil.copy(api.settings.dirs.keys / name, safe)
        file = tmp_path / "carried.json"

        assert "signatures missing" in shown("--data", data, "keys", "rotate", "director")
        assert "a new root, 1 releases to sign" in shown("--data", data, "keys", "export", "--out", file)
        signed = shown("keys", "sign", file, "--keys", safe, "--yes")
        assert "+ director key" in signed
        assert "counter 900" in signed
        imported = shown("--data", data, "keys", "import", file)
        assert "root 2 holds" in imported
        assert f"build {build}: ready" in imported
        listed = json.loads(shown("--data", data, "keys", "list", "-o", "json"))
        assert (listed["root"], listed["director_epoch"], listed["missing"]) == (2, 2, [])
        assert {row["role"]: row["here"] for row in listed["keys"]} == {
            "root": None, "release": None, "director": "director",
        }  # fmt: skip
        assert "elsewhere" in shown("--data", data, "keys", "list")

        again = fleetctl("--data", data, "keys", "import", file)  # the same file twice: said, and nothing changes
        assert again.returncode == 1
        assert "only a build that waits" in again.stderr
        assert json.loads(shown("--data", data, "keys", "list", "-o", "json")) == listed


def test_a_build_that_is_signed_already_keeps_no_other_waiting(tmp_path: Path) -> None:
    with running_api(tmp_path / "data") as api:
        api.settings.dirs.serve_json.write_text(json.dumps({"url": api.url, "ports": {}, "pids": {}}))
        first, second = waiting_build(api), waiting_build(api, "another", 901)
        data, file, part = api.settings.data, tmp_path / "carried.json", tmp_path / "part.json"
        shown("--data", data, "keys", "export", "--out", file)
        shown("--data", data, "keys", "sign", file, "--yes")
        document = json.loads(file.read_text())
        part.write_text(json.dumps({**document, "signed": {str(first): document["signed"][str(first)]}}))
        assert f"build {first}: ready" in shown("--data", data, "keys", "import", part)
        whole = fleetctl("--data", data, "keys", "import", file)
        assert f"build {second}: ready" in whole.stdout
        assert (whole.returncode, "only a build that waits" in whole.stderr) == (1, True)


def test_mistakes_are_said_and_change_nothing(tmp_path: Path) -> None:
    shown("keys", "init", "--keys", tmp_path / "a", "--algorithm", "es256")
    shown("keys", "init", "--keys", tmp_path / "b")
    before = sorted(path.name for path in (tmp_path / "a").iterdir())
    (tmp_path / "keys only").mkdir()
    for name in ("root1.key", "root2.key", "passphrase"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "keys only")
    shown("keys", "export", "--keys", tmp_path / "a", "--no-releases", "--out", tmp_path / "f")
    for arguments, word in [
        (("sign", tmp_path / "f", "--keys", tmp_path / "b", "--yes"), "not those known here"),
        (("sign", tmp_path / "f", "--keys", tmp_path / "a", "--yes"), "no key here can sign"),
        (("sign", tmp_path / "f", "--keys", tmp_path / "keys only", "--yes"), "no root is known here"),
        (("rotate", "king", "--keys", tmp_path / "a"), "no key 'king'"),
        (("rotate", "root1", "--keys", tmp_path / "a", "--pkcs11", "nonsense"), "MODULE:TOKEN:LABEL"),
        (("rotate", "root1", "--keys", tmp_path / "a", "--pkcs11", "/no.so:t:l"), "PIN"),
        (("revoke", "director", "--keys", tmp_path / "a"), "too few"),
        (("list", "--keys", tmp_path / "none"), "no root 1"),
        (
            ("export", "--no-releases", "--keys", tmp_path / "a", "--out", tmp_path / "a" / "root1.key"),
            "no ceremony file",
        ),
        (("import", tmp_path / "a" / "root-1.cbor", "--keys", tmp_path / "a"), "no ceremony file"),
    ]:
        done = fleetctl("keys", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == before


def test_the_successor_of_a_key_in_a_broken_token_is_signed(tmp_path: Path) -> None:
    keys, file = tmp_path / "keys", tmp_path / "carried.json"
    shown("keys", "init", "--keys", keys)
    (keys / "root1.key").rename(tmp_path / "root1.key")  # one root key here is not enough
    (keys / "root2.key").rename(tmp_path / "root2.key")
    (keys / "release.key").unlink()
    (keys / "release.pkcs11").write_text('{"module": "/no.so", "token": "t", "label": "l"}')
    assert "signatures missing" in shown("keys", "rotate", "release", "--keys", keys)
    shown("keys", "export", "--keys", keys, "--no-releases", "--out", file)
    shutil.copytree(keys, tmp_path / "safe")
    (tmp_path / "root1.key").rename(tmp_path / "safe" / "root1.key")
    assert "+ release key" in shown("keys", "sign", file, "--keys", tmp_path / "safe", "--yes")
    assert "root 2 holds" in shown("keys", "import", file, "--keys", keys)
    assert (keys / "release.key").exists()
