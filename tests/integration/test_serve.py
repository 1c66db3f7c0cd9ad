"""`serve`: prepares, supervises, restarts what dies, stops in order; clear errors where it cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyfleet_service.client import Client
from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.database.migrate import upgrade
from tinyfleet_service.errors import FleetError
from tinyfleet_service.settings import load_settings

PATIENCE_S = 90.0
PUBLIC = {".crt", ".crl", ".pid"}
FREE_PORTS = {"TINYFLEET_HTTP_PORT": "0", "TINYFLEET_BROKER_PORT": "0", "TINYFLEET_EST_PORT": "0"}


def start(data: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tinyfleet_service.serve", "--data", str(data)]
    return subprocess.Popen(
        command,
        env=os.environ | FREE_PORTS | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def fails(data: Path, **environment: str) -> str:
    process = start(data, **environment)
    _, problems = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Traceback" not in problems
    return problems


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.1)
    return found


def ready(process: subprocess.Popen[str], data: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("tinyfleet serves http"), process.stderr.read() if process.stderr else ""
    return described(data)


def described(data: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((data / "serve.json").read_text())
    return document


def client_of(data: Path) -> Client:
    return Client(described(data)["url"], (data / "admin.token").read_text().strip())


def answers(data: Path) -> bool:
    try:
        return client_of(data).health() == {"status": "ok"}
    except FleetError:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("serve")
    process = start(data)
    ready(process, data)
    yield data
    pids = described(data)["pids"].values()
    assert end(process) == 0
    assert not [pid for pid in pids if is_alive(pid)]


def test_every_process_runs_and_the_api_answers(running: Path) -> None:
    pids = described(running)["pids"]
    assert set(pids) == {"serve", "broker", "api", "est", "controller", "ingest", "builder", "webhooks"}
    assert all(is_alive(pid) for pid in pids.values())
    assert client_of(running).device_classes()[0]["name"] == "cortex-m4"


def test_processes_are_told_apart_and_come_from_one(running: Path) -> None:
    pids = described(running)["pids"]
    forks = {name: pid for name, pid in pids.items() if name not in ("serve", "broker")}
    assert {name: title(pid) for name, pid in forks.items()} == {name: f"tinyfleet {name}" for name in forks}
    assert len({parent(pid) for pid in forks.values()} - {pids["serve"]}) == 1


def test_secrets_are_private_and_in_no_log(running: Path) -> None:
    token = (running / "admin.token").read_text().strip()
    client_of(running).models()
    for path in running.rglob("*"):
        assert path.suffix in PUBLIC or path.stat().st_mode & 0o77 == 0, path
    passphrase = (running / "keys" / "passphrase").read_text().strip()
    for log in (running / "log").iterdir():
        text = log.read_text()
        assert token not in text
        assert passphrase not in text


def test_logs_are_json_lines(running: Path) -> None:
    for name in ("serve", "est"):
        for line in (running / "log" / f"{name}.log").read_text().splitlines():
            assert {"at", "level", "process", "message"} <= set(json.loads(line))


def test_a_second_serve_on_the_same_data_is_refused(running: Path) -> None:
    problems = fails(running)
    assert f"process {described(running)['pids']['serve']}" in problems
    assert "--data" in problems
    assert answers(running)


@pytest.mark.parametrize("name", ["api", "broker", "ingest"])
def test_what_dies_is_started_again(running: Path, name: str) -> None:
    pid = described(running)["pids"][name]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: described(running)["pids"].get(name) not in (pid, None))
    wait_for(lambda: answers(running))
    assert is_alive(described(running)["pids"][name])


def test_all_start_again_when_what_they_are_forks_of_is_killed(running: Path) -> None:
    before = described(running)["pids"]
    os.kill(parent(before["api"]), signal.SIGKILL)
    names = set(before) - {"serve", "broker"}
    wait_for(lambda: all(described(running)["pids"].get(name) not in (before[name], None) for name in names))
    wait_for(lambda: not [name for name in names if is_alive(before[name])])
    wait_for(lambda: all(is_alive(pid) for pid in described(running)["pids"].values()) and answers(running))


@pytest.mark.parametrize("later_s", [0.3, 2.0, 3.5])
def test_ctrl_c_in_mid_start_ends_it_in_order(tmp_path: Path, later_s: float) -> None:
    process = start(tmp_path)
    wait_for(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    time.sleep(later_s)
    os.killpg(process.pid, signal.SIGINT)
    _, problems = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, problems) == (0, "")


def test_a_killed_supervisor_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    first = start(tmp_path)
    before = ready(first, tmp_path)
    token = (tmp_path / "admin.token").read_text()
    first.kill()
    first.wait()
    others = [pid for name, pid in before["pids"].items() if name not in ("serve", "broker")]
    wait_for(lambda: not [pid for pid in others if is_alive(pid)])
    second = start(tmp_path)
    after = ready(second, tmp_path)
    assert not is_alive(before["pids"]["broker"])
    assert after["ports"] == before["ports"]
    assert (tmp_path / "admin.token").read_text() == token
    assert answers(tmp_path)
    assert end(second) == 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        problems = fails(tmp_path, TINYFLEET_HTTP_PORT=str(taken.getsockname()[1]))
    assert "TINYFLEET_HTTP_PORT" in problems
    assert str(taken) not in problems


def test_a_missing_broker_program_names_the_package(tmp_path: Path) -> None:
    assert "apt install mosquitto" in fails(tmp_path, TINYFLEET_MOSQUITTO="no-such-broker")


def test_a_process_alone_does_not_start_beside_a_schema_of_another_version(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    settings.dirs.create()
    upgrade(make_engine(settings), "0010")
    command = [sys.executable, "-m", "tinyfleet_service.serve", "controller", "--data", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "schema 0010" in result.stderr
    assert "fleetctl migrate" in result.stderr


def test_an_unusable_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails(tmp_path / "file")


def test_lost_keys_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "root1.key").write_text("damaged")
    assert "restore the keys folder" in fails(tmp_path)
