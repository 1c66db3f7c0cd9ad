"""The selector grammar: what it selects, and what it says about mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlmodel import Session, SQLModel, col, create_engine, select

from tinyfleet_service.database.device_index import listen
from tinyfleet_service.database.engine import prepare_sqlite
from tinyfleet_service.database.models import Device, DeviceGroup, GroupMember, Project
from tinyfleet_service.devices import page_of_devices, select_devices
from tinyfleet_service.devices.selectors import MAX_CLAUSES, compile_selector, parse_selector
from tinyfleet_service.errors import SelectorError

FLEET = {
    "a": ("cortex-m4", {"site": "lyon", "line": "1"}),
    "b": ("cortex-m4", {"site": "oslo"}),
    "c": ("cortex-m0plus", {"site": "lyon", "note": "50% off_site"}),
    "d": ("cortex-m0plus", {"group": "tagged"}),
}
GROUPS = {"line-2": ["a", "c"], "line-3": ["a"], "empty": []}


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    listen()
    engine = create_engine("sqlite://")
    event.listen(engine, "connect", prepare_sqlite)
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Project(id=1, name="p"), Project(id=2, name="q")])
        session.flush()
        for name, (device_class, tags) in FLEET.items():
            session.add(
                Device(id=name, project_id=1, device_class=device_class, tags=tags, active_image="3fa9" + "0" * 28)
            )
        session.add(Device(id="z", project_id=2, device_class="cortex-m4", tags={"site": "lyon"}, state="revoked"))
        session.flush()
        for number, (group, members) in enumerate(GROUPS.items()):
            session.add(DeviceGroup(id=number, project_id=1, name=group, devices=len(members)))
            session.flush()
            session.add_all(GroupMember(group_id=number, device_id=member) for member in members)
        session.add(DeviceGroup(id=9, project_id=2, name="line-2", devices=1))
        session.add(DeviceGroup(id=10, project_id=2, name="theirs"))
        session.flush()
        session.add(GroupMember(group_id=9, device_id="z"))
        session.flush()
        yield session


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", "abcd"),
        ("class=cortex-m4", "ab"),
        ("class=cortex-m4 and site=lyon", "a"),
        ("class=cortex-m4 AND NOT site=lyon", "b"),
        ("site!=lyon", "bd"),
        ("site=lyon or class=cortex-m4", "abc"),
        ("site=oslo or site=lyon and class=cortex-m0plus", "bc"),
        ("(site=oslo or site=lyon) and class=cortex-m0plus", "c"),
        ("site in (lyon, oslo)", "abc"),
        ("site not in (lyon, oslo)", "d"),
        ("not (site in (lyon)) and class in (cortex-m4)", "b"),
        ("not not id=a", "a"),
        ("tag.site=lyon and line=1", "a"),
        ('site=""', "d"),
        ('note="50% off_site"', "c"),
        ('note="5%*"', ""),
        ('note="50%*"', "c"),
        ("image=3fa9*", "abcd"),
        ("image=4*", ""),
        ("state=enrolled", "abcd"),
        ("site=lyo_", ""),
        ("class = cortex-m4  and\tid!=b", "a"),
        ("group=line-2", "ac"),
        ("group!=line-2", "bd"),
        ("group in (line-2, line-3)", "ac"),
        ("group not in (line-3)", "bcd"),
        ("group=line-*", "ac"),
        ("group=nothing-*", ""),
        ("group=empty", ""),
        ('group=""', "bd"),
        ('group!=""', "ac"),
        ("group=*", "abcd"),
        ("group=line-2 and not group=line-3", "c"),
        ("group=line-3 or site=oslo", "ab"),
        ("tag.group=tagged", "d"),
        ("tag.group!=tagged and group=line-2", "ac"),
    ],
)
def test_selects(session: Session, where: str, expected: str) -> None:
    assert "".join(device.id for device in select_devices(session, where, project_id=1)) == expected


@pytest.mark.parametrize(
    ("where", "sure", "never", "whole"),
    [
        ("", [], [], True),
        ("class=cortex-m4 and id=a*", ["class=cortex-m4", "id=a*"], [], True),
        ("site=lyon", ["site=lyon"], [], True),
        ("site=lyo* and line!=1 and not note=x", [], ["line=1", "note=x"], False),
        ("site in (lyon, oslo) and tag.group=tagged", ["site=lyon site=oslo", "tag.group=tagged"], [], True),
        ('site in (lyon, "")', [], [], False),
        ("site=lyon or class=cortex-m4", ["site=lyon class=cortex-m4"], [], True),
        ("site=lyon or class=cortex-m*", [], [], False),
        ("site=lyon and line=1 or group=line-2", ["site=lyon group=line-2", "line=1 group=line-2"], [], True),
        ("site=lyon and line!=1 or group=line-2", ["site=lyon group=line-2"], [], False),
        ("not (site=lyon or line=1)", [], ["site=lyon line=1"], True),
        ("not (site=lyon and line=1)", [], [], False),
        ("not (site=lyon or line=a*)", [], [], False),
        ("line=1 and not not site=lyon", ["line=1", "site=lyon"], [], True),
        ("site not in (lyon, oslo) and group!=line-2", [], ["site=lyon site=oslo", "group=line-2"], True),
        ("site!=lyon or line!=1", [], [], False),
        ("(site=lyon or line=1) and (site=lyon or line=1)", ["site=lyon line=1"], [], True),
        ("id in (a, b) and state=enrolled", ["id=a id=b", "state=enrolled"], [], True),
    ],
)
def test_what_every_selected_device_has_is_known(where: str, sure: list[str], never: list[str], whole: bool) -> None:
    selector = parse_selector(where)
    told = [[" ".join(f"{has.name}={has.value}" for has in one) for one in c] for c in (selector.sure, selector.never)]
    assert told == [sure, never]
    assert selector.whole == whole


def test_as_much_is_sure_as_can_be_asked_for() -> None:
    """However many combinations there are: 2 to the power of 50 here."""
    where = " or ".join(f"(a={n} and b={n})" for n in range(50))
    assert 0 < len(parse_selector(where).sure) <= MAX_CLAUSES
    assert not parse_selector(where).whole
    where = " and ".join(f"a{n}=1" for n in range(100))
    assert len(parse_selector(where).sure) == MAX_CLAUSES
    assert not parse_selector(where).whole
    where = " and ".join(f"a{n}!=1" for n in range(50))
    assert len(parse_selector(where).never) == MAX_CLAUSES
    assert not parse_selector(where).whole


def test_projects_stay_apart(session: Session) -> None:
    assert [device.id for device in select_devices(session, "state=revoked", project_id=2)] == ["z"]
    assert select_devices(session, "state=revoked", project_id=1) == []
    assert [device.id for device in select_devices(session, "group=line-2", project_id=2)] == ["z"]


@pytest.mark.parametrize(
    ("where", "position"),
    [
        ("group=line-9", 6),
        ("site=lyon and not (group in (line-2, theirs))", 37),
        ("group=Line-2", 6),
        ("group=\"x' OR ''='\"", 7),
        ("group!=tagged", 7),
    ],
)
def test_a_group_that_is_not_there_is_a_mistake(session: Session, where: str, position: int) -> None:
    with pytest.raises(SelectorError, match="no group") as caught:
        select_devices(session, where, project_id=1)
    assert caught.value.data["position"] == position
    assert select_devices(session, "not (group=li* or group=nothing*) and id!=b", project_id=1)[0].id == "d"


@pytest.mark.parametrize(
    ("where", "named", "others"),
    [("group!=x", "x", "xy"), ("site=x or (group in (a, line-*))", "line-9", "lin"), ("tag.group=x", "", "x")],
)
def test_a_selector_tells_which_groups_it_depends_on(where: str, named: str, others: str) -> None:
    selector = parse_selector(where)
    assert not named or selector.names_group(named)
    assert not selector.names_group(others)


@pytest.mark.parametrize(
    ("where", "position"),
    [
        ("class", 5),
        ("class=", 6),
        ("=lyon", 0),
        ("class=a site=b", 8),
        ("(class=a", 8),
        ("class=a)", 7),
        ("class in lyon", 9),
        ("class in ()", 10),
        ("class not lyon", 10),
        ("and", 0),
        ("class=a and", 11),
        ("Class=a", 0),
        ("site='lyon'", 5),
        ("site=lyon; DROP TABLE device", 9),
        ('site="lyon', 5),
        ('site="\0"', 5),
        ("group in ()", 10),
        ("group", 5),
    ],
)
def test_mistakes_name_their_position(where: str, position: int) -> None:
    with pytest.raises(SelectorError) as caught:
        compile_selector(where)
    assert caught.value.data["position"] == position
    assert "class=cortex-m4 and site in (lyon, oslo)" in caught.value.next


@pytest.mark.parametrize(
    "where", ["(" * 300 + "a=b", "not " * 200 + "a=b", "a=b and " * 110 + "a=b", "a=" + "b" * 1000]
)
def test_endless_selectors_are_refused(where: str) -> None:
    with pytest.raises(SelectorError):
        compile_selector(where)


def test_a_group_costs_no_walk_through_all_devices() -> None:
    query = select(Device.id).where(compile_selector("group=line-2 or group!=line-*"))
    assert str(query).count("FROM device \n") == 1
    assert ", device" not in str(query)


@pytest.mark.parametrize("where", ["id in (a, c)", "id=a", "id in (a, c) and class=cortex-m4", "id=a*"])
def test_named_devices_are_found_by_their_index(session: Session, where: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(*given: Any) -> None:
        asked.append((given[2], given[3]))

    event.listen(session.get_bind(), "before_cursor_execute", note)
    page_of_devices(session, where, project_id=1, limit=100)
    event.remove(session.get_bind(), "before_cursor_execute", note)
    statement, values = next(one for one in asked if "ORDER BY" in one[0] and "FROM device" in one[0])
    plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    first, *others = [row[-1] for row in plan if "device" in row[-1]]
    assert ("id>? AND id<?" if "*" in where else "id=?") in first, plan
    assert all("project_id=? AND device_class=? AND id>? AND id<?" in other for other in others), plan


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*"ab=!(),\"'% ;*", "class", "group", " and ", " or ", " not ", " in "]), max_size=20))
def test_any_text_is_either_selected_by_or_refused(session: Session, words: list[str]) -> None:
    where = "".join(words)
    try:
        found = select_devices(session, where, project_id=1)
    except SelectorError:
        return
    assert {device.id for device in found} <= set(FLEET)


TESTS = st.sampled_from(
    ["class=cortex-m4", "class in (cortex-m4, none)", "state=enrolled", "image=" + "3fa9" + "0" * 28, "site=lyon",
     "site in (lyon, oslo)", "line=1", "group=line-2", "group in (line-3, empty)", "group!=line-3", "id in (a, c, z)",
     "id!=b", "id=a*", "id in (b*, c)", "site=l*", 'note=""', "site not in (lyon, oslo)", "site!=lyon",
     "image!=" + "3fa9" + "0" * 28]
)  # fmt: skip
SELECTORS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("not {}".format, inner),
    ),
    max_leaves=5,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(SELECTORS, st.sampled_from([0, 1, 2, 100]), st.sampled_from([1, 2, 10]), st.sampled_from(["", "a", "b"]),
       st.sampled_from([1, 2, 1000]), st.sampled_from([0.0, 60.0]))  # fmt: skip
def test_what_indexes_tell_is_what_the_devices_say(
    session: Session, where: str, rare: int, limit: int, after: str, window: int, look_s: float
) -> None:
    """Whatever counts as rare, however few candidates a window has, and with no time for a second one."""
    query = select(Device.id).where(compile_selector(where), Device.project_id == 1, col(Device.id) > after)
    found, at = list[str](), after
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RARE": rare, "LOOK_S": look_s, "FIRST_WINDOW": window, "FIRST_READ": window}.items():
            patch.setattr(f"tinyfleet_service.devices.pages.{name}", value)
        while at is not None:
            page = page_of_devices(session, where, project_id=1, after=at, limit=limit)
            assert len(page.found) <= limit
            assert page.next is None or page.next > at
            assert len(page.found) == limit or page.next is None or look_s == 0
            found, at = [*found, *(device.id for device in page.found)], page.next
    assert found == session.exec(query.order_by(col(Device.id))).all()


def test_the_beginning_of_an_id_is_told_by_its_case(session: Session) -> None:
    assert [device.id for device in select_devices(session, "id=a*", project_id=1)] == ["a"]
    assert select_devices(session, "id=A* or site=LY*", project_id=1) == []
