"""Counts of devices, tags as rows and pages of selectors agree with the twins, whatever is written, on both engines."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from integration.fleet_database import CLASS, PROJECT, each_engine
from integration.fleet_support import make_settings
from postgres import shared_server
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.database.device_index import fold_counts, read_counts, rebuild
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import (
    Device,
    DeviceGroup,
    DeviceState,
    DeviceTag,
    FleetCount,
    GroupMember,
    utc_now,
)
from tinyfleet_service.devices import apply_state, page_of_devices, select_devices
from tinyfleet_service.devices import online as online_module
from tinyfleet_service.devices.pages import Page
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_state_builders import slot, state

IMAGES = (b"\xa0" * 16, b"\xa1" * 16)
STATES = (SlotState.WRITING, SlotState.SHADOW, SlotState.CONFIRMED)
SITES = ("lyon", "oslo", "rome")
server = pytest.fixture(shared_server, scope="module")
engine = pytest.fixture(each_engine, params=["sqlite", "postgresql"])


def write_something(session: Session, names: list[str], draw: random.Random) -> None:
    """One of the ways in which the service writes a device."""
    kind = draw.choice(["enrol", "state", "state", "tags", "revoke"])
    if kind == "enrol" or not names:
        names.append(f"m4-{len(names):03}")
        session.add(Device(id=names[-1], project_id=PROJECT, device_class=CLASS, tags={"site": draw.choice(SITES)}))
        session.flush()
        return
    device = session.get_one(Device, draw.choice(names))
    if kind == "tags":
        device.tags = {"site": draw.choice(SITES), "line": str(draw.randrange(3))}
    elif kind == "revoke":
        device.state = draw.choice([DeviceState.REVOKED, DeviceState.ENROLLED])
    else:
        slots = [slot(SlotState.CONFIRMED, draw.choice(IMAGES)), slot(draw.choice(STATES), draw.choice(IMAGES))]
        apply_state(session, device.id, state(slots=slots, active=draw.choice([0, 1, None])))
    session.add(device)


def test_counts_and_tags_follow_every_write(engine: Engine) -> None:
    draw, names = random.Random(7), list[str]()
    for _ in range(12):
        with session_scope(engine) as session:
            for _ in range(10):
                write_something(session, names, draw)
        if draw.random() < 0.3:
            with session_scope(engine) as session:
                fold_counts(session, at_least=1)
    with session_scope(engine, read_only=True) as session:  # rolled back, so never counted
        session.add(Device(id="gone", project_id=PROJECT, device_class=CLASS))
        session.flush()
    with session_scope(engine) as session:
        kept, tags = read_counts(session, PROJECT), sorted(map(tuple, session.connection().execute(TAGS)))
        folded_rows = session.exec(select(func.count()).select_from(FleetCount)).one()
        rebuild(session)
        session.flush()
        assert kept == read_counts(session, PROJECT)
        assert tags == sorted(map(tuple, session.connection().execute(TAGS)))
        assert sum(kept["state"].values()) == len(names) > 10
        assert len(kept["slot"]) > 4
        fold_counts(session, at_least=1)
        assert session.exec(select(func.count()).select_from(FleetCount)).one() <= folded_rows
        assert kept == read_counts(session, PROJECT)


TAGS = select(DeviceTag.device_id, DeviceTag.name, DeviceTag.value)


@pytest.mark.parametrize(("rare", "window", "look_s"), [(1, 10, 60), (20, 3, 0), (5000, 1000, 60)])
def test_pages_are_the_selection_in_parts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, rare: int, window: int, look_s: float
) -> None:
    """Read from the rows of a tag, and from all devices, in many windows and in one: the same devices in order."""
    sizes = {"RARE": rare, "AT_ONCE": 4, "FIRST_WINDOW": window, "FIRST_READ": window, "LOOK_S": look_s}
    for name, value in sizes.items():
        monkeypatch.setattr(f"tinyfleet_service.devices.pages.{name}", value)
    draw = random.Random(3)
    with session_scope(engine) as session:
        for n in range(60):
            tags = {"site": draw.choice(SITES), "line": str(draw.randrange(4))}
            session.add(Device(id=f"m4-{n:03}", project_id=PROJECT, device_class=CLASS, tags=tags))
        session.add(DeviceGroup(id=1, project_id=PROJECT, name="thirds", devices=20))
        session.flush()
        session.add_all(GroupMember(group_id=1, device_id=f"m4-{n:03}") for n in range(0, 60, 3))
    wanted = WANTED | dict(random_selector(draw, 3) for _ in range(25))
    for where in wanted:
        with session_scope(engine) as session:
            whole = [device.id for device in select_devices(session, where, project_id=PROJECT)]
            parts, page = list[str](), Page([], "")
            while page.next is not None:
                page = page_of_devices(session, where, project_id=PROJECT, after=page.next, limit=7)
                parts += [device.id for device in page.found]
            every = session.exec(select(Device).order_by(col(Device.id))).all()
        assert parts == whole == [device.id for device in every if wanted[where](device)], where


def lyon(device: Device) -> bool:
    return device.tags["site"] == "lyon"


def two(device: Device) -> bool:
    return device.tags["line"] == "2"


def third(device: Device) -> bool:
    return int(device.id[3:]) % 3 == 0


WANTED: dict[str, Callable[[Device], bool]] = {
    "": lambda _: True,
    "site=lyon": lyon,
    "site=lyon and line=2": lambda d: lyon(d) and two(d),
    "not site=lyon": lambda d: not lyon(d),
    "site=lyon or line=2": lambda d: lyon(d) or two(d),
    "site=nowhere": lambda _: False,
    "group=thirds": third,
    "group=thirds and site=lyon": lambda d: third(d) and lyon(d),
    "group!=thirds and line=2": lambda d: not third(d) and two(d),
    'group=""': lambda d: not third(d),
    "group=thirds and line=2 and site=lyon": lambda d: third(d) and two(d) and lyon(d),
    "group=thirds and line=2 and not site=lyon": lambda d: third(d) and two(d) and not lyon(d),
    "site in (lyon, nowhere) and line in (2, 7) and class!=x": lambda d: lyon(d) and two(d),
    "(group=thirds and site=lyon or line=2) and id!=m4-003": lambda d: (
        ((third(d) and lyon(d)) or two(d)) and d.id != "m4-003"
    ),
    "site=nowhere or line=7": lambda _: False,
}
Chosen = Callable[[Device], bool]


def random_selector(draw: random.Random, depth: int) -> tuple[str, Chosen]:
    """A selector with what it means."""
    kind = draw.choice(["and", "or", "not", "test"]) if depth else "test"
    if kind == "test":
        return draw.choice(
            [
                ("site=lyon", lyon),
                ("line in (2, 7)", two),
                ("group=thirds", third),
                ("site!=nowhere", lambda _: True),
                ("line=9", lambda _: False),
                ("id=m4-01*", lambda d: d.id.startswith("m4-01")),
            ]
        )
    left, is_left = random_selector(draw, depth - 1)
    if kind == "not":
        return f"not ({left})", lambda d: not is_left(d)
    right, is_right = random_selector(draw, depth - 1)
    if kind == "and":
        return f"({left}) and ({right})", lambda d: is_left(d) and is_right(d)
    return f"({left}) or {right}", lambda d: is_left(d) or is_right(d)


def test_a_large_fleet_is_counted_in_the_background(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session_scope(engine) as session:
        for n in range(10):
            seen = utc_now() - timedelta(seconds=n * 100)  # three intervals are 180 s: the first two are online
            session.add(Device(id=f"m4-{n}", project_id=PROJECT, device_class=CLASS, last_seen_at=seen))
    store = TelemetryStore(make_settings(tmp_path / "telemetry"))
    with session_scope(engine, read_only=True) as session:
        assert online_module.count_online(session, store, PROJECT, 10) == 2
        monkeypatch.setattr(online_module, "AT_ONCE", 3)
        monkeypatch.setattr(online_module, "PAGE", 4)
        first = online_module.count_online(session, store, PROJECT, 10)
        count = online_module._counts[(str(engine.url), PROJECT)]
        with count.running:  # until it is done
            pass
        assert first in (None, 2)
        assert online_module.count_online(session, store, PROJECT, 10) == 2
    store.close()
