"""Groups of devices, as people use them: API, Python client and command line, and what a rollout makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import Session, insert

from service_harness import Api, running_api
from tinyfleet_service import devices
from tinyfleet_service.audit import check_entries
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.cli.main import main
from tinyfleet_service.client import Fleet
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device, DeviceState, Model, ModelVersion, Rollout, RolloutState
from tinyfleet_service.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
    SelectorError,
    StateConflictError,
)
from tinyfleet_service.rollouts.select_devices import devices_for, selected_among

FLEET = 25


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """25 devices in the project, every fifth in oslo, and one of another project."""
    with running_api(tmp_path_factory.mktemp("data"), rate_token_per_s=0, rate_address_per_s=0) as api:
        with session_scope(api.engine) as session:
            other = ensure_project(session, "other").id or 0
            session.add(Device(id="theirs", project_id=other, device_class="cortex-m4"))
            for n in range(FLEET):
                tags = {"site": "lyon" if n % 5 else "oslo"}
                session.add(Device(id=f"m4-{n:02}", project_id=1, device_class="cortex-m4", tags=tags))
        yield api


@pytest.fixture
def fleet(api: Api) -> Fleet:
    return Fleet(api.url, api.token)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_a_group_by_ids(api: Api, fleet: Fleet) -> None:
    group = fleet.group("line-2", create=True)
    assert group.add(["m4-03", "m4-01", "m4-01"]) == 2
    assert group.add(["m4-01", "m4-05"]) == 1
    assert ids(group.devices()) == ["m4-01", "m4-03", "m4-05"]
    assert group.remove(["m4-03", "m4-09"]) == 1
    shown = api.client().group("line-2")
    assert (shown["devices"], shown["by_class"], shown["by_state"]) == (2, {"cortex-m4": 2}, {"enrolled": 2})
    with session_scope(api.engine) as session:
        session.get_one(Device, "m4-01").state = DeviceState.QUARANTINED
    assert api.client().group("line-2")["by_state"] == {"enrolled": 1, "quarantined": 1}
    with session_scope(api.engine) as session:
        session.get_one(Device, "m4-01").state = DeviceState.ENROLLED
    assert api.client().device("m4-05")["groups"] == ["line-2"]
    assert api.client().device("m4-03")["groups"] == []
    assert fleet.group("line-2", create=True).name == "line-2"
    api.client().delete_group("line-2")
    assert ids(fleet.devices("site=oslo"))[1] == "m4-05"
    with pytest.raises(NotFoundError, match="no group 'line-2'"):
        fleet.group("line-2")


def test_a_group_by_a_selector_goes_page_by_page(api: Api, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyfleet_service.devices.groups.PAGE", 4)
    group = fleet.group("all", create=True)
    before = len(api.client().audit(limit=1000))
    assert group.add(where="site=lyon") == 20
    assert group.add(where="id=*") == 5
    entries = api.client().audit(limit=1000)[before:]
    assert len(entries) == 6 + 7
    assert entries[0]["action"] == "POST /api/v1/groups/all/add"
    changes = {change["table"]: change for change in entries[0]["detail"]["changes"]}
    assert changes["device_group"]["values"] == {"name": "all", "devices": 4}
    assert (changes["group_member"]["key"], changes["group_member"]["rows"]) == ("all", 4)
    assert changes["group_member"]["values"]["where"] == "site=lyon"
    assert entries[0]["detail"]["changed_rows"] == 5
    assert group.remove(where="group=all and site=oslo") == 5
    assert len(group.devices()) == 20
    assert group.remove(where="id=*") == 20
    empty = api.client().group("all")
    assert (empty["devices"], empty["by_class"], empty["by_state"]) == (0, {}, {})
    api.client().delete_group("all")


def test_a_selector_that_takes_several_looks_misses_nobody(
    api: Api, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LOOK_S": 0, "FIRST_WINDOW": 3, "FIRST_READ": 3}.items():
        monkeypatch.setattr(f"tinyfleet_service.devices.pages.{name}", value)
    group = fleet.group("looks", create=True)
    assert group.add(where="site!=lyon and id=*") == 5
    assert ids(group.devices()) == ids(fleet.devices("not site=lyon"))
    assert group.remove(where="site in (oslo, nowhere)") == 5
    api.client().delete_group("looks")


def test_thousands_of_members_are_one_entry_a_page_that_names_them_by_digest(api: Api) -> None:
    with session_scope(api.engine) as session:
        project = ensure_project(session, "large").id or 0
        token = create_token(session, project, "large", Role.ADMIN)[1]
        rows = [Device(id=f"l-{n:04}", project_id=project, device_class="cortex-m4") for n in range(3000)]
        session.connection().execute(insert(Device), [row.model_dump() for row in rows])
    client = api.client(token)
    client.create_group("press")
    assert client.add_to_group("press", where="class=cortex-m4")["changed"] == 3000
    assert client.remove_from_group("press", [f"l-{n:04}" for n in range(60)])["devices"] == 2940
    *_, first, second, third = entries = client.audit(limit=1000)
    assert check_entries(entries) == []
    said = [entry["detail"]["changes"][0] for entry in (first, second, third)]
    assert [(change["verb"], change["rows"]) for change in said] == [("insert", 2000), ("insert", 1000), ("delete", 60)]
    assert [change["values"]["where"] for change in said] == ["class=cortex-m4", "class=cortex-m4", None]
    assert [change["values"]["rows"][0] for change in said] == ["l-0000", "l-2000", "l-0000"]
    assert len(json.dumps(entries)) < 10_000
    listed = "".join(f"l-{n:04}\n" for n in range(2000))
    assert said[0]["values"]["rows_sha256"] == hashlib.sha256(listed.encode()).hexdigest()
    second["detail"]["changes"][0]["rows"] = 999
    assert any("was changed" in problem for problem in check_entries(entries))
    assert client.remove_from_group("press", where="id=*")["devices"] == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [("", InvalidInputError), ("Line", InvalidInputError), ("a b", InvalidInputError), ("../x", InvalidInputError),
     ("-a", InvalidInputError), ("a" * 65, InvalidInputError), ("*", InvalidInputError), ("a\0", InvalidInputError)],
)  # fmt: skip
def test_bad_names(api: Api, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        api.client().create_group(name)


def test_what_makes_no_sense_changes_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    client = api.client()
    client.create_group("kept", "for the test")
    client.add_to_group("kept", ["m4-00"])
    with pytest.raises(ConflictError, match="there already"):
        client.create_group("kept")
    with pytest.raises(InvalidInputError, match="description"):
        client.create_group("new", "two\nlines")
    monkeypatch.setattr("tinyfleet_service.devices.groups.MAX_GROUPS", 1)
    with pytest.raises(QuotaError, match="1 groups"):
        client.create_group("one-more")
    with pytest.raises(NotFoundError, match=r"'nobody', 'theirs'; nothing was changed"):
        client.add_to_group("kept", ["m4-01", "theirs", "nobody"])
    with pytest.raises(SelectorError, match="no group 'missing'"):
        client.add_to_group("kept", where="group=missing")
    with pytest.raises(InvalidInputError, match="every device"):
        client.remove_from_group("kept", where=" ")
    for body in ({}, {"devices": []}, {"devices": ["m4-01"], "where": "id=*"}, {"devices": ["x"] * 1001}):
        with pytest.raises(InvalidInputError):
            client._object("POST", "/api/v1/groups/kept/add", json=body)
    assert (client.group("kept")["devices"], ids(client.devices(where="group=kept"))) == (1, ["m4-00"])
    with session_scope(api.engine) as session:
        theirs = create_token(session, ensure_project(session, "other").id or 0, "theirs", Role.ADMIN)[1]
    with pytest.raises(NotFoundError):
        api.client(theirs).add_to_group("kept", ["theirs"])
    client.delete_group("kept")


def test_the_commands(api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyfleet_service.devices.revocation._EVICTION_S", 0.01)  # there is no broker to wait for

    def fleetctl(*words: str) -> str:
        with pytest.raises(SystemExit) as done:
            main(["--url", api.url, "--token", api.token, *words])
        output = capsys.readouterr()
        return output.err if done.value.code else output.out

    assert "group press" in fleetctl("group", "create", "press", "--description", "at the press")
    assert "added 5; group press has 5 devices" in fleetctl("group", "add", "press", "--where", "site=oslo")
    assert "removed 1; group press has 4 devices" in fleetctl("group", "remove", "press", "m4-10", "m4-11")
    assert "cortex-m4 4  enrolled 4  at the press" in fleetctl("group", "show", "press")
    assert "press  4        at the press" in fleetctl("group", "list")
    assert "site=oslo  press" in fleetctl("device", "list", "--where", "group=press")
    assert "give device ids, or --where" in fleetctl("group", "add", "press")
    assert "may enrol again" in fleetctl("device", "reset", "m4-10")
    assert "m4-11: revoked" in fleetctl("device", "revoke", "m4-11", "--yes")
    assert "m4-11 is revoked" in fleetctl("device", "reset", "m4-11")
    assert "group press is gone" in fleetctl("group", "delete", "press")
    assert "no groups yet" in fleetctl("group", "list")
    assert "no group 'press'" in fleetctl("device", "list", "--where", "group=press")


def new_rollout(session: Session, where: str) -> Rollout:
    model = Model(project_id=1, name=f"m{len(where)}")
    session.add(model)
    session.flush()
    version = ModelVersion(model_id=model.id or 0, version="v1", model_sha256="0" * 64, model_bytes=1)
    session.add(version)
    session.flush()
    rollout = Rollout(project_id=1, version_id=version.id or 0, salt="s", spec={"where": where})
    session.add(rollout)
    session.flush()
    return rollout


def test_a_group_that_an_open_rollout_selects_by_stays(api: Api) -> None:
    client = api.client()
    client.create_group("line-7")
    client.add_to_group("line-7", ["m4-02"])
    with session_scope(api.engine) as session:
        rollout_id = new_rollout(session, "site=lyon and group!=line-*").id
        other_id = new_rollout(session, "tag.group=line-7").id
    with pytest.raises(StateConflictError, match=f"rollout {rollout_id} selects its devices by group") as caught:
        client.delete_group("line-7")
    assert caught.value.data["rollouts"] == [rollout_id]
    client.add_to_group("line-7", ["m4-03"])
    with session_scope(api.engine) as session:
        joiner, where = session.get_one(Device, "m4-03"), "group=line-7"
        assert selected_among(session, joiner.project_id, [joiner.id], where)
        assert [device.id for device in devices_for(session, 1, where)] == ["m4-02", "m4-03"]
        for row in (rollout_id, other_id):
            session.get_one(Rollout, row).state = RolloutState.ABORTED
    client.delete_group("line-7")
    with session_scope(api.engine) as session:
        assert not selected_among(session, 1, ["m4-03"], "group=line-7")
        with pytest.raises(SelectorError, match="no group 'line-7'"):
            devices_for(session, 1, "group=line-7")
        assert devices.groups_of(session, ["m4-02", "m4-03"]) == {}
