"""Parts of the supervisor that need no server: back-off, ports, logs, keys."""

from __future__ import annotations

import gc
import json
import logging
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tinyfleet_ota import FileSigner, parse_root
from tinyfleet_service import keys
from tinyfleet_service.errors import SettingsError, StartError
from tinyfleet_service.keys.ceremony import rotate
from tinyfleet_service.observe import logs
from tinyfleet_service.observe.logs import JsonFormatter
from tinyfleet_service.serve import child as child_module
from tinyfleet_service.serve import processes
from tinyfleet_service.serve.child import Child, end_all
from tinyfleet_service.serve.ports import QUIET_PORTS, check_port, resolve_ports
from tinyfleet_service.settings import Settings, load_settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(child_module, "time", clock)
    return clock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(tmp_path, http_port=0, broker_port=0, est_port=0)
    settings.dirs.create()
    return settings


def test_chosen_ports_differ_and_are_none_that_outgoing_connections_get(settings: Settings) -> None:
    chosen = resolve_ports(settings)
    ports = {chosen.http_port, chosen.broker_port, chosen.est_port}
    assert len(ports) == 3
    assert ports <= set(QUIET_PORTS)


def dies() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    return process


def lives() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def restart_times(child: Child, clock: Clock, until: float) -> list[float]:
    """Seconds after which the child was started again, watched ten times a second."""
    begin, times = clock.now, []
    while clock.now < begin + until:
        if child.watch():
            times.append(round(clock.now - begin, 1))
        clock.now += 0.1
    return times


def test_pauses_double_up_to_a_bound(clock: Clock) -> None:
    child = Child("x", dies)
    child.launch()
    times = restart_times(child, clock, 120)
    pauses = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert pauses[:4] == pytest.approx([0.5, 1.0, 2.0, 4.0], abs=0.35)
    assert max(pauses) <= child_module.LONGEST_PAUSE_S + 0.5
    assert child.restarts == len(times)


def test_a_start_that_fails_is_tried_again(clock: Clock) -> None:
    def refuses() -> subprocess.Popen[bytes]:
        raise StartError("port in use")

    child = Child("x", dies)
    child.launch()
    child.start = refuses
    assert restart_times(child, clock, 10) == []
    child.start = dies
    assert restart_times(child, clock, 10)


def test_a_healthy_minute_shortens_the_pause(clock: Clock) -> None:
    child = Child("x", dies)
    child.launch()
    restart_times(child, clock, 60)
    child.start = lives
    restart_times(child, clock, 60)
    assert child.process is not None
    assert child.process.poll() is None
    clock.now += child_module.HEALTHY_S + 1
    end_all([child.process], 10)
    assert restart_times(child, clock, 1)
    end_all([child.process], 10)


def test_ports_are_chosen_once_and_kept(settings: Settings) -> None:
    first = resolve_ports(settings)
    chosen = {name: getattr(first, name) for name in ("http_port", "broker_port", "est_port")}
    assert len(set(chosen.values())) == 3
    settings.dirs.serve_json.write_text(json.dumps({"ports": chosen}))
    assert resolve_ports(settings) == first
    assert resolve_ports(settings.model_copy(update={"http_port": 4711})).http_port == 4711


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_damaged_serve_json_is_ignored(settings: Settings, text: str) -> None:
    settings.dirs.serve_json.write_text(text)
    assert resolve_ports(settings).http_port > 0


def test_a_port_in_use_names_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartError, match="TINYFLEET_EST_PORT"):
            check_port("127.0.0.1", taken.getsockname()[1], "est_port")


def test_the_unit_for_one_process_names_each() -> None:
    unit = (Path(__file__).parents[3] / "deploy" / "systemd" / "tinyfleet-process@.service").read_text()
    named = unit.partition("# Names: ")[2].partition(";")[0].split(", ")
    assert named == [name for name in processes.NAMES if not name.startswith("ingest-")]


def test_log_lines_are_json_with_the_extra_fields() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f", 1, 'say "%s"\n', ("x",), None)
    record.device = "d-1"
    line = json.loads(JsonFormatter("api").format(record))
    assert (line["level"], line["process"], line["message"], line["device"]) == ("warning", "api", 'say "x"\n', "d-1")
    assert "\n" not in JsonFormatter("api").format(record)


