"""The audit log: every changing request and decision is in it, and no entry can be touched unnoticed."""

from __future__ import annotations

import copy
import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlmodel import Session

import web
from integration.test_api_limits import hidden_field, log_in
from postgres import postgres_binaries, postgres_server
from service_harness import Api, running_api
from tinyfleet_service.audit import START, Act, check_entries, entry_digest, perform, read_entries
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.cli.main import main
from tinyfleet_service.controller.process import DECIDED
from tinyfleet_service.database.engine import make_engine, session_scope
from tinyfleet_service.database.migrate import upgrade
from tinyfleet_service.database.models import Decision, Device, Model, ModelVersion, ProjectClass, Rollout
from tinyfleet_service.errors import FleetError, ForbiddenError, InvalidInputError, NotFoundError
from tinyfleet_service.settings import load_settings


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), dashboard=True) as api:
        yield api


def newest(api: Api) -> dict[str, Any]:
    return log_of(api)[-1]


def log_of(api: Api) -> list[dict[str, Any]]:
    return api.client().audit(limit=1000)


def test_a_change_is_entered_with_who_what_when_and_digests(api: Api) -> None:
    made = api.client().create_token("robot", "operator")
    entry = newest(api)
    assert (entry["action"], entry["actor"]) == ("POST /api/v1/tokens", "admin (token 1)")
    assert entry["detail"]["address"] == "127.0.0.1"
    change = entry["detail"]["changes"][0]
    assert (change["verb"], change["table"], change["key"]) == ("insert", "api_token", str(made["id"]))
    assert change["values"] == {"name": "robot", "role": "operator"}
    assert (entry["before_sha256"], len(entry["after_sha256"])) == (None, 64)
    api.client().revoke_token(made["id"])
    entry = newest(api)
    assert (entry["action"], entry["detail"]["changes"][0]["verb"]) == (f"DELETE /api/v1/tokens/{made['id']}", "delete")
    assert (len(entry["before_sha256"]), entry["after_sha256"]) == (64, None)
    assert made["token"] not in json.dumps(log_of(api))


def test_an_update_names_the_fields_and_both_digests(api: Api) -> None:
    with session_scope(api.engine) as session:
        session.add(Device(id="audited", project_id=1, device_class="cortex-m4"))
    count = len(log_of(api))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyfleet_service.devices.revocation._EVICTION_S", 0.01)
        api.client().revoke_device("audited")
    entry = newest(api)
    assert len(log_of(api)) == count + 1
    assert entry["detail"]["changes"][0]["fields"] == ["state"]
    assert entry["before_sha256"] != entry["after_sha256"]


def test_a_refused_request_is_entered_and_a_reading_one_is_not(api: Api) -> None:
    viewer = api.client(api.client().create_token("looker", "viewer")["token"])
    count = len(log_of(api))
    with pytest.raises(ForbiddenError):
        viewer.create_token("mine", "admin")
    with pytest.raises(InvalidInputError):
        api.client().create_token("", "admin")
    viewer.models()
    with pytest.raises(FleetError):
        api.client("tf_unknown").create_token("x")
    entries = log_of(api)[count:]
    assert [(e["actor"].split(" ")[0], e["detail"]["status"]) for e in entries] == [("looker", 403), ("admin", 422)]


def test_a_path_of_control_characters_is_entered_as_it_was_sent(api: Api) -> None:
    path = "/api/v1/groups/%00%1B%5Bm"
    answer = web.request("DELETE", api.url + path, headers={"Authorization": f"Bearer {api.token}"})
    assert answer.status_code in (404, 422)
    entry = newest(api)
    assert (entry["action"], entry["detail"]["status"]) == ("DELETE /api/v1/groups/%00%1B[m", answer.status_code)


def test_a_change_that_fails_to_commit_is_not_entered(api: Api) -> None:
    count = len(log_of(api))
    with pytest.raises(ZeroDivisionError):
        change_and_fail(api.engine)
    with perform(Act("half", "nobody", 1)), session_scope(api.engine) as session:
        savepoint = session.begin_nested()
        session.add(ProjectClass(project_id=1, name="undone", toml=""))
        session.flush()
        savepoint.rollback()
    assert len(log_of(api)) == count


