"""fleet_device against a real broker, a real EST server and signed releases: the agent as its users run it."""

import json
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agent.ports import est_server, mosquitto
from agent.ports.fleet_world import DEVICE_CLASS, Fleet, Publisher, image, program, write_dataset
from agent.ports.pki import Authority
from tinyfleet_ota.protocol import Reason, SlotState

pytestmark = pytest.mark.slow


class World:
    """Broker, EST and the service's side; `arguments` is a working command line."""

    def __init__(
        self, folder: Path, authority: Authority, est: est_server.EstServer, port: int, publisher: Publisher
    ) -> None:
        self.folder, self.authority, self.est, self.port, self.publisher = folder, authority, est, port, publisher
        claim = authority.issue("claim")
        self.options = {
            "est": f"127.0.0.1:{est.port}",
            "claim-cert": claim.cert,
            "claim-key": claim.key,
            "broker": f"127.0.0.1:{port}",
            "ca": authority.path,
            "root": publisher.root_path,
            "dir": folder / "devices",
            "device-class": DEVICE_CLASS,
            "slot-bytes": 32768,
            "report-interval-s": 1,
        }

    def arguments(self, **changes: Any) -> list[str]:
        options = self.options | {name.replace("_", "-"): value for name, value in changes.items()}
        return [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]

    def start(self, *, preexec: Callable[[], None] | None = None, **changes: Any) -> Fleet:
        self.fleets.append(Fleet(self.arguments(**changes), preexec=preexec))
        return self.fleets[-1]

    fleets: list[Fleet]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("server", server_names=("127.0.0.1",))
    with (
        est_server.serve(authority, server, authority.path) as est,
        mosquitto.run(tmp_path, authority.path, server) as port,
    ):
        publisher = Publisher(port, authority.path, authority.issue("svc-test"), tmp_path)
        made = World(tmp_path, authority, est, port, publisher)
        made.fleets = []
        yield made
        for fleet in made.fleets:
            if fleet.process.poll() is None:
                fleet.process.kill()
                fleet.process.wait()
        publisher.close()


def device_files(world: World, index: int = 0) -> Path:
    return world.folder / "devices" / f"device-{index:04d}"


def test_devices_enrol_connect_report_and_end_in_order(world: World) -> None:
    world.est.next_id = None
    fleet = world.start(count=6)
    enrolled = fleet.wait("enrolled", 6)
    assert len({e["device"] for e in enrolled}) == 6
    fleet.wait("connected", 6)
    ids = {(device_files(world, i) / "id").read_text() for i in range(6)}
    assert ids == {e["device"] for e in enrolled}
    world.publisher.until(lambda p: set(p.states) == ids)
    assert all(state["device_class"] == DEVICE_CLASS for state in world.publisher.states.values())
    assert fleet.end() == 0
    fleet.wait("stopped", 6)
    for name in ("key.pem", "cert.pem", "flash.bin"):
        assert (device_files(world) / name).stat().st_mode & 0o077 == 0


def test_kill_9_and_restart_is_the_same_device(world: World) -> None:
    fleet = world.start()
    device = fleet.wait("connected")[0]["device"]
    assert fleet.end(signal.SIGKILL) == -signal.SIGKILL
    again = world.start()
    assert again.wait("connected")[0]["device"] == device
    assert len(world.est.requests) == 1
    world.publisher.until(lambda p: p.states.get(device, {}).get("boot", 0) == 2)
    assert again.end() == 0


def test_installs_delta_updates_and_counts_labels(world: World) -> None:
    dataset = write_dataset(world.folder / "field.tfds")
    fleet = world.start(dataset=dataset, rate_hz=200, label_delay_ms=50)
    device = fleet.wait("connected")[0]["device"]
    world.publisher.until(lambda p: device in p.states)
    v1, v2 = image("v1"), image("v2")
    world.publisher.assign(device, 1, world.publisher.offer(v1, 1))
    fleet.wait("slot", to="CONFIRMED")
    world.publisher.assign(device, 2, world.publisher.offer(v2, 2, v1), until=SlotState.SHADOW)
    fleet.wait("slot", to="SHADOW")
    world.publisher.until(
        lambda p: any(sum(i.get("shadow_pairs", [0])) > 20 for i in p.telemetry.get(device, {}).get("images", []))
    )
    world.publisher.assign(device, 3, world.publisher.offer(v2, 2, v1))
    fleet.wait("slot", count=2, to="CONFIRMED")
    active = next(i for i in world.publisher.telemetry[device]["images"] if i["labelled"] > 20)
    assert 1_000 < world.publisher.telemetry[device]["stack_high_water_bytes"] < 256 * 1024
    assert active["correct"] / active["labelled"] > 0.8
    assert fleet.end() == 0
    assert fleet.wait("stopped")[0]["inferences"] > 50


