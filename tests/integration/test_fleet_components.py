"""Agents with two models under the service: rollouts of each on the same devices, at once, and undone apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from agent.ports.fleet_world import DEVICE_CLASS, image
from integration.fleet_database import PROJECT
from integration.fleet_support import eventually
from integration.hostile_world import WAIT_S, World, model, running_world
from integration.test_hostile_outages import start, state_of, working_house
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Desired, DesiredEntry, Device, Model, RolloutMember
from tinyfleet_service.rollouts import request

pytestmark = pytest.mark.slow
FIRST, SECOND = "model/0", "model/1"
NEWER = {"v1": "b1", "v2": "b2"}
"""The digits models under the names that they have in the second model."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_world(tmp_path) as world:
        with session_scope(world.house.engine) as session:
            session.add(Model(id=2, project_id=PROJECT, name="second", component=SECOND))
            session.flush()
            for version, name in NEWER.items():
                world.house.add_build(session, model(name), image(version), DEVICE_CLASS, model_id=2, component=SECOND)
        yield world


def component(world: World, device: str, name: str) -> dict[str, Any]:
    with session_scope(world.house.engine, read_only=True) as session:
        reported = session.get_one(Device, device).reported
    return next((part for part in reported.get("components", []) if part["component"] == name), {})


def confirmed(world: World, device: str, name: str, version: str) -> bool:
    part = component(world, device, name)
    slot = part["slots"][part["active"]] if part.get("active") is not None else {}
    return (slot.get("state"), slot.get("image")) == ("CONFIRMED", world.house.image_id(model(version)).hex())


def statuses(world: World, rollout: int) -> set[str]:
    with session_scope(world.house.engine, read_only=True) as session:
        return set(session.exec(select(RolloutMember.status).where(RolloutMember.rollout_id == rollout)))


def promoted(world: World, *rollouts: int) -> bool:
    return eventually(lambda: {state_of(world, rollout) for rollout in rollouts} == {"promoted"}, WAIT_S)


def test_two_models_roll_out_at_once_and_undo_of_one_leaves_the_other(world: World) -> None:
    with working_house(world):
        fleet = world.start(["FLEET_MODELS_MAX=2"], count=2)
        devices = [str(event["device"]) for event in fleet.wait("connected", 2)]
        assert eventually(lambda: all(component(world, device, SECOND) for device in devices), WAIT_S)
        assert promoted(world, start(world, "v1"), start(world, "b1", "second"))
        assert all(confirmed(world, d, FIRST, "v1") and confirmed(world, d, SECOND, "b1") for d in devices)

        held = {device: component(world, device, FIRST) for device in devices}
        off = {"gates": {"accuracy": "off", "shadow": "off"}}
        second = start(world, "b2", "second", **off)
        assert promoted(world, second)
        assert {device: component(world, device, FIRST) for device in devices} == held, "model/0 was left alone"
        first = start(world, "v2", **off)
        with session_scope(world.house.engine) as session:
            request(session, second, "undo")
        assert promoted(world, first)
        assert eventually(lambda: state_of(world, second) == "rolled_back", WAIT_S)
        assert eventually(
            lambda: all(confirmed(world, d, FIRST, "v2") and confirmed(world, d, SECOND, "b1") for d in devices), WAIT_S
        )
        with session_scope(world.house.engine, read_only=True) as session:
            sequences = {row.device_id: row.sequence for row in session.exec(select(Desired))}
            entries = session.exec(select(DesiredEntry)).all()
        assert {(row.device_id, row.component) for row in entries} == {(d, c) for d in devices for c in (FIRST, SECOND)}
        assert all(row.sequence <= sequences[row.device_id] for row in entries)
        assert eventually(lambda: statuses(world, second) == {"undone"}, WAIT_S)
        assert fleet.end() == 0