def change_and_fail(engine: Engine) -> None:
    with perform(Act("nothing", "nobody", 1)), session_scope(engine) as session:
        session.add(ProjectClass(project_id=1, name="never", toml=""))
        session.flush()
        raise ZeroDivisionError


def test_a_tick_enters_decisions_and_moves_but_not_every_member(api: Api) -> None:
    with session_scope(api.engine) as session:
        session.add(Model(id=7, project_id=1, name="audited"))
        session.add(ModelVersion(id=7, model_id=7, version="v1", model_sha256="", model_bytes=0))
        session.add(Rollout(id=7, project_id=1, version_id=7, salt="s"))
        session.add(Device(id="audited-2", project_id=1, device_class="cortex-m4"))
    with perform(Act("tick", "controller", tables=DECIDED)), session_scope(api.engine) as session:
        rollout = session.get_one(Rollout, 7)
        rollout.state, rollout.reason = "held", "nobody decided"
        device = session.get_one(Device, "audited-2")
        device.report_interval_s = 9
        gate = {"stage": "shadow", "look": 1, "gate": "shadow", "required": True, "outcome": "hold", "summary": ""}
        session.add_all([rollout, device, Decision(rollout_id=7, **gate)])
    entry = newest(api)
    assert (entry["actor"], entry["detail"]["changed_rows"]) == ("controller", 2)
    tables = {change["table"]: change["values"] for change in entry["detail"]["changes"]}
    assert tables["rollout"]["reason"] == "nobody decided"
    assert tables["decision"]["outcome"] == "hold"


def test_the_chain_holds_and_each_project_has_its_own(api: Api) -> None:
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other")
        assert other.id is not None
        _, token = create_token(session, other.id, "stranger", Role.ADMIN)
    api.client(token).create_token("theirs")
    theirs = api.client(token).audit()
    assert [entry["number"] for entry in theirs] == [1]
    assert theirs[0]["previous_sha256"] == START
    for entries in (theirs, log_of(api)):
        assert check_entries(entries) == []
    assert {entry["project"] for entry in log_of(api)} == {1}


def test_login_and_logout_are_entered_and_the_page_shows_the_chain(api: Api) -> None:
    with web.Client(base_url=api.url) as browser:
        log_in(browser, api)
        assert newest(api)["action"] == "POST /dashboard/login"
        page = browser.get("/dashboard/audit").text
        assert "chain holds" in page
        assert "insert api token" in page
        browser.post("/dashboard/logout", data={"csrf": hidden_field(page)})
    assert newest(api)["action"] == "POST /dashboard/logout"
    assert web.get(f"{api.url}/dashboard/audit").status_code == 303