@pytest.mark.parametrize("fault", ["kill-writing:0:20", "reset-writing:0:20"])
def test_power_cut_in_the_middle_of_an_update_resumes(world: World, fault: str) -> None:
    live = {"dataset": write_dataset(world.folder / "field.tfds"), "rate_hz": 50}
    fleet = world.start(rx_bytes_per_s=8000, firmware_fault=fault, **live)
    device = fleet.wait("connected")[0]["device"]
    world.publisher.until(lambda p: device in p.states)
    v1, v2 = image("v1"), image("v2")
    world.publisher.assign(device, 1, world.publisher.offer(v1, 1))
    fleet.wait("slot", to="CONFIRMED")
    world.publisher.assign(device, 2, world.publisher.offer(v2, 2))
    if fault.startswith("kill"):
        assert fleet.join() == -signal.SIGKILL
        fleet = world.start(**live)
    else:
        fleet.wait("reset")
    fleet.wait("answering", slot=1)
    assert fleet.end() == 0


def test_full_flash_disk_rejects_the_image_and_the_device_lives(world: World) -> None:
    first = world.start()
    device = first.wait("connected")[0]["device"]
    world.publisher.until(lambda p: device in p.states)
    assert first.end() == 0
    size = (device_files(world) / "flash.bin").stat().st_size
    limit = size - 2 * 32768 + 8192  # the journal fits, an image does not

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    fleet = world.start(preexec=full_disk)
    fleet.wait("connected")
    world.publisher.until(lambda p: p.states[device]["boot"] == 2)
    world.publisher.assign(device, 1, world.publisher.offer(image("v1"), 1))
    fleet.wait("reason", reason=Reason.FLASH_FAILED.name)
    world.publisher.until(lambda p: p.states[device]["last_reason"] == Reason.FLASH_FAILED)
    assert fleet.process.poll() is None
    assert fleet.end() == 0


def test_tampered_chunk_is_never_installed(world: World) -> None:
    fleet = world.start()
    device = fleet.wait("connected")[0]["device"]
    world.publisher.until(lambda p: device in p.states)
    entry = world.publisher.offer(image("v1"), 1, tamper=lambda chunk: bytes([chunk[0] ^ 1]) + chunk[1:])
    world.publisher.assign(device, 1, entry)
    world.publisher.until(lambda p: p.states[device]["last_reason"] not in (Reason.NONE, Reason.BOOT_NO_IMAGE))
    assert world.publisher.states[device]["components"][0]["active"] is None
    assert fleet.end() == 0


def test_wrong_authority_is_told_once_and_never_connected(world: World) -> None:
    other = Authority(world.folder / "other", "other CA")
    first = world.start()
    first.wait("connected")
    first.end()
    fleet = world.start(ca=other.path, est=None)
    assert "not trusted" in fleet.wait("offline")[0]["error"]
    assert fleet.end() == 0
    assert [e["event"] for e in fleet.events if e["event"] in ("connected", "offline")] == ["offline"]


def test_refused_device_certificate_is_told(world: World) -> None:
    first = world.start()
    first.wait("connected")
    first.end()
    foreign = Authority(world.folder / "foreign", "other CA").issue("host-0001")
    shutil.copy(foreign.cert, device_files(world) / "cert.pem")
    shutil.copy(foreign.key, device_files(world) / "key.pem")
    fleet = world.start(est=None)
    assert "alert" in fleet.wait("offline")[0]["error"]
    assert fleet.end() == 0


def test_dead_broker_then_alive(world: World) -> None:
    port = mosquitto.free_port()
    fleet = world.start(broker=f"127.0.0.1:{port}")
    assert "refused" in fleet.wait("offline")[0]["error"]
    server = world.authority.issue("server-2", server_names=("127.0.0.1",))
    folder = world.folder / "second"
    folder.mkdir()
    with mosquitto.run(folder, world.authority.path, server, port):
        fleet.wait("connected")
    fleet.wait("disconnected")
    assert fleet.end() == 0


def test_enrolment_is_tried_again_until_the_server_agrees(world: World) -> None:
    world.est.status = 403
    fleet = world.start()
    assert "claim quota exhausted" in fleet.wait("enrolment-failed")[0]["error"]
    world.est.status = 200
    fleet.wait("connected")
    assert fleet.end() == 0
    assert len(fleet.wait("enrolment-failed")) == 1


