"""What the view and the list of rollouts count in the database is what the members say, on both engines."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from integration.rollout_fleet import Fleet
from postgres import postgres_database, shared_server
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, MemberStatus, RolloutMember, utc_now
from tinyfleet_service.rollouts import list_rollouts, rollout_view

server = pytest.fixture(shared_server, scope="module")


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Two rollouts over 60 devices of two classes, a build for each."""
    if request.param == "sqlite":
        yield started(Fleet(tmp_path))
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        fleet = started(Fleet(tmp_path, database_url=url))
        yield fleet
        fleet.engine.dispose()


def started(fleet: Fleet) -> Fleet:
    fleet.push("v1", 0.85)
    fleet.push("v2", 0.9)
    fleet.start("v1", canary="100%")
    fleet.start("v2", canary="10", supersede=True)
    return fleet


def scatter(fleet: Fleet, rollout: int, draw: random.Random) -> None:
    """Members in every status, heard from or not, silent once or still, with and without a download."""
    now = utc_now()
    with session_scope(fleet.engine) as session:
        for member in session.exec(select(RolloutMember).where(RolloutMember.rollout_id == rollout)):
            member.status = draw.choice(list(MemberStatus))
            member.joiner = draw.random() < 0.2
            member.bytes_full, member.bytes_sent = draw.choice([(0, 0), (6000, 2000), (1 << 30, 1 << 20)])
            for name in ("assigned_at", "heard_at", "silent_at"):
                setattr(member, name, draw.choice([None, now - timedelta(seconds=draw.randrange(100))]))
    for device in fleet.devices:
        for image in fleet.images("v2"):
            labelled = draw.randrange(50)
            fleet.telemetry.add(device.id, image, labelled=labelled, correct=labelled // 2, shadow_pairs=(1, 2, 3, 4))


def is_silent(member: RolloutMember) -> bool:
    if member.silent_at is None:
        return False
    return member.status == "silent" or (member.heard_at is not None and member.heard_at < member.silent_at)


def counted(members: list[RolloutMember]) -> dict[str, Any]:
    canaries = [m.device_id for m in members if m.wave == 0 and not m.joiner]
    return {
        "devices": len(members),
        "canary_devices": len(canaries),
        "canaries": canaries,
        "members": dict(sorted(Counter(m.status for m in members).items())),
        "unreached_devices": sum(m.assigned_at is not None and m.heard_at is None for m in members),
        "silent_devices": [m.device_id for m in members if is_silent(m)],
        "recovered_devices": [m.device_id for m in members if m.silent_at is not None and not is_silent(m)],
        "downloads": sum(m.bytes_full > 0 for m in members),
        "bytes_full": sum(m.bytes_full for m in members),
        "bytes_sent": sum(m.bytes_sent for m in members),
    }


def test_views_count_what_the_members_say(fleet: Fleet) -> None:
    draw = random.Random(1)
    for rollout in (1, 2):
        scatter(fleet, rollout, draw)
    with session_scope(fleet.engine, read_only=True) as session:
        listed = list_rollouts(session, 1)
        newest = list_rollouts(session, 1, 1)
        views = {rollout: rollout_view(session, rollout, fleet.telemetry) for rollout in (1, 2)}
    assert [row["id"] for row in listed] == [2, 1]
    assert [row["id"] for row in newest] == [2]
    for row in listed:
        members = sorted(fleet.members(row["id"]), key=lambda m: m.device_id)
        expected, view = counted(members), views[row["id"]]
        assert set(expected["members"]) == set(map(str, MemberStatus))
        assert expected["silent_devices"]
        assert expected["recovered_devices"]
        assert {name: row[name] for name in expected} == expected
        assert {name: view[name] for name in expected} == expected
        for stage in view["stages"]:
            wave = int(stage["key"].partition("/")[2] or 0)
            assert stage["members"] == dict(Counter(m.status for m in members if m.wave == wave))
    with session_scope(fleet.engine, read_only=True) as session:
        images = {build.id: str(build.image_sha256)[:32] for build in session.exec(select(Build))}
    mine = [fleet.telemetry.counters[(m.device_id, images[m.build_id])] for m in fleet.members(2)]
    labelled = sum(c.labelled + sum(c.shadow_pairs) for c in mine)
    assert views[2]["labelled"] == labelled > 600
    assert views[2]["accuracy_device"] == pytest.approx(
        sum(c.correct + c.shadow_pairs[0] + c.shadow_pairs[2] for c in mine) / labelled
    )
    assert views[1]["labelled"] == 0
    assert views[1]["accuracy_device"] is None
