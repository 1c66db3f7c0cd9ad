"""Firmware of a device on this machine's ports, end to end: a real broker over TLS, images made and checked by imgtool,
the bootloader's part between two runs of the process.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.agent.firmware_rig import firmware_image
from agent.agent.rig import image
from agent.ports import mosquitto
from agent.ports.firmware_bench import Board
from agent.ports.fleet_world import Publisher
from agent.ports.pki import Authority
from agent.runtime.images import seal
from tinyfleet_ota import AssignmentEntry, topics
from tinyfleet_ota.protocol import Reason, SlotState

DEVICE = "board-1"
MODEL, FIRST, SECOND = image(0), firmware_image(1), firmware_image(2)
ABI_AT, PENDING, FAILED = 16, 1, -1


class World:
    """Broker, the service's side, and one board."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority, self.broker = folder, Authority(folder / "ca"), ExitStack()
        self.server = self.authority.issue("server", server_names=("127.0.0.1",))
        self.port = self.start_broker()
        self.publisher = Publisher(self.port, self.authority.path, self.authority.issue("svc-test"), folder)
        files, home = self.authority.issue(DEVICE), folder / "board"
        home.mkdir()
        for source, name in (
            (self.authority.path, "ca.pem"),
            (files.cert, "cert.pem"),
            (files.key, "key.pem"),
            (self.publisher.root_path, "root.cbor"),
        ):
            shutil.copyfile(source, home / name)
        (home / "key.pem").chmod(0o600)
        self.board, self.sequence = Board(home, self.port, DEVICE), 0

    def start_broker(self, port: int | None = None) -> int:
        return self.broker.enter_context(mosquitto.run(self.folder, self.authority.path, self.server, port))

    def assign(self, *entries: AssignmentEntry) -> None:
        self.sequence += 1
        self.publisher.assign(DEVICE, self.sequence, *entries)

    def slots(self, component: str) -> dict[bytes, dict[str, Any]]:
        """What the device reports of a component's slots, by image."""
        components = self.publisher.states.get(DEVICE, {}).get("components", [])
        return {slot["image"]: slot for one in components if one["component"] == component for slot in one["slots"]}

    def until_reported(self, component: str, data: bytes, state: SlotState) -> dict[str, Any]:
        """The slot that holds an image, once it is in that state."""
        name = hashlib.sha256(data).digest()[:16]
        self.publisher.until(lambda _: self.slots(component).get(name, {}).get("state") == state)
        return self.slots(component)[name]

    def install(self, *entries: AssignmentEntry) -> None:
        """Assigns a firmware, and starts the board again when it asks for that."""
        self.assign(*entries)
        self.board.wait_for_reset()
        assert self.board.start() == "test"

    def change_model_abi(self) -> None:
        """The model in flash as one that came for another firmware's runtime."""
        flash = self.board.folder / "flash.bin"
        other = bytearray(MODEL)
        other[ABI_AT] = 2
        data = flash.read_bytes()
        assert data.count(MODEL) == 1
        flash.write_bytes(data.replace(MODEL, seal(bytes(other))))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.board.stop()
    world.publisher.close()
    world.broker.close()


def test_an_update_is_kept_only_after_its_self_test_and_a_connection(world: World) -> None:
    board, service = world.board, world.publisher
    assert board.start() == "none"
    service.until(lambda p: DEVICE in p.states)
    world.assign(service.offer(FIRST, 1, component="firmware"))
    board.wait_for_reset()
    assert board.secondary.pending
    assert board.secondary.holds(FIRST)
    assert board.secondary.is_valid()
    world.broker.close()
    assert board.start() == "test"
    board.wait_for("offline", "self-test passed")
    assert (board.primary.holds(FIRST), board.primary.on_trial) == (True, True)
    world.start_broker(world.port)
    world.until_reported("firmware", FIRST, SlotState.CONFIRMED)
    assert (board.primary.image_ok, board.primary.on_trial) == (True, False)
    board.stop()
    assert board.start() == "none"


def test_a_firmware_that_fails_goes_and_the_device_says_why_it_has_no_model(world: World) -> None:
    board, service = world.board, world.publisher
    assert board.start() == "none"
    service.until(lambda p: DEVICE in p.states)
    first, model = service.offer(FIRST, 1, component="firmware"), service.offer(MODEL, 1)
    world.install(first)
    world.until_reported("firmware", FIRST, SlotState.CONFIRMED)
    world.assign(first, model)
    world.until_reported("model/0", MODEL, SlotState.CONFIRMED)
    board.tell_self_test(PENDING)
    world.install(service.offer(SECOND, 2, component="firmware"), model)
    world.until_reported("firmware", SECOND, SlotState.TESTING)
    assert (board.primary.holds(SECOND), board.primary.on_trial) == (True, True)
    board.tell_self_test(FAILED)
    board.wait_for_reset()
    board.tell_self_test(None)
    world.change_model_abi()
    service.retain(topics.desired(DEVICE), b"")
    assert board.start() == "revert"
    assert (board.primary.holds(FIRST), board.primary.image_ok) == (True, True)
    assert world.until_reported("firmware", SECOND, SlotState.REJECTED)["reason"] == Reason.SELF_TEST_FAILED
    world.until_reported("firmware", FIRST, SlotState.CONFIRMED)
    service.until(lambda p: p.states[DEVICE]["last_reason"] == Reason.ABI_MISMATCH)
    answering = {one["component"]: one["active"] for one in service.states[DEVICE]["components"]}
    assert (answering["model/0"], answering["firmware"] is None) == (None, False)
