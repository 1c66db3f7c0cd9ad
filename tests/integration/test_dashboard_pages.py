"""The dashboard's pages: what they say, who changes claims by them, by keyboard, on desk and phone."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlmodel import select

import web
from service_harness import Api, running_api
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service import devices, keys
from tinyfleet_service.auth import Role, create_token, ensure_project
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import (
    Build,
    BuildNote,
    ClaimCertificate,
    Decision,
    Device,
    DeviceGroup,
    Event,
    GroupMember,
    Model,
    ModelVersion,
    Rollout,
    utc_now,
)
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.devices import apply_state
from tinyfleet_service.rollouts.gates import RULES
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_state_builders import slot, state
from unit.service.fleet_telemetry_builders import image_counters, telemetry

SCREENS = {"desk": (1280, 800), "tablet": (768, 1024), "phone": (390, 844)}
SPEC = {"model": "digits", "version": "v1", "where": "site=oslo"}
STAGE = {"key": "canary", "skipped": "", "devices": 7, "holdout": False, "gates": ["faults"]}
PLAN = {"stages": [STAGE], "alpha": {"faults": 0.05}, "gates": {"drift": "off"}, "gates_from": {"drift": "model"}}
ROW = r"<i class=.dot v\d.></i>([\w:]+)</th>.*?(<b>.*?)</td>.*?<td.*?>([\d,]+)</td> <td.*?>([\d,]+)</td>"
"""A version on the page of operations: name, accuracy, labels, inferences."""
REPORT_LOGIN = "/dashboard/login?to=%2Fdashboard%2Fbuilds%2F1%2Freport"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), dashboard=True) as api:
        fill(api)
        fill_devices(api)
        yield api


def fill(api: Api) -> None:
    """Build 1 under way, build 2 of another project, rollout 1 with a decision that its snapshots do not bear out."""
    with session_scope(api.engine) as session:
        for project in ("default", "other"):
            model = Model(project_id=ensure_project(session, project).id or 0, name="digits")
            session.add(model)
            session.flush()
            version = ModelVersion(model_id=model.id or 0, version="v1", model_sha256="0" * 64, model_bytes=1)
            session.add(version)
            session.flush()
            build = Build(version_id=version.id or 0, device_class="cortex-m4", state="running", attempt=2)
            build.error = "lost: /model/" + "layer/" * 30
            session.add(build)
            session.flush()
            session.add(BuildNote(build_id=build.id or 0, attempt=2, text=f"quantising {HOSTILE}"))
            rollout = Rollout(
                project_id=model.project_id, version_id=version.id or 0, salt="s", stage="canary", spec=SPEC, plan=PLAN
            )
            session.add(rollout)
            session.flush()
            numbers = {"scope": "all", "canary_rate": 0.123456789, "bounds": [0.1, 0.25], "by_class": {"cortex-m4": 7}}
            numbers["rules"] = RULES
            decided = {"gate": "faults", "required": True, "outcome": "hold", "summary": "3 of 7 devices"}
            session.add(Decision(rollout_id=rollout.id or 0, stage="canary", look=1, numbers=numbers, **decided))


def fill_devices(api: Api) -> None:
    """120 devices of ours, every third in oslo, a few in the group "line-2", and one of another project."""
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other").id or 0
        session.add(Device(id="theirs", project_id=other, device_class="cortex-m4"))
        for n in range(120):
            tags = {"site": "lyon" if n % 3 else "oslo", "class": "a/b", "group": "blue"}
            if n == 3:
                tags["note"] = "Hall B, second press, left of the door" + "!" * 80
            session.add(Device(id=f"m4-{n:03}", project_id=1, device_class="cortex-m4", tags=tags))
        session.add(DeviceGroup(id=1, project_id=1, name="line-2", devices=3))
        session.flush()
        session.add_all(GroupMember(group_id=1, device_id=f"m4-{n:03}") for n in (3, 4, 5))
        slots = [slot(SlotState.CONFIRMED, b"\xa0" * 16), slot(SlotState.WRITING, b"\xa1" * 16)]
        apply_state(session, "m4-003", state(slots=slots, active=0))


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    with logged_in(api, api.token) as browser:
        yield browser


@contextmanager
def logged_in(api: Api, token: str) -> Iterator[httpx.Client]:
    with web.Client(base_url=api.url, follow_redirects=True) as browser:
        form = {"token": token, "csrf": csrf_of(browser.get("/dashboard/login").text)}
        assert browser.post("/dashboard/login", data=form, headers={"Origin": api.url}).status_code == 200
        yield browser


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]


def test_builds_show_their_steps_and_logs(browser: httpx.Client) -> None:
    for path in ("/dashboard", "/dashboard/builds", "/dashboard/builds/1"):
        page = browser.get(path).text
        assert "quantising &lt;script&gt;" in page, path
        assert HOSTILE not in page
    assert "digits:v1 for cortex-m4" in page
    assert "/dashboard/builds/2" not in browser.get("/dashboard/builds").text


def test_models_show_their_versions_and_gates(api: Api, browser: httpx.Client) -> None:
    with session_scope(api.engine) as session:
        session.exec(select(Model).where(Model.project_id == 1)).one().gates = {"accuracy": "proxy"}
    assert 'href="/dashboard/models/digits">digits</a>' in browser.get("/dashboard/models").text
    assert "accuracy=proxy" in browser.get("/dashboard/models").text
    page = browser.get("/dashboard/models/digits").text
    rows = re.findall(r"<th scope=.row.>(\w+)</th><td>(\w+)</td><td data-label=.from.>([^<]+)</td>", page)
    assert ("shadow", "proxy", "the model&#39;s own policy") in rows
    assert ("latency", "advisory", "default") in rows
    assert "digits:v1" in page
    assert browser.get("/dashboard/models/none").status_code == 404


def test_a_version_shows_the_labels_behind_its_accuracy(api: Api, browser: httpx.Client) -> None:
    """Of the model in use those of its own answers; of one that only ran in shadow, those that it got there."""
    used, beside = b"\x0a" * 32, b"\x0b" * 32
    with session_scope(api.engine) as session:
        model = Model(project_id=1, name="counted")
        session.add(model)
        session.flush()
        for name, image in (("v1", used), ("v2", beside)):
            version = ModelVersion(model_id=model.id or 0, version=name, model_sha256="0" * 64, model_bytes=1)
            session.add(version)
            session.flush()
            session.add(Build(version_id=version.id or 0, device_class="host", state="ready", image_sha256=image.hex()))
    before = image_counters(used[:16], inferences=5000, labelled=40, correct=30, shadow_pairs=[1, 0, 0, 0])
    after = image_counters(beside[:16], role=SlotState.SHADOW, shadow_pairs=[6, 1, 2, 1])
    assert TelemetryStore(api.settings).ingest([("m4-001", telemetry(before, after))]).stored == 2, "images"
    rows = {row[0]: row[1:] for row in re.findall(ROW, re.sub(r"\s+", " ", browser.get("/dashboard").text))}
    assert rows["counted:v1"] == ("<b>75.0 %</b>", "40", "5,000")
    assert rows["counted:v2"] == ("<b>80.0 %</b> <small>in shadow</small>", "10", "0")
    page = re.sub(r"\s+", " ", browser.get("/dashboard/devices/m4-001").text)
    assert re.search(r"counted:v1</th><td[^>]*><b>75.0 %</b></td><td[^>]*>40</td><td[^>]*>5,000<", page)
    assert "Counted here" not in browser.get("/dashboard/devices/m4-002").text


def test_a_rollout_shows_the_numbers_of_every_decision(browser: httpx.Client) -> None:
    assert 'href="/dashboard/rollouts/1"' in browser.get("/dashboard").text
    page = browser.get("/dashboard/rollouts/1").text
    for shown in ("3 of 7 devices", "<dt>canary rate</dt><dd>0.123457</dd>", "<dd>0.1, 0.25</dd>", "cortex-m4 7"):
        assert shown in page
    assert "as they were stored" in page
    for claim in ("recomputed otherwise", "numbers differ", "numbers hold", "just now"):
        assert claim not in page
    again = browser.get("/dashboard/rollouts/1?recompute=1").text
    assert "recomputed otherwise" in again
    assert "numbers differ" in again
    assert "<dt>canary rate</dt><dd>0.123457</dd>" in again
    assert "drift=off (the model&#39;s own policy then)" in page
    assert '<a href="/dashboard/devices?where=site%3Doslo"><code>site=oslo</code></a>' in page


def test_rollouts_are_listed_with_those_that_operations_has_no_room_for(browser: httpx.Client) -> None:
    page = browser.get("/dashboard/rollouts").text
    assert '<a href="/dashboard/rollouts/1">1</a>' in page
    assert 'href="/dashboard/rollouts/2"' not in page, "of another project"
    assert 'href="/dashboard/rollouts" aria-current="page"' in page
    assert "All rollouts" in browser.get("/dashboard").text


def test_a_rollout_says_that_its_counters_were_removed(api: Api, browser: httpx.Client) -> None:
    with session_scope(api.engine) as session:
        session.get_one(Rollout, 1).counters_removed_at = datetime(2027, 2, 25, tzinfo=UTC)
    try:
        page = browser.get("/dashboard/rollouts/1?recompute=1").text
    finally:
        with session_scope(api.engine) as session:
            session.get_one(Rollout, 1).counters_removed_at = None
    assert "were removed on 2027-02-25 (<code>TINYFLEET_SNAPSHOT_DAYS</code>)" in page
    assert "<dt>canary rate</dt><dd>0.123457</dd>" in page
    for claim in ("recomputed otherwise", "numbers differ", "numbers hold", "just now"):
        assert claim not in page


DEVICE = re.compile(r'href="/dashboard/devices/([^"]+)"')


def test_devices_are_filtered_and_paged(browser: httpx.Client) -> None:
    page = browser.get("/dashboard/devices?where=site%3Dlyon").text
    seen = DEVICE.findall(page)
    assert len(seen) == 50
    while following := re.search(r'<a href="([^"]+)" rel="next">', page):
        assert "where=site%3Dlyon" in following[1]
        page = browser.get(following[1].replace("&amp;", "&")).text
        seen += DEVICE.findall(page)
        assert 'value="site=lyon"' in page
        assert '<a href="/dashboard/devices?where=site%3Dlyon">First page</a>' in page
    assert seen == [f"m4-{n:03}" for n in range(120) if n % 3]


def test_a_page_that_found_nothing_yet_leads_on(browser: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_S": 0, "FIRST_WINDOW": 20, "FIRST_READ": 20}.items():
        monkeypatch.setattr(f"tinyfleet_service.devices.pages.{name}", value)
    seen, pages, path = list[str](), list[str](), "/dashboard/devices?where=tag.class%21%3Da/b+or+id%3Dm4-09%2A"
    while path:
        pages.append(browser.get(path).text)
        seen += DEVICE.findall(pages[-1])
        following = re.search(r'<a href="([^"]+)" rel="next">Look further</a>', pages[-1])
        path = following[1].replace("&amp;", "&") if following else ""
    assert seen == [f"m4-{n:03}" for n in range(90, 100)]
    assert "None up to <code>m4-019</code>, and there are more devices to look at." in pages[0]
    assert "No more devices match." in pages[-1]
    assert len(pages) == 120 // 20 + 1


@pytest.mark.parametrize(
    ("shown", "found"),
    [("line-2", 3), ("line-2 3", 3), ("class=a/b", 50), ("group=blue", 50), ("site=oslo", 40)],
)
def test_tags_and_groups_lead_to_those_that_share_them(browser: httpx.Client, shown: str, found: int) -> None:
    page = browser.get("/dashboard/devices?where=id%3Dm4-003").text
    link = re.search(rf'<a class="chip" href="([^"]+)">{re.escape(shown)}</a>', page)
    assert link
    answer = browser.get(link[1].replace("&amp;", "&"))
    assert len(DEVICE.findall(answer.text)) == found, link[1]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("site=lyon oslo", "character 11: expected and, or or the end"),
        ("group=nobody", "character 7: no group &#39;nobody&#39;"),
        (f'site="{HOSTILE}', "character 6: cannot read"),
        ("a=" + "b" * 1000, "a selector of 1002 characters"),
    ],
)
def test_a_mistake_in_the_filter_is_shown_beside_it(browser: httpx.Client, where: str, says: str) -> None:
    answer = browser.get("/dashboard/devices", params={"where": where})
    assert answer.status_code == 422
    assert says in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert HOSTILE not in answer.text
    assert DEVICE.findall(answer.text) == []
    pre = re.search(r'<pre class="where" aria-hidden="true">(.*?)\n( *)\^</pre>', answer.text, re.S)
    assert pre
    assert len(pre[2]) == int((re.search(r"character (\d+)", answer.text) or ["", "1"])[1]) - 1


def test_a_device_shows_its_twin(api: Api, browser: httpx.Client) -> None:
    with session_scope(api.engine) as session:
        session.get_one(Device, "m4-003").last_seen_at = utc_now()  # its state came when the module began
    page = browser.get("/dashboard/devices/m4-003").text
    for shown in ("0 (active)", "confirmed", "writing", "a0a0a0a0a0a0", ">line-2</a>", ">site=oslo</a>"):
        assert shown in page
    assert ">silent<" not in page
    never_heard_of = browser.get("/dashboard/devices/m4-006").text
    assert "none" in never_heard_of
    assert ">silent<" in never_heard_of
    assert browser.get("/dashboard/devices?where=id%3Dm4-003").text.count(">silent<") == 0
    assert browser.get("/dashboard/devices?where=id%3Dm4-006").text.count(">silent<") == 1


@pytest.mark.parametrize("path", ["builds/2", "builds/77", "rollouts/2", "rollouts/77", "devices/theirs"])
def test_what_is_not_of_the_project_is_not_there(browser: httpx.Client, path: str) -> None:
    answer = browser.get(f"/dashboard/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert f"no {path.partition('s/')[0]}" in answer.text


@pytest.mark.parametrize("path", ["nothing", "builds/1/nothing", "static/nothing.css"])
def test_an_address_that_leads_nowhere_is_a_page_too(browser: httpx.Client, path: str) -> None:
    answer = browser.get(f"/dashboard/{path}")
    assert answer.status_code == 404
    if not path.startswith("static"):
        assert answer.headers["content-type"].startswith("text/html")
        assert f"no page /dashboard/{path}" in answer.text
    assert browser.get("/dashboard/devices/").url.path == "/dashboard/devices"
    assert browser.get("/dashboard/").url.path == "/dashboard"


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("/dashboard/rollouts/1?every=true", "/dashboard/rollouts/1?every=true"),
        ("/dashboard/devices?where=site%3Doslo+and+id%3D%22a/b%22", None),
        ("/dashboard", None),
    ],
)
def test_a_login_leads_to_the_page_that_was_asked_for(api: Api, asked: str, shown: str | None) -> None:
    with web.Client(base_url=api.url, follow_redirects=True) as browser:
        page = browser.get(asked)
        assert page.url.path == "/dashboard/login"
        sent = {
            name: html.unescape(re.findall(rf'name="{name}" value="(.*?)"', page.text)[0]) for name in ("csrf", "to")
        }
        refused = browser.post("/dashboard/login", data=sent | {"token": "wrong"})
        assert refused.status_code == 401
        sent = {
            name: html.unescape(re.findall(rf'name="{name}" value="(.*?)"', refused.text)[0]) for name in ("csrf", "to")
        }
        found = browser.post("/dashboard/login", data=sent | {"token": api.token})
        assert found.status_code == 200
        assert found.url.raw_path.decode() == (shown or asked)


@pytest.mark.parametrize(
    "to",
    ["https://evil.example", "//evil.example", "/dashboard//evil", "/dashboard\\evil", "/api/v1/ca", "/dashboard/\n"],
)
def test_a_login_leads_nowhere_else(api: Api, to: str) -> None:
    with web.Client(base_url=api.url) as browser:
        page = browser.get("/dashboard/login", params={"to": to})
        assert 'name="to" value="/dashboard"' in page.text
        csrf = re.findall(r'name="csrf" value="(.*?)"', page.text)[0]
        answer = browser.post("/dashboard/login", data={"csrf": csrf, "to": to, "token": api.token})
        assert answer.headers["location"] == "/dashboard"


def test_what_no_name_can_be_is_not_there(browser: httpx.Client) -> None:
    assert browser.get("/dashboard/devices/%00").status_code in (404, 422)  # PostgreSQL refuses the question


@pytest.mark.parametrize("path", ["builds/0", "builds/x", f"rollouts/{2**40}"])
def test_what_no_number_can_be_is_refused(browser: httpx.Client, path: str) -> None:
    assert browser.get(f"/dashboard/{path}").status_code == 422


@pytest.mark.parametrize(
    "path",
    ["builds", "builds/1", "rollouts", "rollouts/1", "devices", "devices/m4-003", "claims", "models", "models/digits"],
)
def test_nobody_looks_without_a_login(api: Api, path: str) -> None:
    assert web.get(f"{api.url}/dashboard/{path}").status_code == 303


CLAIM = {"name": "line 7", "device_class": "cortex-m4", "quota": "5", "days": "30", "tags": "site=lyon, line=7"}


def claim_rows(api: Api) -> list[tuple[str, int, bool]]:
    with session_scope(api.engine, read_only=True) as session:
        rows = session.exec(select(ClaimCertificate).order_by(ClaimCertificate.id))
        return [(row.name, row.quota, row.revoked_at is not None) for row in rows]


def test_a_claim_is_made_shown_once_and_revoked(api: Api, browser: httpx.Client) -> None:
    csrf = {"csrf": csrf_of(browser.get("/dashboard/claims").text)}
    before = claim_rows(api)
    made = browser.post("/dashboard/claims", data=CLAIM | csrf)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    links = re.findall(r'href="data:application/octet-stream;base64,([^"]+)" download="([^"]+)"', made.text)
    files = {name: base64.b64decode(data) for data, name in links}
    assert list(files) == ["claim.pem", "claim.key", "ca.pem", "root1.cbor"]
    certificate = x509.load_pem_x509_certificate(files["claim.pem"])
    key = serialization.load_pem_private_key(files["claim.key"], None)
    assert certificate.public_key() == key.public_key()
    with session_scope(api.engine, read_only=True) as session:
        assert devices.find_claim(session, certificate).name == "line 7"
    pki = Pki.load(api.settings)
    assert (files["ca.pem"], files["root1.cbor"]) == (pki.ca_path.read_bytes(), keys.root_one(api.settings))
    assert claim_rows(api) == [*before, ("line 7", 5, False)]
    page = browser.get("/dashboard/claims").text
    for shown in ("0 of 5", ">site=lyon<", ">line=7<", ">open<"):
        assert shown in page
    for secret in (files["claim.key"].decode(), links[1][0]):
        assert secret not in page
    number = re.search(r"/dashboard/claims/(\d+)/revoke", page)
    assert number
    page = browser.post(number[0], data=csrf).text
    assert ">revoked<" in page
    assert number[0] not in page
    assert claim_rows(api) == [*before, ("line 7", 5, True)]
    audit = browser.get("/dashboard/audit").text
    assert "POST /dashboard/claims" in audit
    assert f"POST {number[0]}" in audit
    assert re.search(r"update claim certificate \d+ \(revoked at\): name line 7", audit)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "  ", "needs a name"),
        ("name", HOSTILE + "\x07", "printable name"),
        ("device_class", "cortex-x", "no device class"),
        ("quota", "0", "quota or lifetime out of range"),
        ("days", "nan", "quota or lifetime out of range"),
        ("days", "1e300", "quota or lifetime out of range"),
        ("tags", "site", "is no tag"),
        ("tags", f"site={HOSTILE}", "bad tag"),
    ],
)
def test_a_claim_that_makes_no_sense_stays_in_its_form(
    api: Api, browser: httpx.Client, field: str, value: str, says: str
) -> None:
    csrf, before = {"csrf": csrf_of(browser.get("/dashboard/claims").text)}, claim_rows(api)
    answer = browser.post("/dashboard/claims", data=CLAIM | csrf | {field: value})
    assert answer.status_code == 422
    assert says in answer.text
    assert HOSTILE not in answer.text
    assert 'value="site=lyon, line=7"' in answer.text or field == "tags"
    assert claim_rows(api) == before


def test_claims_are_changed_by_operators_from_our_own_page_only(api: Api, browser: httpx.Client) -> None:
    """Not by viewers, nor by tokens limited to other things, nor by other sites, nor without a login."""
    with session_scope(api.engine) as session:
        other = ensure_project(session, "other").id or 0
        session.add(ClaimCertificate(id=900, project_id=1, name="a", serial="1", device_class="cortex-m4"))
        session.add(ClaimCertificate(id=901, project_id=other, name="b", serial="2", device_class="cortex-m4"))
        _, viewer = create_token(session, 1, "v", Role.VIEWER)
        _, limited = create_token(session, 1, "l", Role.ADMIN, scopes=["models:write", "devices:read"])
    before = claim_rows(api)
    for token, sees in ((viewer, False), (limited, True)):
        with logged_in(api, token) as weak:
            page = weak.get("/dashboard/claims").text
            assert ('action="/dashboard/claims"' in page, "/claims/900/revoke" in page) == (sees, sees)
            for path in ("/dashboard/claims", "/dashboard/claims/900/revoke"):
                assert weak.post(path, data=CLAIM | {"csrf": csrf_of(page)}).status_code == 403
    csrf = {"csrf": csrf_of(browser.get("/dashboard/claims").text)}
    for path in ("/dashboard/claims", "/dashboard/claims/900/revoke"):
        assert browser.post(path, data=CLAIM).status_code == 403
        assert browser.post(path, data=CLAIM | {"csrf": "0" * 64}).status_code == 403
        assert browser.post(path, data=CLAIM | csrf, headers={"Origin": "http://evil.example"}).status_code == 403
        assert web.post(f"{api.url}{path}", data=CLAIM | csrf).headers["location"] == "/dashboard/login?ended=1"
    assert browser.post("/dashboard/claims/901/revoke", data=csrf).status_code == 404
    assert browser.post("/dashboard/claims/77/revoke", data=csrf).status_code == 404
    assert "/claims/901/" not in browser.get("/dashboard/claims").text
    assert claim_rows(api) == before


REPORT = {
    "accuracy": {"metric": "top1", "float": 0.98, "quantized": 0.976}, "arena_bytes": 3120,
    "estimate": {"latency_ms": 7.0812}, "fits": {"reasons": [f"too large for {HOSTILE}"]},
}  # fmt: skip


@pytest.fixture
def reported(api: Api) -> Iterator[None]:
    """Build 1 with a report, version 1 with a lineage."""
    page = open_blobs(api.settings).put(b"<h1>the report</h1>")
    with session_scope(api.engine) as session:
        build, version = session.get_one(Build, 1), session.get_one(ModelVersion, 1)
        build.report, build.report_html_sha256, build.image_bytes = REPORT, page, 15328
        version.lineage = {"run_id": f"r-1 {HOSTILE}", "metrics": {"loss": 0.123456789}, "tags": []}
    yield
    with session_scope(api.engine) as session:
        build, version = session.get_one(Build, 1), session.get_one(ModelVersion, 1)
        build.report, build.report_html_sha256, build.image_bytes, version.lineage = {}, None, None, {}


@pytest.mark.usefixtures("reported")
def test_a_model_shows_its_versions_with_builds_and_lineage(browser: httpx.Client) -> None:
    assert '<a href="/dashboard/models/digits">' in browser.get("/dashboard/models").text
    page = browser.get("/dashboard/models/digits").text
    for shown in ("97.6 %", "98.0 %", "15,328 B", "3,120 B", "7.08 ms", "<dt>run id</dt>", "<dd>0.123457</dd>"):
        assert shown in page
    assert "<dt>tags</dt>" not in page
    build = browser.get("/dashboard/builds/1").text
    assert "97.6 %" in build
    assert "too large for &lt;script&gt;" in build
    assert HOSTILE not in page + build
    assert browser.get("/dashboard/models/other").status_code == 404


@pytest.mark.usefixtures("reported")
def test_a_report_opens_in_a_sandbox_and_to_its_project_only(api: Api, browser: httpx.Client) -> None:
    answer = browser.get("/dashboard/builds/1/report")
    assert answer.text == "<h1>the report</h1>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert browser.get("/dashboard/builds/2/report").status_code == 404
    assert web.get(f"{api.url}/dashboard/builds/1/report").headers["location"] == REPORT_LOGIN


def test_a_build_under_way_has_no_report(browser: httpx.Client) -> None:
    answer = browser.get("/dashboard/builds/1/report")
    assert answer.status_code == 409
    assert "build 1 is running and has none" in answer.text


def test_a_version_is_approved_and_rejected_by_approvers(api: Api, browser: httpx.Client) -> None:
    path, page = "/dashboard/models/digits/v1/approval", browser.get("/dashboard/models/digits").text
    csrf = {"csrf": csrf_of(page)}
    assert "approved by admin" in browser.post(path, data=csrf | {"approval": "approved"}).text
    assert "rejected by admin" in browser.post(path, data=csrf | {"approval": "rejected"}).text
    assert browser.post(path, data=csrf | {"approval": "maybe"}).status_code == 422
    assert browser.post(path.replace("v1", "v9"), data=csrf | {"approval": "none"}).status_code == 404
    assert browser.post(path, data={"approval": "none"}).status_code == 403
    with session_scope(api.engine) as session:
        _, operator = create_token(session, 1, "o", Role.OPERATOR)
    with logged_in(api, operator) as weak:
        page = weak.get("/dashboard/models/digits").text
        assert "approval" not in page
        theirs = {"csrf": csrf_of(page), "approval": "approved"}
        assert weak.post(path, data=theirs).status_code == 403
    assert "by admin" not in browser.post(path, data=csrf | {"approval": "none"}).text


def test_a_rollout_is_steered_from_its_page(api: Api, browser: httpx.Client) -> None:
    page = browser.get("/dashboard/rollouts/1").text
    csrf = {"csrf": csrf_of(page)}
    assert re.findall(r'action="/dashboard/rollouts/1/(\w+)"', page) == ["promote", "pause", "retry", "abort", "undo"]
    page = browser.post("/dashboard/rollouts/1/pause", data=csrf).text
    assert "Asked for: pause" in page
    assert "requested: verb pause, by admin" in page
    assert asked(api) == "pause"
    refused = browser.post("/dashboard/rollouts/1/approve", data=csrf)
    assert refused.status_code == 409
    assert "rollout 1 is running: it cannot approve" in refused.text
    assert "<code>" not in refused.text
    assert asked(api) == "pause"


def asked(api: Api) -> str | None:
    with session_scope(api.engine, read_only=True) as session:
        return session.get_one(Rollout, 1).requested


def test_only_turns_are_shown_until_every_look_is_asked_for(api: Api, browser: httpx.Client) -> None:
    numbers = {"scope": "all"}
    with session_scope(api.engine) as session:
        session.get_one(Rollout, 1).counters_removed_at = datetime(2027, 2, 25, tzinfo=UTC)
        for look, outcome in ((2, "hold"), (3, "promote"), (4, "promote"), (5, "hold")):
            decided = {"gate": "faults", "required": True, "outcome": outcome, "summary": f"as of look {look}"}
            session.add(Decision(rollout_id=1, stage="canary", look=look, numbers=numbers, **decided))
    try:
        few, every = (browser.get(f"/dashboard/rollouts/1{more}").text for more in ("", "?every=true"))
    finally:
        with session_scope(api.engine) as session:
            session.get_one(Rollout, 1).counters_removed_at = None
            for row in session.exec(select(Decision).where(Decision.look > 1)):
                session.delete(row)
    shown = r"<summary>as of look (\d)</summary>"
    assert re.findall(shown, few) == ["5", "3"]
    assert re.findall(shown, every) == ["5", "4", "3", "2"]


def test_the_fleet_is_frozen_and_thawed_from_operations(browser: httpx.Client) -> None:
    page = browser.get("/dashboard").text
    csrf = {"csrf": csrf_of(page)}
    assert 'action="/dashboard/fleet/freeze"' in page
    page = browser.post("/dashboard/fleet/freeze", data=csrf).text
    assert "<b>The fleet is frozen</b> by admin" in page
    assert 'action="/dashboard/fleet/thaw"' in page
    assert "is frozen</b>" not in browser.post("/dashboard/fleet/thaw", data=csrf).text


STEERING = ("rollouts/1/pause", "rollouts/1/promote", "fleet/freeze", "fleet/thaw")


def test_nobody_steers_but_those_who_may_and_from_our_own_page(api: Api, browser: httpx.Client) -> None:
    with session_scope(api.engine) as session:
        _, viewer = create_token(session, 1, "v", Role.VIEWER)
        _, operator = create_token(session, 1, "o", Role.OPERATOR)
        _, limited = create_token(session, 1, "l", Role.ADMIN, scopes=["models:write", "rollouts:read"])
    before = asked(api)
    for token, refused in ((viewer, STEERING), (limited, STEERING), (operator, STEERING[1::2])):
        with logged_in(api, token) as weak:
            page = weak.get("/dashboard/rollouts/1").text
            assert ("/rollouts/1/promote" in page) == (token == limited)
            for path in refused:
                assert weak.post(f"/dashboard/{path}", data={"csrf": csrf_of(page)}).status_code == 403, path
    csrf = {"csrf": csrf_of(browser.get("/dashboard/rollouts/1").text)}
    for path in STEERING:
        assert browser.post(f"/dashboard/{path}").status_code == 403
        elsewhere = browser.post(f"/dashboard/{path}", data=csrf, headers={"Origin": "http://evil.example"})
        assert elsewhere.status_code == 403
        assert "That did not work" in elsewhere.text
        assert web.post(f"{api.url}/dashboard/{path}", data=csrf).headers["location"] == "/dashboard/login?ended=1"
    for path, status in (("rollouts/2/pause", 404), ("rollouts/1/explode", 422), (f"rollouts/{2**40}/pause", 422)):
        assert browser.post(f"/dashboard/{path}", data=csrf).status_code == status
    assert asked(api) == before


@pytest.mark.parametrize("path", ["", "/rollouts", "/rollouts/1", "/devices/m4-003", "/audit", "/settings"])
def test_going_back_shows_neither_old_numbers_nor_what_was_there_before_a_logout(
    browser: httpx.Client, path: str
) -> None:
    page = browser.get(f"/dashboard{path}")
    assert page.headers["cache-control"] == "no-store"
    assert ("as of <time>" in page.text) == bool(path), "the first page is live"


def test_a_form_of_a_session_that_is_over_says_that_nothing_was_changed(api: Api) -> None:
    with web.Client(base_url=api.url, follow_redirects=True) as nobody:
        assert "nothing was changed" in nobody.post("/dashboard/rollouts/1/pause").text
        assert "nothing was changed" not in nobody.get("/dashboard/login").text


def test_stages_say_in_words_what_their_colours_say(browser: httpx.Client) -> None:
    assert "canary <small>now</small>" in browser.get("/dashboard/rollouts/1").text


def test_a_device_says_why_a_slot_was_refused(api: Api, browser: httpx.Client) -> None:
    with session_scope(api.engine) as session:
        refused = {"from": "SHADOW", "to": "REJECTED", "reason": "GOLDEN"}
        session.add(Event(project_id=1, device_id="m4-007", kind="slot", detail=refused))
        session.add(Event(project_id=1, device_id="m4-007", kind="member_silent", detail={"stage": "waves/2"}))
    page = browser.get("/dashboard/devices/m4-007").text
    assert "shadow → rejected (golden)" in page
    assert "</time> silent: stage wave 2" in page


def test_the_pages_are_used_by_keyboard_and_fit_every_screen(api: Api, chromium: Any, tmp_path: Path) -> None:
    for screen, (width, height) in SCREENS.items():
        page = chromium.new_page(viewport={"width": width, "height": height})
        open_dashboard(page, api)
        page.wait_for_selector("#live")
        follow(page, "a[href='/dashboard/builds']")
        follow(page, "a[href='/dashboard/builds/1']")
        assert "quantising <script>" in page.inner_text("main")
        check_width(page, screen)
        follow(page, "a[href='/dashboard/devices']")
        page.fill("#where", "group=line-2 site=oslo")
        page.screenshot(path=str(tmp_path / f"{screen}-devices.png"))
        submit(page, "#where")
        assert "character 14" in page.inner_text("#where-problem")
        check_width(page, screen)
        page.screenshot(path=str(tmp_path / f"{screen}-problem.png"))
        page.fill("#where", "group=line-2 and site=oslo")
        submit(page, "#where")
        check_width(page, screen)
        follow(page, "a[href='/dashboard/devices/m4-003']")
        assert page.is_visible("text=0 (active)")
        check_width(page, screen)
        page.screenshot(path=str(tmp_path / f"{screen}-device.png"))
        page.goto(f"{api.url}/dashboard/rollouts/1")
        page.focus(".decisions summary")
        page.keyboard.press("Enter")
        assert page.is_visible("text=canary rate")
        page.focus(".verbs summary.hard")
        page.keyboard.press("Enter")
        assert page.is_visible("text=Abort rollout 1")
        check_width(page, screen)
        page.screenshot(path=str(tmp_path / f"{screen}.png"))
        for name in ("rollouts", "audit", "settings", "builds", "models", "models/digits"):
            follow(page, f"a[href='/dashboard/{name}']")
            check_width(page, screen)
            page.screenshot(path=str(tmp_path / f"{screen}-{Path(name).name}.png"), full_page=True)
        follow(page, "a[href='/dashboard/claims']")
        check_width(page, screen)
        check_lines(page)
        page.fill("#name", f"made on a {screen}")
        page.screenshot(path=str(tmp_path / f"{screen}-claims.png"), full_page=True)
        submit(page, "#name")
        check_width(page, screen)
        page.screenshot(path=str(tmp_path / f"{screen}-claim.png"), full_page=True)
        with page.expect_download() as download:
            page.click("text=claim.key")
        assert "PRIVATE KEY" in download.value.path().read_text()
        page.close()


def test_what_was_opened_on_the_live_page_stays_open(api: Api, chromium: Any) -> None:
    decided = {"gate": "shadow", "required": True, "outcome": "promote", "summary": "no worse", "numbers": {}}
    with session_scope(api.engine) as session:
        rollout = session.get_one(Rollout, 1)
        rollout.plan = {**PLAN, "stages": [{**STAGE, "key": "shadow"}, STAGE]}
        session.add(early := Decision(rollout_id=1, stage="shadow", look=1, **decided))
    try:
        page = chromium.new_page()
        open_dashboard(page, api)
        page.click("#earlier-gates summary")
        with session_scope(api.engine) as session:
            session.get_one(Rollout, 1).reason = "news"
        page.wait_for_selector("#live .reason:has-text('news')")
        assert page.eval_on_selector("#earlier-gates", "one => one.open")
    finally:
        with session_scope(api.engine) as session:
            session.get_one(Rollout, 1).plan = PLAN
            session.get_one(Rollout, 1).reason = ""
            session.delete(session.get_one(Decision, early.id))


def open_dashboard(page: Any, api: Api) -> None:
    page.goto(f"{api.url}/dashboard/login")
    page.fill("#token", api.token)
    page.keyboard.press("Enter")


def follow(page: Any, link: str) -> None:
    page.focus(link)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def submit(page: Any, field: str) -> None:
    page.focus(field)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def check_lines(page: Any) -> None:
    """No word of a table is broken into lines of a letter or two."""
    heights = page.eval_on_selector_all("td > .chip, td summary", "all => all.map(one => one.offsetHeight)")
    assert max(heights, default=0) < 50


def check_width(page: Any, screen: str) -> None:
    wide = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
    assert wide <= 0, screen
