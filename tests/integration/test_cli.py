"""`fleetctl` against a real service: what a person types, what they see, and the exit codes scripts rely on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from sqlmodel import select

from service_harness import DIGITS, Api, build_all, running_api
from tinyfleet_ota.protocol import SlotState
from tinyfleet_service.auth import Role, create_token
from tinyfleet_service.cli.main import main
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Build, Device, ModelVersion, Project, Rollout, StableBuild, utc_now
from tinyfleet_service.devices import apply_state
from tinyfleet_service.telemetry import TelemetryStore
from unit.service.fleet_state_builders import slot, state
from unit.service.fleet_telemetry_builders import image_counters, telemetry

FLEET = 60
DATA = ["--calibration", str(DIGITS / "calibration.npz"), "--evaluate", str(DIGITS / "evaluation.npz")]


def process(api: Api, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real `fleetctl` process; by default it finds the service by its data directory."""
    return subprocess.run(
        [sys.executable, "-m", "tinyfleet_service.cli", *arguments],
        env=where(api) | {"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def fleetctl(
    api: Api, *arguments: str, stdin: io.StringIO | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As `process`, in this one, because there are many: a process takes most of a second to import what it needs."""
    code: object = 0
    with (
        mock.patch.dict(os.environ, where(api) | environment),
        mock.patch("sys.stdin", stdin or io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def where(api: Api) -> dict[str, str]:
    return {"TINYFLEET_DATA": str(api.settings.data), "COLUMNS": "80"}


def shown(api: Api, *arguments: str) -> str:
    done = fleetctl(api, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def document(api: Api, *arguments: str) -> Any:
    return json.loads(shown(api, *arguments, "-o", "json"))


def refused(api: Api, *arguments: str, **environment: str) -> str:
    """The error of a command that must fail as a user's mistake does: stdout empty, no traceback, exit 1."""
    done = fleetctl(api, *arguments, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service with digits:v1 and v2 built, v1 on a fleet of 60 devices."""
    with running_api(tmp_path_factory.mktemp("data")) as api:
        serve_json = {"url": api.url, "ports": {}, "pids": {}}
        api.settings.dirs.serve_json.write_text(json.dumps(serve_json))
        for version in ("v1", "v2"):
            model = str(DIGITS / f"digits_{version}.onnx")
            words = ("model", "push", f"digits:{version}", model, *DATA, "--metric", "top1", "--no-wait")
            assert process(api, *words).returncode == 0
        build_all(api)
        enrol(api)
        yield api


def version(api: Api, name: str) -> dict[str, Any]:
    return api.client().version("digits", name)


def enrol(api: Api) -> None:
    with session_scope(api.engine) as session:
        project = session.exec(select(Project)).one()
        query = select(Build).join(ModelVersion, ModelVersion.id == Build.version_id)  # type: ignore[arg-type]
        build = session.exec(query.where(ModelVersion.version == "v1")).one()
        session.add(
            StableBuild(project_id=project.id, component="model/0", device_class=build.device_class, build_id=build.id)
        )
        image = bytes.fromhex(str(build.image_sha256))[:16]
        for number in range(FLEET):
            tags = {"site": "lyon" if number % 2 else "oslo", "note": "[bold]x[/]"}
            session.add(Device(id=f"d-{number}", project_id=project.id, device_class="cortex-m4", tags=tags))
            session.flush()
            slots = [slot(SlotState.CONFIRMED, image), slot()]
            apply_state(session, f"d-{number}", state(slots=slots, active=0))


# ---- models


def test_pushing_the_same_bytes_again_changes_nothing(api: Api) -> None:
    again = document(api, "model", "push", "digits:v1", str(DIGITS / "digits_v1.onnx"), *DATA, "--metric", "top1")
    assert [build["state"] for build in again["builds"]] == ["ready"]


def test_other_bytes_under_a_known_version_are_refused(api: Api) -> None:
    said = refused(api, "model", "push", "digits:v1", str(DIGITS / "digits_v2.onnx"), *DATA)
    assert "digits:v1" in said
    assert "next:" in said


def test_models_are_listed_and_shown_in_every_form(api: Api) -> None:
    assert shown(api, "model", "list", "-o", "name").split() == ["digits:v1", "digits:v2"]
    table = shown(api, "model", "list")
    assert table.splitlines()[0].split() == ["MODEL", "BYTES", "BUILDS", "PUSHED"]
    report = shown(api, "model", "show", "digits:v1")
    image = version(api, "v1")["builds"][0]["image_bytes"]
    assert all(word in report for word in ("cortex-m4", "ready", f"{image:,} B", "%", " ms"))
    digest = version(api, "v1")["builds"][0]["image_sha256"]
    assert digest not in report
    assert digest in shown(api, "-o", "wide", "model", "show", "digits:v1")
    assert yaml.safe_load(shown(api, "model", "show", "digits:v1", "-o", "yaml"))["version"] == "v1"


def test_a_broken_model_is_refused_with_its_reason(api: Api, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    assert "ONNX" in refused(api, "model", "push", "digits:v9", str(bad), *DATA)
    assert "digits:v9" not in shown(api, "model", "list", "-o", "name")


@pytest.mark.parametrize("reference", ["digits:v9", "nothing:v1"])
def test_an_unknown_version_is_an_error(api: Api, reference: str) -> None:
    assert reference.partition(":")[0] in refused(api, "model", "show", reference)


def test_a_reference_without_a_version_says_how_to_write_one(api: Api) -> None:
    assert "NAME:VERSION" in refused(api, "model", "show", "digits")


# ---- devices


def test_devices_are_listed_whole_and_as_plain_text(api: Api) -> None:
    lines = shown(api, "device", "list").splitlines()
    assert len(lines) == FLEET + 1
    row = next(line for line in lines if line.startswith("d-7 "))
    assert "note=[bold]x[/],site=lyon" in row
    assert "digits:v1" in row
    assert "…" not in "".join(lines)


def test_devices_are_selected(api: Api) -> None:
    names = shown(api, "device", "list", "--where", "site=lyon and class=cortex-m4", "-o", "name").split()
    assert len(names) == FLEET // 2
    assert shown(api, "device", "list", "--where", "site=nowhere") == "no devices match\n"
    assert "next:" in refused(api, "device", "list", "--where", "site==")


def test_a_device_is_shown_with_its_slots(api: Api) -> None:
    text = shown(api, "device", "show", "d-3")
    assert "0 (active)  CONFIRMED" in text
    assert document(api, "device", "show", "d-3")["reported"]["components"][0]["active"] == 0
    assert shown(api, "device", "show", "d-3", "-o", "name") == "d-3\n"


def test_a_class_is_switched_to_encrypted_images_and_back(api: Api) -> None:
    assert "cortex-m4 travel encrypted" in shown(api, "device-class", "encrypt", "cortex-m4")
    assert document(api, "device-class", "encrypt", "cortex-m4", "--off")["encrypted"] is False
    assert "no device class" in refused(api, "device-class", "encrypt", "cortex-m99")


def test_classes_shipped_and_of_ones_own_are_added_to_the_project(api: Api, tmp_path: Path) -> None:
    assert "no device class 'host'" in refused(api, "claim", "create", "b", "--class", "host", "--out", str(tmp_path))
    assert "builds for host" in shown(api, "device-class", "add", "host")
    own = tmp_path / "own.toml"
    own.write_text(shown(api, "device-class", "show", "cortex-m4").replace('"cortex-m4"', '"own"', 1))
    assert document(api, "device-class", "add", str(own))["name"] == "own"
    assert document(api, "device-class", "add", str(own))["name"] == "own", "the same once more changes nothing"
    assert {"cortex-m4", "host", "own"} <= set(shown(api, "device-class", "list", "--project", "-o", "name").split())
    row = next(line for line in shown(api, "device-class", "list", "--project").splitlines() if line.startswith("own "))
    assert "in the clear" in row
    assert "exists with other values" in refused(
        api, "device-class", "add", str(changed(own, "120000000", "100000000"))
    )
    assert "no device class 'esp99'" in refused(api, "device-class", "add", "esp99")


def changed(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def test_an_unknown_device_is_an_error(api: Api) -> None:
    said = refused(api, "device", "show", "no-such-device")
    assert "no-such-device" in said
    real = process(api, "device", "show", "no-such-device")
    assert (real.returncode, real.stdout, real.stderr) == (1, "", said)


def test_a_device_shows_what_it_counted_of_each_version(api: Api) -> None:
    assert "counted" not in shown(api, "device", "show", "d-4")
    image = bytes.fromhex(document(api, "device", "show", "d-4")["active_image"])
    mine = image_counters(image, inferences=1234, labelled=40, correct=30, latency_histogram=[40, 1234], faults=2)
    other = image_counters(b"\xee" * 16, shadow_inferences=9, shadow_agree=8)
    TelemetryStore(api.settings).ingest([("d-4", telemetry(mine, other))])
    lines = shown(api, "device", "show", "d-4").splitlines()
    rows = [line.split() for line in lines[lines.index("counted") :]]
    assert rows[2] == ["digits:v1", "1,234", "40", "75.0", "%", "0", "of", "0", *rows[2][8:12], "2"]
    assert (rows[2][9], rows[2][11]) == ("µs", "µs")
    assert rows[3] == ["e" * 12, "0", "0", "-", "8", "of", "9", "-", "-", "0"]
    assert "0 (active)  CONFIRMED  digits:v1" in "\n".join(lines)
    counted = document(api, "device", "show", "d-4")["telemetry"]
    assert [(row["version"], row["accuracy"]) for row in counted] == [("digits:v1", 0.75), (None, None)]


def test_telemetry_counts_as_being_seen(api: Api) -> None:
    with session_scope(api.engine) as session:
        session.get_one(Device, "d-5").last_seen_at = utc_now() - timedelta(days=2)
    before = document(api, "device", "show", "d-5")["last_seen_at"]
    TelemetryStore(api.settings).ingest([("d-5", telemetry(image_counters()))])
    after = document(api, "device", "show", "d-5")["last_seen_at"]
    assert before[:10] < after[:10]
    assert before[:10] not in shown(api, "device", "list", "--where", "id=d-5")


# ---- rollouts


def test_a_plan_says_what_it_costs_and_what_it_can_decide(api: Api) -> None:
    text = shown(api, "rollout", "digits:v2", "--canary", "5%", "--dry-run")
    assert text.startswith("Plan for digits:v2: 60 devices, 3 canaries")
    assert "60 x delta" in text
    stages = [line.split()[0] for line in text.splitlines() if "faults, silence" in line]
    assert stages[:2] == ["shadow", "canary"]
    assert "wave 1" in text
    assert "margin 2.0 %, at least 100 labels a device" in text
    assert "CANNOT DECIDE: accuracy in wave" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert document(api, "rollout", "list") == []


def test_a_plan_as_a_document_counts_the_bytes_of_its_delta(api: Api) -> None:
    plan = document(api, "rollout", "digits:v2", "--dry-run")
    (transfer,) = plan["classes"][0]["transfers"]
    assert transfer["form"] == "delta"
    assert plan["bytes_expected"] == FLEET * transfer["bytes"] < plan["bytes_full"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["digits:v9"], "known versions: v1"),
        (["digist:v1"], "known models: digits"),
        (["digits:v2", "--canary", "many"], "many"),
        (["digits:v2", "--gate", "shadow"], "GATE=required"),
        (["digits:v2", "--gate", "luck=off"], "luck"),
        (["digits:v2", "--where", "site=nowhere"], "no device"),
        (["digits:v2", "--on-harm", "nobody"], "on_harm"),
        (["digits"], "NAME:VERSION"),
        (["status:v1"], "known models: digits"),  # a verb's name, and still a model's
        (["digits:v2"], "--yes"),  # nobody to ask
    ],
)
def test_rollouts_that_make_no_sense_are_refused(api: Api, arguments: list[str], word: str) -> None:
    done = fleetctl(api, "rollout", *arguments)
    assert done.returncode == 1
    assert word in done.stderr
    assert "next:" in done.stderr
    assert document(api, "rollout", "list") == []


def test_a_spec_file_says_what_options_do_not_and_options_go_before_it(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "careful.yaml"
    file.write_text(
        "canary: 10%\nalpha: 1e-2\nmin_inferences: 7\nsoak_s: 60\nwhere:\n"
        "gates:\n  latency: off\n  faults: advisory\n  drift: required\n"
    )
    plan = document(api, "rollout", "digits:v2", "--spec", str(file), "--gate", "faults=required", "--dry-run")
    assert (plan["canary_devices"], plan["min_inferences"], plan["soak_s"]) == (6, 7, 60)
    assert sum(plan["alpha"].values()) == pytest.approx(0.01)
    gates = {"latency": "off", "faults": "required", "drift": "required"}
    assert gates.items() <= plan["gates"].items()
    assert [plan["gates_from"][gate] for gate in gates] == ["rollout"] * 3
    file.write_text(json.dumps({"canary": "10%", "gates": {"faults": "advisory"}}))
    plan = document(api, "rollout", "digits:v2", "--spec", str(file), "--canary", "2", "--dry-run")
    assert (plan["canary_devices"], plan["gates"]["faults"]) == (2, "advisory")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"canary", "no fields"),
        (b"- canary", "no fields"),
        (b"", "no fields"),
        (b"[1]: 2", "cannot read"),
        (b"canary: [", "cannot read"),
        (b"\xff\xfe\x00", "cannot read"),
        (b"[" * 100_000, "cannot read"),
        (b"version: v1", "names a version"),
        (b"colour: red", "colour"),
        (b"alpha: much", "alpha"),
        (b"gates: {luck: off}", "luck"),
        (b"gates: off", "gates"),
    ],
)
def test_spec_files_that_make_no_sense_are_refused(api: Api, tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(content)
    assert word in refused(api, "rollout", "digits:v2", "--spec", str(file), "--dry-run")


def test_a_models_own_gates_are_set_and_stand_in_the_plan(api: Api) -> None:
    assert "from" not in shown(api, "model", "gates", "digits", "accuracy=proxy", "latency=off", "-o", "name")
    assert document(api, "model", "gates", "digits", "latency-")["own"] == {"accuracy": "proxy"}
    table = [line.split() for line in shown(api, "model", "gates", "digits").splitlines()]
    assert ["accuracy", "proxy", "model"] in table
    assert ["latency", "advisory", "default"] in table
    text = shown(api, "rollout", "digits:v2", "--gate", "faults=advisory", "--dry-run")
    assert "accuracy=proxy (the model's own)" in text
    assert "faults=advisory (asked for)" in text
    for wrong, word in (("luck=off", "luck"), ("shadow", "GATE- for the default"), ("shadow=proxy", "only accuracy")):
        assert word in refused(api, "model", "gates", "digits", wrong)
    assert document(api, "model", "gates", "digits", "--clear")["own"] == {}


def test_without_a_rollout_status_says_how_to_start_one(api: Api) -> None:
    assert "fleetctl rollout NAME:VERSION" in refused(api, "rollout", "status")


@pytest.fixture(scope="module")
def rollout(api: Api) -> int:
    """A rollout of v2 under way; there is no controller, so it moves only where a test moves it."""
    view = document(api, "rollout", "digits:v2", "--canary", "5%", "--yes")
    assert (view["version"], view["state"]) == ("digits:v2", "running")
    return int(view["id"])


def set_state(api: Api, rollout: int, name: str, reason: str = "") -> None:
    with session_scope(api.engine) as session:
        row = session.get_one(Rollout, rollout)
        row.state, row.reason = name, reason


def test_a_second_rollout_on_the_same_devices_is_refused(api: Api, rollout: int) -> None:
    done = fleetctl(api, "rollout", "digits:v2", "--yes")
    assert done.returncode == 1
    assert f"{rollout}" in done.stderr


def test_a_rollout_is_listed_and_tells_its_history(api: Api, rollout: int) -> None:
    assert shown(api, "rollout", "list", "-o", "name").split() == [str(rollout)]
    assert "digits:v2" in shown(api, "rollout", "list")
    assert "CANARIES" in shown(api, "rollout", "list", "-o", "wide")
    assert "started" in shown(api, "rollout", "history")
    assert document(api, "rollout", "history", str(rollout))
    assert document(api, "rollout", "explain")["equal"] is True
    assert f"rollout {rollout} digits:v2" in shown(api, "rollout", "explain", str(rollout))


def test_watching_ends_after_its_time_with_5(api: Api, rollout: int) -> None:
    done = process(api, "rollout", "status", str(rollout), "--timeout", "0.1")
    assert done.returncode == 5
    assert done.stdout.startswith(f"rollout {rollout} digits:v2\nshadow: ")


@pytest.mark.parametrize(
    ("name", "code"), [("promoted", 0), ("rolled_back", 3), ("aborted", 3), ("held", 4), ("paused", 4)]
)
def test_the_exit_code_of_status_is_the_verdict(api: Api, rollout: int, name: str, code: int) -> None:
    set_state(api, rollout, name, "because [3] of them said so")
    try:
        watched = fleetctl(api, "rollout", "status")
        assert watched.returncode == code
        assert "because [3] of them said so" in watched.stdout
        looked = fleetctl(api, "rollout", "status", str(rollout), "-o", "json")
        assert (looked.returncode, json.loads(looked.stdout)["state"]) == (code, name)
        tree = process(api, "rollout", "status", "--no-watch")
        assert tree.returncode == code
        assert "wave 1" in tree.stdout
    finally:
        set_state(api, rollout, "running")


@pytest.mark.parametrize("verb", ["pause", "promote", "abort", "undo"])
def test_verbs_are_requested(api: Api, rollout: int, verb: str) -> None:
    yes = [] if verb == "pause" else ["--yes"]
    assert f"rollout {rollout}: {verb} requested" in shown(api, "rollout", verb, str(rollout), *yes)
    with session_scope(api.engine) as session:
        row = session.get_one(Rollout, rollout)
        assert row.requested == verb
        row.requested = None


def test_resume_is_requested_of_a_paused_rollout(api: Api, rollout: int) -> None:
    set_state(api, rollout, "paused")
    try:
        assert "resume requested" in shown(api, "rollout", "resume")
    finally:
        set_state(api, rollout, "running")


@pytest.mark.parametrize("verb", ["promote", "abort", "undo"])
def test_verbs_that_cannot_be_taken_back_ask_first(api: Api, rollout: int, verb: str) -> None:
    assert "--yes" in refused(api, "rollout", verb, str(rollout))


@pytest.mark.parametrize("verb", ["promote", "abort", "undo"])
def test_the_question_names_the_rollout_that_is_the_newest(api: Api, rollout: int, verb: str) -> None:
    terminal, before = io.StringIO("n\n"), document(api, "rollout", "status")["requested"]
    with mock.patch.object(terminal, "isatty", return_value=True):
        done = fleetctl(api, "rollout", verb, stdin=terminal)
    assert done.returncode == 1
    assert f"rollout {rollout} (digits:v2)" in done.stderr
    assert document(api, "rollout", "status")["requested"] == before


@pytest.mark.parametrize("verb", ["pause", "resume", "history", "explain"])
def test_a_verb_on_an_unknown_rollout_is_an_error(api: Api, verb: str) -> None:
    assert "999" in refused(api, "rollout", verb, "999")


SERVICE_COMMANDS = (
    "model list", "model show digits:v1", "device list", "device show d-1", "rollout list",
    "rollout digits:v2 --dry-run", "rollout status --no-watch", "rollout history", "rollout explain", "rollout pause",
    "model alias digits:v1 champion", "model approve digits:v1", "audit verify --server",
)  # fmt: skip


@pytest.mark.parametrize("words", SERVICE_COMMANDS)
def test_every_service_command_has_every_output_form(
    api: Api, rollout: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process, because there are many."""

    def say(form: str) -> str:
        with contextlib.suppress(SystemExit):
            main(["--data", str(api.settings.data), *words.split(), "-o", form])
        said = capsys.readouterr()
        assert said.err == ""
        return said.out

    found = json.loads(say("json"))
    assert isinstance(found, dict | list)
    assert type(yaml.safe_load(say("yaml"))) is type(found)
    names = say("name").splitlines()
    assert len(names) == (len(found) if isinstance(found, list) else 1)
    assert all(name and name == name.strip() for name in names)
    assert say("wide").strip()


def test_what_is_taken_away_is_said_in_the_form_asked_for(api: Api) -> None:
    shown(api, "group", "create", "short-lived")
    assert document(api, "group", "delete", "short-lived") == {"name": "short-lived"}
    hook = document(api, "webhook", "add", "https://8.8.8.8/hook")["id"]
    assert document(api, "webhook", "remove", str(hook)) == {"id": hook}


@pytest.mark.parametrize("words", ["device revoke d-1", "claim revoke 1", "token revoke 1"])
def test_what_ends_for_good_asks_first(api: Api, words: str) -> None:
    assert "--yes" in refused(api, *words.split())


def test_a_token_is_made_used_and_revoked(api: Api) -> None:
    scopes = ("--scope", "devices:read", "--scope", "models:read")
    text = shown(api, "token", "create", "ci", "--role", "operator", *scopes, "--hours", "1", "-o", "name").strip()
    assert fleetctl(api, "device", "list", TINYFLEET_TOKEN=text).returncode == 0
    assert "rollouts" in refused(api, "rollout", "list", TINYFLEET_TOKEN=text)
    assert "devices:read, models:read" in shown(api, "token", "list")
    made = next(row for row in document(api, "token", "list") if row["name"] == "ci")
    assert "token" not in made
    assert document(api, "token", "revoke", str(made["id"]), "--yes") == {"id": made["id"]}
    assert "token" in refused(api, "device", "list", TINYFLEET_TOKEN=text)
    assert "role" in refused(api, "token", "create", "x", "--role", "king")


# ---- which service, who asks


def test_no_service_running(api: Api, tmp_path: Path) -> None:
    assert "fleetctl serve" in refused(api, "device", "list", TINYFLEET_DATA=str(tmp_path))
    said = refused(api, "device", "list", TINYFLEET_URL="http://127.0.0.1:9", TINYFLEET_TOKEN="t")
    assert "no answer from http://127.0.0.1:9" in said


@pytest.mark.parametrize("token", ["wrong", "é", "two\nlines"])
def test_a_bad_token_is_refused(api: Api, token: str) -> None:
    assert "token" in refused(api, "device", "list", TINYFLEET_TOKEN=token)


@pytest.mark.parametrize("url", ["nowhere", "http://[", "ftp://127.0.0.1"])
def test_a_bad_address_is_an_error(api: Api, url: str) -> None:
    assert "no answer" in refused(api, "device", "list", TINYFLEET_URL=url, TINYFLEET_TOKEN="t")


def test_another_web_server_is_recognised(api: Api) -> None:
    said = refused(api, "device", "list", TINYFLEET_URL=f"{api.url}/elsewhere", TINYFLEET_TOKEN=api.token)
    assert "next:" in said


def test_url_and_token_are_enough(api: Api, tmp_path: Path) -> None:
    done = process(
        api, "device", "list", "-o", "name", TINYFLEET_DATA=str(tmp_path), TINYFLEET_URL=api.url,
        TINYFLEET_TOKEN=api.token,
    )  # fmt: skip
    assert len(done.stdout.split()) == FLEET


def test_a_viewer_may_look_and_not_push(api: Api) -> None:
    with session_scope(api.engine) as session:
        project = session.exec(select(Project)).one()
        _, text = create_token(session, project.id, "looker", Role.VIEWER)
    assert fleetctl(api, "device", "list", TINYFLEET_TOKEN=text).returncode == 0
    said = refused(api, "model", "push", "digits:v7", str(DIGITS / "digits_v1.onnx"), TINYFLEET_TOKEN=text)
    assert "viewer" in said or "operator" in said
