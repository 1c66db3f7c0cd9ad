"""The command line as an interface: which commands and options there are, and what wrong usage answers."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli_reference import commands, flags
from tinyfleet_ota.protocol import Reason
from tinyfleet_service.cli import commands_serve
from tinyfleet_service.cli.commands_maintenance import _here
from tinyfleet_service.cli.commands_rollout import _detail
from tinyfleet_service.cli.context import Context, Output
from tinyfleet_service.cli.errors import EXIT_CODES
from tinyfleet_service.cli.main import _options_anywhere, main, make_app
from tinyfleet_service.dashboard.events import sentence
from tinyfleet_service.errors import InvalidInputError, SettingsError

PROMISED = {
    "serve": {"--data", "--http-port", "--broker-port", "--est-port", "--only"},
    "demo": {"--summary", "--keep", "--dir"},
    "model push": {"--calibration", "--evaluate", "--metric", "--state", "--dim", "--search", "--wait", "--timeout"},
    "model import": {"--calibration", "--evaluate", "--metric", "--tracking", "--wait", "--timeout"},
    "firmware push": {"--image", "--abi", "--wait", "--timeout"},
    "model gates": {"--clear"},
    "model list": set(),
    "model show": set(),
    "device list": {"--where"},
    "device show": set(),
    "rollout start": {
        "--canary",
        "--waves",
        "--spec",
        "--gate",
        "--where",
        "--skip-class",
        "--on-harm",
        "--yes",
        "--dry-run",
    },
    "rollout list": set(),
    "rollout status": {"--watch", "--timeout"},
    "rollout pause": set(),
    "rollout resume": set(),
    "rollout promote": {"--yes"},
    "rollout approve": set(),
    "rollout retry": set(),
    "rollout abort": {"--yes"},
    "rollout undo": {"--yes"},
    "rollout history": set(),
    "rollout explain": {"--numbers"},
    "freeze": set(),
    "thaw": set(),
    "pki csr": {"--out", "--name", "--organization"},
    "pki install": set(),
    "pki status": set(),
    "pki finish": {"--leave-behind"},
    "keys init": {"--keys", "--algorithm"},
    "keys list": {"--keys"},
    "keys rotate": {"--keys", "--algorithm", "--pkcs11"},
    "keys revoke": {"--keys"},
    "keys drop": {"--keys"},
    "keys export": {"--keys", "--out", "--releases"},
    "keys sign": {"--keys", "--yes"},
    "keys import": {"--keys"},
    "release make": {"--device-class", "--version", "--counter", "--abi", "--floor", "--out", "--keys"},
    "audit list": {"--after", "--limit"},
    "audit export": {"--out"},
    "audit verify": {"--server", "--after"},
    "webhook add": {"--event"},
    "webhook list": set(),
    "webhook remove": set(),
    "webhook deliveries": {"--state"},
    "webhook retry": set(),
    "token create": {"--role", "--scope", "--hours"},
    "token list": set(),
    "token revoke": {"--yes"},
    "doctor": set(),
    "backup": {"--out", "--without-database", "--with-blobs", "--without-blobs"},
    "restore": {"--with-database"},
    "migrate": set(),
    "model alias": set(),
    "model approve": {"--reject"},
    "model diff": set(),
    "model retry": set(),
    "model cancel": set(),
    "build list": {"--limit"},
    "build status": set(),
    "build logs": {"--follow"},
    "device tag": set(),
    "device reset": set(),
    "device revoke": {"--yes"},
    "claim create": {"--class", "--out", "--quota", "--days", "--tag"},
    "claim list": set(),
    "claim revoke": {"--yes"},
    "group create": {"--description"},
    "group list": set(),
    "group show": set(),
    "group add": {"--where"},
    "group remove": {"--where"},
    "group delete": set(),
    "device command": {"--expires", "--wait", "--timeout"},
    "device commands": set(),
    "device-class add": set(),
    "device-class list": {"--project"},
    "device-class show": set(),
    "device-class check": set(),
    "device-class encrypt": {"--off"},
    "check": {"--device-class"},
    "compile": {
        "--device-class",
        "--out",
        "--calibration",
        "--evaluate",
        "--metric",
        "--base",
        "--prune-channels",
        "--prune-weights",
        "--accuracy-budget",
        "--emit",
        "--layout",
    },
    "run": {"--input", "--out", "--on"},
    "delta make": {"--out"},
    "delta apply": {"--out"},
    "delta info": set(),
    "emit": {"--out", "--layout", "--device-class"},
    "inspect": set(),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    for name in ("TINYFLEET_DATA", "TINYFLEET_URL", "TINYFLEET_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(make_app(), _options_anywhere(list(arguments)))

    return invoke


def test_every_promised_command_and_option_is_there() -> None:
    there = {name: flags(command) for name, command in commands()}
    assert set(PROMISED) == set(there)
    for name, options in PROMISED.items():
        assert options <= there[name], name


@pytest.mark.parametrize("name", PROMISED)
def test_every_command_explains_itself(run: object, name: str) -> None:
    result = run(*name.split(), "--help")  # type: ignore[operator]
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_the_help_says_what_exit_codes_mean_and_where_options_may_stand(run: object) -> None:
    text = " ".join(run("--help").output.split())  # type: ignore[operator]
    assert EXIT_CODES in text
    assert "`fleetctl model list -o json`" in text


def test_every_option_and_argument_has_a_help_text() -> None:
    silent = [
        f"{name} {parameter.name}"
        for name, command in commands()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["model", "push"],
        ["model", "push", "m:v1", "missing.onnx"],
        ["device", "show"],
        ["rollout", "status", "three"],
        ["-o", "xml", "device", "list"],
        ["device", "list", "-o"],
        ["check", "missing.onnx", "--device-class", "cortex-m4"],
        ["run", "missing.tfm", "--input", "x.npz", "--out", "y.npz"],
        ["rollout", "m:v1", "--margin", "much"],
    ],
)
def test_wrong_usage_exits_with_2(run: object, arguments: list[str]) -> None:
    result = run(*arguments)  # type: ignore[operator]
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_word_that_is_no_verb_is_a_model_reference(run: object) -> None:
    """Without a service both ask for one; `rollout nonsense` is not an unknown command but no reference."""
    assert isinstance(run("rollout", "model:v3").exception, SettingsError)  # type: ignore[operator]
    assert isinstance(run("rollout", "start", "model:v3").exception, SettingsError)  # type: ignore[operator]
    assert isinstance(run("rollout", "nonsense").exception, InvalidInputError)  # type: ignore[operator]
    assert run("rollout", "--canary").exit_code == 2  # type: ignore[operator]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["device", "list", "-o", "json"], ["-o", "json", "device", "list"]),
        (["device", "list", "-ojson"], ["-o", "json", "device", "list"]),
        (["device", "--output=yaml", "list"], ["--output=yaml", "device", "list"]),
        (["delta", "info", "--json", "p"], ["--json", "delta", "info", "p"]),
        (["delta", "make", "--out", "p"], ["delta", "make", "--out", "p"]),
        (["rollout", "x", "--", "-o", "json"], ["rollout", "x", "--", "-o", "json"]),
        (["device", "list", "-o"], ["-o"]),
        (["serve", "--data"], ["--data"]),
        (["doctor", "--data", "my-fleet"], ["--data", "my-fleet", "doctor"]),
        (["device", "list", "--url=http://a", "--token", "t"], ["--url=http://a", "--token", "t", "device", "list"]),
    ],
)
def test_options_of_every_command_may_stand_anywhere(typed: list[str], meant: list[str]) -> None:
    assert _options_anywhere(typed) == meant


def test_a_token_found_by_chance_goes_to_no_other_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "fleet-data"
    found.mkdir()
    (found / "serve.json").write_text(json.dumps({"url": "http://127.0.0.1:8420"}))
    (found / "admin.token").write_text("secret\n")
    assert Context().client().url == "http://127.0.0.1:8420"
    assert Context(url="http://127.0.0.1:8420").client()
    with pytest.raises(SettingsError, match="no API token"):
        Context(url="http://elsewhere:8420").client()
    assert Context(url="http://elsewhere:8420", data=found).client().url == "http://elsewhere:8420"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_serve_json_is_no_service(tmp_path: Path, text: str) -> None:
    (tmp_path / "serve.json").write_text(text)
    with pytest.raises(SettingsError, match="no `fleetctl serve` has run on"):
        Context(output=Output.TABLE, data=tmp_path).client()


def test_letters_that_the_terminal_has_not_end_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(printed, encoding="latin-1"))
    with pytest.raises(SystemExit):
        main(["--version"])
    print("├── Zürich", flush=True)
    assert printed.getvalue().endswith("??? Zürich\n".encode("latin-1"))


def test_serve_refuses_an_unknown_process(run: object, tmp_path: Path) -> None:
    result = run("serve", "--data", str(tmp_path / "d"), "--only", "kettle")  # type: ignore[operator]
    assert isinstance(result.exception, InvalidInputError)
    assert "controller" in result.exception.next


def test_the_demo_replaces_its_own_folder_and_no_other(tmp_path: Path) -> None:
    mine = tmp_path / "demo-run"
    commands_serve._take_folder(mine)
    (mine / "old").write_text("x")
    commands_serve._take_folder(mine)
    assert [path.name for path in mine.iterdir()] == [commands_serve.DEMO_MARK]
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis").write_text("x")
    with pytest.raises(InvalidInputError, match="not empty"):
        commands_serve._take_folder(other)
    assert (other / "thesis").read_text() == "x"


def test_keys_are_changed_with_documents_for_programs(run: object) -> None:
    def document(*words: str) -> object:
        result = run(*words, "-o", "json")  # type: ignore[operator]
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    at = ("--keys", "keys")
    assert document("keys", "init", *at)["root"] == 1  # type: ignore[index]
    assert document("keys", "drop", *at) == {"dropped": False}
    assert document("keys", "rotate", "director", *at) == {"root": 2, "missing": []}
    for name in ("root1", "root2"):
        Path(f"keys/{name}.key").rename(f"{name}.key")
    assert document("keys", "rotate", "director", *at)["missing"]  # type: ignore[index]
    exported = {"file": "c.json", "new_root": True, "releases": 0}
    assert document("keys", "export", "--out", "c.json", "--no-releases", *at) == exported
    for name in ("root1", "root2"):
        Path(f"{name}.key").rename(f"keys/{name}.key")
    assert document("keys", "sign", "c.json", "--yes", *at)["signed"]  # type: ignore[index]
    assert document("keys", "import", "c.json", *at) == {"root": 3, "missing": [], "builds": []}


def test_the_version_is_said(run: object) -> None:
    assert run("--version").stdout.startswith("fleetctl ")  # type: ignore[operator]


def test_reasons_of_devices_are_told_by_name() -> None:
    rejected = {"reason": int(Reason.OTHER_CLASS), "release": 3}
    assert _detail(rejected) == "release 3, reason other class"
    assert _detail({"reason": 0}) == ""
    assert _detail({"stage": "shadow", "reason": "worse"}) == "stage shadow, reason worse"
    said = sentence({"kind": "member_rejected", "device": "d-1", "detail": rejected})
    assert said == "d-1: rejected: reason other class, release 3"
    assert sentence({"kind": "member_testing", "device": "d-1", "detail": {"reason": 0}}) == "d-1: testing"


def test_what_serve_took_by_its_options_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "serve.json").write_text(json.dumps({"ports": {"broker_port": 20001}}))
    assert _here(Context(data=tmp_path)).broker_port == 20001