def test_certificate_is_renewed_in_its_last_third(world: World) -> None:
    world.est.life = (-100.0, 20.0)
    fleet = world.start()
    device = fleet.wait("enrolled")[0]["device"]
    world.est.life = (-100.0, 3600.0)
    world.est.trust = [world.authority.certificate, Authority(world.folder / "next", "next CA").certificate]
    before = (device_files(world) / "cert.pem").read_text()
    fleet.wait("renewed")
    fleet.wait("authorities")
    assert set(x509.load_pem_x509_certificates((device_files(world) / "ca.pem").read_bytes())) == set(world.est.trust)
    assert (device_files(world) / "cert.pem").read_text() != before
    assert [path.rsplit("/", 1)[1] for path, _, _ in world.est.requests] == ["simpleenroll", "simplereenroll"]
    assert world.est.requests[1][1] == device
    assert fleet.end() == 0


def test_a_server_that_names_no_authorities_still_enrols(world: World) -> None:
    world.est.trust = None
    fleet = world.start()
    assert "HTTP 404" in fleet.wait("authorities-kept")[0]["error"]
    fleet.wait("connected")
    assert fleet.end() == 0
    assert not (device_files(world) / "ca.pem").exists()


def test_silent_device_sends_nothing_more(world: World) -> None:
    fleet = world.start(firmware_fault="silent:0:1")
    device = fleet.wait("connected")[0]["device"]
    world.publisher.until(lambda p: device in p.states)
    world.publisher.assign(device, 1, world.publisher.offer(image("v1"), 1))
    fleet.wait("answering", slot=0)
    fleet.wait("silent")
    assert fleet.end() == 0


def test_two_processes_cannot_share_a_device(world: World) -> None:
    fleet = world.start()
    fleet.wait("started")
    second = world.start()
    assert "another process" in second.wait("failed")[0]["error"]
    assert second.join() == 1
    assert fleet.end() == 0


def test_full_disk_at_the_first_start_says_so(world: World) -> None:
    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    fleet = world.start(preexec=full_disk)
    assert "make flash file" in fleet.wait("failed")[0]["error"]
    assert fleet.join() == 1
    assert not (device_files(world) / "flash.bin").exists()


def test_damaged_certificate_is_not_replaced(world: World) -> None:
    fleet = world.start()
    fleet.wait("started")
    assert fleet.end() == 0
    (device_files(world) / "cert.pem").write_text("damaged")
    again = world.start()
    assert "operator" in again.wait("failed")[0]["error"]
    assert again.join() == 1
    assert len(world.est.requests) == 1


def run_once(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([str(program()), *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"broker": None}, "--broker is missing"),
        ({"broker": "localhost"}, "bad value for broker"),
        ({"broker": "localhost:99999"}, "bad value for broker"),
        ({"count": "0"}, "bad value for count"),
        ({"rate_hz": "nan"}, "bad value for rate-hz"),
        ({"report_interval_s": "0"}, "bad value for report-interval-s"),
        ({"firmware_fault": "melt:0"}, "bad value for firmware-fault"),
        ({"firmware_fault": "silent"}, "bad value for firmware-fault"),
        ({"root": "/nonexistent"}, "cannot read root"),
        ({"dataset": "/nonexistent"}, "No such file"),
    ],
)
def test_bad_command_lines(tmp_path: Path, changes: dict[str, str | None], complaint: str) -> None:
    root = tmp_path / "root.cbor"
    root.write_bytes(b"x")
    options = {
        "broker": "localhost:1",
        "ca": "ca",
        "root": str(root),
        "dir": str(tmp_path / "d"),
        "device-class": "host",
    }
    options |= {name.replace("_", "-"): value for name, value in changes.items()}
    arguments = [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
    status, errors = run_once(*arguments)
    assert status == 2
    assert complaint in errors
    assert "Sanitizer" not in errors


@pytest.mark.parametrize("spoil", [b"", b"TFDS", b"X" * 64, b"TFDS\2\0" + bytes(58), b"TFDS\1\0\1\0" + b"\xff" * 56])
def test_broken_datasets_are_refused(tmp_path: Path, spoil: bytes) -> None:
    root, data = tmp_path / "root.cbor", tmp_path / "field.tfds"
    root.write_bytes(b"x")
    data.write_bytes(spoil)
    options = (
        "--broker",
        "h:1",
        "--ca",
        "ca",
        "--root",
        str(root),
        "--dir",
        str(tmp_path / "d"),
        "--device-class",
        "host",
    )
    status, errors = run_once(*options, "--dataset", str(data))
    assert status == 2
    assert "make_dataset.py" in errors


def test_bad_root_fails_the_device_with_a_reason(world: World) -> None:
    bad = world.folder / "bad.cbor"
    bad.write_bytes(b"\x00" * 40)
    fleet = world.start(root=bad)
    assert "root" in fleet.wait("failed")[0]["error"]
    assert fleet.join() == 1


def test_events_are_one_json_object_a_line(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fleet = world.start(broker=f"127.0.0.1:{silent.getsockname()[1]}", name_prefix='quo"te')
        started = fleet.wait("started")[0]
        assert started["name"] == 'quo"te-0000'
        assert json.dumps(started)
        assert fleet.end() == 0