def fleetctl(api: Api, *arguments: object) -> tuple[int, str]:
    """Exit code and everything printed, from the command line in this process."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            main(["--url", api.url, "--token", api.token, "audit", *map(str, arguments)])
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def test_export_and_verify_on_the_command_line(api: Api, tmp_path: Path) -> None:
    old, new, cut = tmp_path / "old.jsonl", tmp_path / "new.jsonl", tmp_path / "cut.jsonl"
    for name in ("sooner", "soon"):  # entries, whichever tests ran before
        api.client().create_token(name)
    with pytest.raises(NotFoundError):
        api.client().delete_group("line\u2028two")  # a new line for Unicode, not for JSON lines
    assert fleetctl(api, "export", "--out", old)[0] == 0
    api.client().create_token("later")
    assert fleetctl(api, "export", "--out", new)[0] == 0
    assert re.search(r"\d+ entries hold", fleetctl(api, "verify", new, "--after", old)[1])
    assert fleetctl(api, "verify", "--server")[0] == 0
    assert fleetctl(api, "list")[0] == 0
    cut.write_bytes(b"".join(new.read_bytes().splitlines(keepends=True)[:-2]))
    assert fleetctl(api, "verify", cut)[0] == 0  # cut at its end: only an older copy tells
    code, printed = fleetctl(api, "verify", cut, "--after", old)
    assert (code, "is gone or different" in printed) == (1, True)
    lines = new.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join([lines[0].replace(b"admin", b"nobody"), *lines[1:]]))
    code, printed = fleetctl(api, "verify", cut)
    assert (code, "entry 1 was changed" in printed) == (1, True)
    cut.write_text("no entries")
    assert fleetctl(api, "verify", cut)[0] == 1


def chain(length: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number in range(1, length + 1):
        entry: dict[str, Any] = {"project": 1, "number": number, "at": f"t{number}", "actor": "é", "action": "a"}
        entry |= {"detail": {"x": [number, None]}, "before_sha256": None, "after_sha256": "0" * 64}
        entry["previous_sha256"] = entries[-1]["entry_sha256"] if entries else START
        entries.append(entry | {"entry_sha256": entry_digest(entry)})
    return entries


def test_a_log_is_checked_in_less_memory_than_it_has_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in chain(5000)))

    def verify() -> None:
        with pytest.raises(SystemExit) as end:
            main(["audit", "verify", str(log)])
        assert end.value.code == 0

    verify()  # imports what it needs
    tracemalloc.start()
    try:
        verify()
        assert tracemalloc.get_traced_memory()[1] < log.stat().st_size / 2
    finally:
        tracemalloc.stop()


@given(st.data())
def test_any_edit_of_any_field_is_found(data: st.DataObject) -> None:
    entries = chain(6)
    assert check_entries(entries) == []
    place = data.draw(st.integers(0, 5))
    field = data.draw(st.sampled_from(sorted(entries[place])))
    changed = data.draw(st.one_of(st.integers(), st.text(), st.none(), st.lists(st.integers())))
    before = entries[place][field]
    entries[place][field] = changed
    assert bool(check_entries(entries)) == (changed != before)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_removed_and_reordered_entries_are_found(order: list[int], kept: int) -> None:
    entries = chain(6)
    left = [entries[place] for place in order[:kept]]
    assert bool(check_entries(left)) == (left != entries[:kept])


def test_an_entry_forged_with_a_right_digest_breaks_the_next() -> None:
    entries = copy.deepcopy(chain(4))
    entries[1]["actor"] = "somebody else"
    entries[1]["entry_sha256"] = entry_digest(entries[1])
    assert check_entries(entries) == ["entry 3 does not follow from entry 2: one of them was changed"]
    assert check_entries(entries[:2], 0) == []
    assert check_entries(chain(4)[2:]) == ["entries 1 to 2 are missing"]


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "postgresql" and postgres_binaries() is None:
        pytest.skip("PostgreSQL server binaries are not installed (Debian package postgresql)")
    if request.param == "sqlite":
        yield from migrated(tmp_path, "")
        return
    with postgres_server() as url:
        yield from migrated(tmp_path, url)


def migrated(path: Path, url: str) -> Iterator[Engine]:
    settings = load_settings(path, database_url=url)
    settings.dirs.create()
    engine = make_engine(settings)
    upgrade(engine)
    yield engine
    engine.dispose()


def test_writers_at_once_make_one_chain(engine: Engine) -> None:
    with session_scope(engine) as session:
        project_id = ensure_project(session, "p").id
        assert project_id is not None

    def write(number: int) -> None:
        with perform(Act(f"write {number}", "writer", project_id)), session_scope(engine) as session:
            session.add(ProjectClass(project_id=project_id, name=f"c-{number}", toml=""))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    entries = stored(engine, project_id)
    assert len(entries) == 40
    assert check_entries(entries) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE audit_entry SET actor = 'other' WHERE number = 7"))
        connection.execute(text("DELETE FROM audit_entry WHERE number = 20"))
    problems = check_entries(stored(engine, project_id))
    assert problems[0].startswith("entry 7 was changed")
    assert problems[1] == "entries 20 to 20 are missing"


def stored(engine: Engine, project_id: int) -> list[dict[str, Any]]:
    with Session(engine) as session:
        return read_entries(session, project_id, 0, 1000)