def test_first_start_makes_keys_once(settings: Settings) -> None:
    keys.ensure_keys(settings)
    folder = settings.dirs.keys
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    keys.ensure_keys(settings)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    root = parse_root(keys.root_one(settings))
    assert (root.number, root.threshold, len(root.root_keys)) == (1, 2, 3)
    assert root.release_keys == (keys.load_signer(settings, "release").public_key,)
    assert root.director_keys == (keys.load_signer(settings, "director").public_key,)
    assert all(b"ENCRYPTED" in data for name, data in before.items() if name.endswith(".key"))
    assert all(path.stat().st_mode & 0o77 == 0 for path in folder.iterdir())


def test_a_start_cut_in_the_middle_goes_on(settings: Settings) -> None:
    keys.ensure_keys(settings)
    release = keys.load_signer(settings, "release").public_key
    for name in ("root-1.cbor", "director.key"):
        (settings.dirs.keys / name).unlink()
    keys.ensure_keys(settings)
    assert keys.load_signer(settings, "release").public_key == release
    assert parse_root(keys.root_one(settings)).release_keys == (release,)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_root_before_others_is_not_made_anew(settings: Settings, missing: int) -> None:
    keys.ensure_keys(settings)
    folder = keys.key_folder(settings)
    for name in ("director", "root1"):
        rotate(folder, name)
    (folder.path / f"root-{missing}.cbor").unlink()
    before = sorted(path.name for path in folder.path.iterdir())
    for change in (partial(keys.ensure_keys, settings), partial(rotate, folder, "release")):
        with pytest.raises(SettingsError, match=rf"no root-{missing}\.cbor .* from a backup"):
            change()
    assert sorted(path.name for path in folder.path.iterdir()) == before


@pytest.mark.parametrize("damage", ["other passphrase", "no passphrase", "garbage", "missing"])
def test_unusable_keys_are_a_clear_error(settings: Settings, damage: str) -> None:
    keys.ensure_keys(settings)
    folder = settings.dirs.keys
    match damage:
        case "other passphrase":
            (folder / "passphrase").write_text("wrong")
        case "no passphrase":
            (folder / "passphrase").unlink()
        case "garbage":
            (folder / "director.key").write_bytes(b"garbage")
        case "missing":
            (folder / "director.key").unlink()
    with pytest.raises(SettingsError) as caught:
        keys.load_signer(settings, "director")
    assert "keys folder" in caught.value.next


def test_a_key_under_a_foreign_passphrase_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    keys.ensure_keys(settings)
    foreign = tmp_path / "foreign.key"
    FileSigner.generate().save(foreign, b"foreign")
    (settings.dirs.keys / "release.key").write_bytes(foreign.read_bytes())
    with pytest.raises(SettingsError):
        keys.load_signer(settings, "release")


def test_garbage_is_collected_again_once_a_process_has_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> processes.Run:
        assert not gc.isenabled()
        raise ImportError("damaged installation")

    monkeypatch.setitem(processes._LOADERS, "api", fails)
    with pytest.raises(ImportError):
        processes._load("api")
    assert gc.isenabled()
    processes._load("webhooks")
    assert gc.isenabled()
    gc.unfreeze()


def test_what_the_broker_logs_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on appending meanwhile, to the same file."""
    log, beside = tmp_path / "broker.log", tmp_path / "broker.log.1"
    logs.shorten_log(log)  # there is none yet
    monkeypatch.setattr(logs, "ROTATE_BYTES", 100)
    with log.open("ab", buffering=0) as broker:
        for line in (b"a" * 60, b"b" * 60, b"c" * 60, b"d" * 60):
            broker.write(line)
            logs.shorten_log(log)
    assert (log.read_bytes(), beside.read_bytes()) == (b"", b"c" * 60 + b"d" * 60)
    log.write_bytes(b"e" * 101)
    monkeypatch.setattr(logs.shutil, "copyfile", raise_full)
    logs.shorten_log(log)
    assert log.read_bytes() == b"", "a full disk is no reason to go on"


def raise_full(*_: object) -> None:
    raise OSError(28, "No space left on device")
