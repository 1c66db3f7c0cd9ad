"""Devices with several model components: one assignment names them all, and each changes without the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import select

from integration.fleet_house import BASE_IMAGE, FleetHouse, make_house
from integration.rollout_fleet import Fleet
from integration.test_publish_assignments import Shelf, blob_on, give
from tinyfleet_ota import AssignmentEntry, parse_assignment, topics
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import (
    Desired,
    DesiredEntry,
    Device,
    Rollout,
    RolloutMember,
    SnapshotPage,
    StableBuild,
    utc_now,
)
from tinyfleet_service.devices import apply_state
from tinyfleet_service.publish import (
    Order,
    assign_many,
    clean_blobs,
    drain_outbox,
    handle_waiting,
    overtake,
    refresh_assignment,
    reissue,
)
from tinyfleet_service.rollouts.frozen import decode
from unit.service.fleet_state_builders import slot, state

PAIR = ("model/0", "model/1")
DEVICE = "m4-a"


def report(house: FleetHouse, running: dict[str, str], device: str = DEVICE, **values: object) -> None:
    """What an agent with these components says that it runs."""
    parts = [
        {
            "component": component,
            "active": 0 if version else None,
            "fallback": None,
            "floor": 0,
            "slots": [slot(SlotState.CONFIRMED, house.image_id(version)) if version else slot(), slot()],
        }
        for component, version in running.items()
    ]
    with session_scope(house.engine) as session:
        apply_state(session, device, state(components=parts, **values))


@pytest.fixture
def house(tmp_path: Path) -> FleetHouse:
    """Devices with two models that run v1 and v3."""
    house = make_house(tmp_path)
    for device in (DEVICE, "m4-b"):
        report(house, dict(zip(PAIR, ("v1", "v3"), strict=True)), device)
        give(house, device, "v1")
        give(house, device, "v3", component="model/1", confirm_timeout_s=77)
    return house


def entries(house: FleetHouse, device: str = DEVICE) -> dict[str, AssignmentEntry]:
    with session_scope(house.engine, read_only=True) as session:
        payload = session.get_one(Desired, device).payload
    return {entry.component: entry for entry in parse_assignment(payload, house.keys.known).entries}


def rows(house: FleetHouse, device: str = DEVICE) -> dict[str, DesiredEntry]:
    with session_scope(house.engine, read_only=True) as session:
        found = session.exec(select(DesiredEntry).where(DesiredEntry.device_id == device)).all()
    return {row.component: row for row in found}


def test_an_assignment_of_one_component_leaves_the_other_as_it_was(house: FleetHouse) -> None:
    before, row = entries(house), rows(house)["model/1"]
    assert (before["model/0"].brought_by, before["model/1"].brought_by) == (1, None)
    give(house, DEVICE, "v2", component="model/0")
    after = entries(house)
    assert after["model/0"].base_digest is not None, "a delta from what model/0 runs"
    kept = after["model/1"]
    assert (kept.manifest_digest, kept.blob, kept.confirm_timeout_s) == (
        before["model/1"].manifest_digest,
        before["model/1"].blob,
        77,
    )
    assert (kept.brought_by, rows(house)["model/1"]) == (2, row)


def test_blobs_live_as_long_as_any_component_names_them(house: FleetHouse) -> None:
    shelf = Shelf()
    for device in (DEVICE, "m4-b"):
        give(house, device, "v2", component="model/0")
    with session_scope(house.engine) as session:
        assert clean_blobs(session, utc_now() + timedelta(hours=1), house.fence) == 1, (
            "v1, which no entry names any more"
        )
    drain_outbox(house.engine, shelf, house.fence)
    for entry in entries(house).values():
        assert len(blob_on(shelf, entry)) == entry.blob_bytes


def test_many_are_assigned_beside_what_some_of_them_have(house: FleetHouse) -> None:
    """m4-c has one component, so nothing of it is taken over."""
    with session_scope(house.engine) as session:
        session.add(Device(id="m4-c", project_id=1, device_class="cortex-m4"))
    orders = {device: Order(house.builds["v2"], SlotState.SHADOW) for device in (DEVICE, "m4-b", "m4-c")}
    with session_scope(house.engine) as session:
        done = assign_many(
            session, house.store, house.keys, orders, rollout_id=None, component="model/0", fence=house.fence
        )
    assert not done.refused
    assert list(entries(house, "m4-c")) == ["model/0"]
    for device in (DEVICE, "m4-b"):
        held = entries(house, device)
        assert (held["model/0"].until, held["model/1"].until) == (SlotState.SHADOW, SlotState.CONFIRMED)
        assert held["model/1"].brought_by == 2
    drain_outbox(house.engine, shelf := Shelf(), house.fence)
    assert len(blob_on(shelf, entries(house)["model/0"])) == entries(house)["model/0"].blob_bytes


def test_builds_of_one_image_have_their_own_manifests_at_the_broker(house: FleetHouse) -> None:
    """The same model under two names, for two components: the chunks are shared, the releases are not."""
    with session_scope(house.engine) as session:
        house.add_build(session, "twin", BASE_IMAGE, component="model/1")
    drain_outbox(house.engine, shelf := Shelf(), house.fence)
    give(house, DEVICE, "twin", component="model/1")
    drain_outbox(house.engine, shelf, house.fence)
    held = entries(house)
    assert held["model/0"].blob == held["model/1"].blob
    assert all(topics.manifest(entry.manifest_digest[: topics.ID_BYTES]) in shelf.retained for entry in held.values())


def test_a_waiting_device_is_helped_with_the_component_that_waits(house: FleetHouse) -> None:
    give(house, DEVICE, "v2", component="model/0")
    before = entries(house)
    report(house, dict(zip(PAIR, ("v1", ""), strict=True)), waiting=[before["model/1"].blob, 2])
    with session_scope(house.engine) as session:
        session.get_one(Desired, DEVICE).assigned_at = utc_now() - timedelta(hours=1)
        digest = rows(house)["model/1"].blob_id
        assert digest != rows(house)["model/0"].blob_id
        done = handle_waiting(session, house.store, house.keys, house.device(session, DEVICE), house.fence)
    assert done in ("republished", ""), "model/1 has no delta that could be replaced"
    report(house, dict(zip(PAIR, ("v1", ""), strict=True)), waiting=[before["model/0"].blob, 2])
    with session_scope(house.engine) as session:
        assert handle_waiting(session, house.store, house.keys, house.device(session, DEVICE), house.fence) == "full"
    after = entries(house)
    assert (before["model/0"].base_digest is not None, after["model/0"].base_digest) == (True, None)
    assert after["model/1"].blob == before["model/1"].blob


def test_an_entry_for_a_component_that_is_gone_from_the_device_is_dropped(house: FleetHouse) -> None:
    """Another agent runs there now: it would refuse the whole assignment."""
    report(house, {"model/0": "v1"})
    give(house, DEVICE, "v2")
    assert list(entries(house)) == list(rows(house)) == ["model/0"]
    orders = {"m4-b": Order(house.builds["v2"], SlotState.CONFIRMED)}
    report(house, {"model/0": "v1"}, "m4-b")
    with session_scope(house.engine) as session:
        assign_many(session, house.store, house.keys, orders, rollout_id=None, component="model/0", fence=house.fence)
    assert list(entries(house, "m4-b")) == list(rows(house, "m4-b")) == ["model/0"]


Act = Callable[[FleetHouse, str, str, SlotState], None]


def _assign(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    give(house, DEVICE, version, until, component=component)


def _assign_many(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    order = {DEVICE: Order(house.builds[version], until)}
    with session_scope(house.engine) as session:
        assign_many(session, house.store, house.keys, order, rollout_id=None, component=component, fence=house.fence)


def _refresh(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    with session_scope(house.engine) as session:
        device = house.device(session, DEVICE)
        device.nonce = os.urandom(8).hex()
        refresh_assignment(session, house.keys, device, house.fence)


def _overtake(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    with session_scope(house.engine) as session:
        overtake(session, house.store, house.keys, house.device(session, DEVICE), house.fence)


def _reissue(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    with session_scope(house.engine) as session:
        for one in (session.get_one(Desired, DEVICE), *session.exec(select(DesiredEntry))):
            one.director_epoch = 0
        session.flush()
        assert reissue(session, house.keys, house.fence) >= 1


def _wait(house: FleetHouse, component: str, version: str, until: SlotState) -> None:
    blob = next(iter(entries(house).values())).blob
    with session_scope(house.engine) as session:
        device = house.device(session, DEVICE)
        device.reported = device.reported | {"waiting": [blob.hex(), 1]}
        session.get_one(Desired, DEVICE).assigned_at = utc_now() - timedelta(hours=1)
        handle_waiting(session, house.store, house.keys, device, house.fence)


ACTS: tuple[Act, ...] = (_assign, _assign_many, _refresh, _overtake, _reissue, _wait)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTS),
        st.sampled_from(("model/0", "model/1", "model/2")),
        st.sampled_from(("v1", "v2", "v3")),
        st.sampled_from((SlotState.SHADOW, SlotState.CONFIRMED)),
    ),
    min_size=1,
    max_size=12,
)


def test_whatever_is_signed_has_one_entry_for_each_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    house = make_house(tmp_path_factory.mktemp("house"))
    report(house, {"model/0": "v1", "model/1": "v3", "model/2": ""})
    give(house, DEVICE, "v1")

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def holds(steps: list[tuple[Act, str, str, SlotState]]) -> None:
        for act, component, version, until in steps:
            sequence = house_sequence(house)
            act(house, component, version, until)
            check(house, sequence)

    holds()


def house_sequence(house: FleetHouse) -> int:
    with session_scope(house.engine, read_only=True) as session:
        return session.get_one(Desired, DEVICE).sequence


def check(house: FleetHouse, before: int) -> None:
    """Signed entries and rows say the same of every component, and nothing goes back."""
    signed, stored, sequence = entries(house), rows(house), house_sequence(house)
    assert signed.keys() == stored.keys()
    assert sequence >= before
    with session_scope(house.engine, read_only=True) as session:
        versions = {build: name for name, build in house.builds.items()}
        for component, row in stored.items():
            entry, build = signed[component], house.build(session, versions[row.build_id])
            assert entry.manifest_digest.hex() == build.manifest_sha256
            assert (entry.until, entry.brought_by or sequence) == (row.until, row.sequence)


# ---- rollouts


QUICK = {"canary": "50%", "soak_s": 0, "gates": {"accuracy": "off", "shadow": "off"}}


def test_rollouts_of_two_components_run_at_once_on_the_same_devices(tmp_path: Path) -> None:
    """Both promote; undo of one leaves the other; a bad candidate harms its own rollout only; joiners get both."""
    fleet = Fleet(tmp_path, devices=12, components=PAIR)
    for version in ("a1", "a2", "a3", "b1", "b2", "b3"):
        fleet.push(version, 0.9, component=PAIR[version[0] == "b"])
    fleet.step()

    def both(first: str, second: str) -> tuple[int, int]:
        return fleet.start(first, "model", **QUICK), fleet.start(second, "model1", **QUICK)

    def running(*versions: str) -> list[int]:
        return [len(fleet.running(version)) for version in versions]

    assert [fleet.run(rollout, 60) for rollout in both("a1", "b1")] == ["promoted", "promoted"]
    first, second = both("a2", "b2")
    assert [fleet.run(rollout, 60) for rollout in (first, second)] == ["promoted", "promoted"]
    assert running("a2", "b2") == [12, 12]
    fleet.ask(second, "undo")
    fleet.settle(6)
    assert fleet.rollout(second).state == "rolled_back"
    assert running("a2", "b1") == [12, 12]
    assert {member.status for member in fleet.members(first)} == {"confirmed"}

    fleet.golden_fails = fleet.images("b3")
    good, bad = both("a3", "b3")
    assert fleet.run(good, 60) == "promoted"
    assert {member.status for member in fleet.members(good)} == {"confirmed"}
    assert fleet.run(bad, 60) == "rolled_back"
    fleet.enrol("late", "cortex-m4", "lyon")
    fleet.settle(10)
    assert running("a3", "b1") == [13, 13]
    with session_scope(fleet.engine, read_only=True) as session:
        assert {row.component for row in session.exec(select(StableBuild))} == set(PAIR)
        assert len(session.exec(select(DesiredEntry)).all()) == 2 * len(session.exec(select(Desired)).all()) == 26


def with_model_and_firmware(folder: Path) -> Fleet:
    """Sixteen devices that run model a1; a2 and the firmware f1 are pushed."""
    fleet = Fleet(folder, devices=16, components=("model/0", "firmware"))
    for version in ("a1", "a2"):
        fleet.push(version, 0.9)
    fleet.push("f1", 0.9, component="firmware")
    fleet.step()
    assert fleet.run(fleet.start("a1", **QUICK), 60) == "promoted"
    return fleet


def test_devices_that_get_another_firmware_leave_the_analysis_of_a_model(tmp_path: Path) -> None:
    fleet = with_model_and_firmware(tmp_path)
    model = fleet.start("a2", **QUICK | {"soak_s": 60})
    fleet.settle(8)
    assert len(looked_at(fleet, model)) == 16
    with session_scope(fleet.engine) as session:  # the simulation's clock is ahead of the one that assigns
        session.get_one(Rollout, model).created_at = utc_now()
    assert fleet.run(fleet.start("f1", "model1", where="site=lyon", **QUICK), 40) == "promoted"
    fleet.settle(6)
    kept = looked_at(fleet, model)
    with session_scope(fleet.engine, read_only=True) as session:
        flashed = set(session.exec(select(DesiredEntry.device_id).where(DesiredEntry.component == "firmware")))
        lyon = {device.id for device in session.exec(select(Device)) if device.tags["site"] == "lyon"}
    assert flashed == lyon
    assert kept == {device.id for device in fleet.devices} - lyon


def test_devices_whose_model_changes_leave_the_analysis_of_a_firmware(tmp_path: Path) -> None:
    fleet = with_model_and_firmware(tmp_path)
    firmware = fleet.start("f1", "model1", **QUICK | {"soak_s": 60})
    fleet.settle(8)
    assert len(looked_at(fleet, firmware)) == 16
    assert fleet.run(fleet.start("a2", where="site=lyon", **QUICK), 40) == "promoted"
    fleet.settle(2)
    with session_scope(fleet.engine, read_only=True) as session:
        lyon = {device.id for device in session.exec(select(Device)) if device.tags["site"] == "lyon"}
    assert looked_at(fleet, firmware) == {device.id for device in fleet.devices} - lyon
    assert fleet.explain(firmware)["equal"], "looks before and after, each with its own devices"


def looked_at(fleet: Fleet, rollout: int) -> set[str]:
    """Devices of a rollout's newest look."""
    with session_scope(fleet.engine, read_only=True) as session:
        of_rollout = select(SnapshotPage).where(SnapshotPage.rollout_id == rollout, SnapshotPage.look > 0)
        pages = session.exec(of_rollout.where(SnapshotPage.kind == "look")).all()
    newest = max(page.look for page in pages)
    return {device for page in pages if page.look == newest for device in decode(page.columns).devices}


def test_devices_without_the_component_take_no_part(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, devices=8, components=PAIR)
    for device in fleet.devices[:4]:
        device.beside.clear()
    fleet.push("b1", 0.9, component=PAIR[1])
    fleet.step()
    rollout = fleet.start("b1", "model1", canary="50%")
    assert any(
        "without a component model/1, so taking no part: 4 devices" in text
        for text in fleet.rollout(rollout).plan["warnings"]
    )
    assert fleet.run(rollout, 100) == "promoted"
    fleet.settle(5)
    with session_scope(fleet.engine, read_only=True) as session:
        assert len(session.exec(select(RolloutMember)).all()) == 4
        assert {row.component for row in session.exec(select(DesiredEntry))} == {"model/1"}
        assert len(session.exec(select(Desired)).all()) == 4
