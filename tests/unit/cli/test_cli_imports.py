"""A command loads only what it needs: what `fleetctl check` must not import, since it answers in about a second."""

import subprocess
import sys
from pathlib import Path

import pytest

from tinyfleet_service.cli.main import MODULES, VERSION, _command, _words_before_cursor, make_app
from unit.compiler.onnx_models import small_cnn

HEAVY = (
    *("sqlmodel", "sqlalchemy", "fastapi", "starlette", "uvicorn", "httpx", "pydantic_settings", "alembic"),
    *("onnxruntime", "scipy", "tflite", "flatbuffers", "cryptography", "tinyfleet_ota", "yaml"),
    *("tinyfleet_service.settings", "tinyfleet_service.cli.engines", "tinyfleet_service.client"),
    *("tinyfleet_compiler.compile", "tinyfleet_compiler.report", "tinyfleet_compiler.report_html"),
    *("tinyfleet_compiler.prune", "tinyfleet_compiler.search_types", "tinyfleet_compiler.emit"),
)
PROGRAM = """
import sys
from tinyfleet_service.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\n".join(sorted(sys.modules)))
sys.exit(code)
"""


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, set(done.stdout.splitlines())


def test_check_imports_no_service_no_compile_and_no_other_format(tmp_path: Path) -> None:
    code, loaded = modules_after("check", str(small_cnn(tmp_path / "m.onnx")), "--device-class", "cortex-m4")
    assert code == 0
    assert {"onnx", "tinyfleet_compiler.check"} <= loaded
    assert not loaded & set(HEAVY)


def test_listing_device_classes_reads_no_model_format() -> None:
    code, loaded = modules_after("device-class", "list")
    assert code == 0
    assert not loaded & {*HEAVY, "onnx", "tinyfleet_compiler.check"}


def test_the_list_of_all_commands_opens_no_database() -> None:
    code, loaded = modules_after("--help")
    assert code == 0
    assert "tinyfleet_service.cli.commands_audit" in loaded
    assert not loaded & {"sqlmodel", "sqlalchemy", "fastapi", "onnxruntime"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"COMP_WORDS": "fleetctl rollout st"}, "rollout"),
        ({"COMP_WORDS": "fleetctl\nrollout\n"}, "rollout"),
        ({"_TYPER_COMPLETE_ARGS": "fleetctl --data demo audit ver"}, "audit"),
        ({"COMP_WORDS": "fleetctl roll"}, None),
        ({}, None),
    ],
)
def test_a_shell_that_completes_loads_the_command_that_stands_there(
    line: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in line.items():
        monkeypatch.setenv(name, value)
    assert _words_before_cursor() == []
    monkeypatch.setenv("_FLEETCTL_COMPLETE", "complete_bash")
    assert _command(_words_before_cursor()) == wanted


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["check", "m.onnx"], "check"),
        (["--data", "demo", "model", "list"], "model"),
        (["-o", "json", "device-class", "list"], "device-class"),
        (["--url=https://x", "rollout"], "rollout"),
        (["--help"], None),
        (["-h", "check"], None),
        ([], None),
        (["--data"], None),
        (["--version"], VERSION),
        (["--data", "demo", "--version"], VERSION),
        (["release", "make", "--version", "v1"], "release"),
    ],
)
def test_the_command_is_the_first_word_that_is_no_value(words: list[str], wanted: str | None) -> None:
    assert _command(words) == wanted


def test_every_command_is_found_where_the_table_says() -> None:
    import typer

    assert set(typer.main.get_group(make_app()).commands) == set(MODULES)
    for command in MODULES:
        assert command in typer.main.get_group(make_app(command)).commands, command


def test_an_unknown_command_is_met_with_all_of_them() -> None:
    import typer

    assert set(typer.main.get_group(make_app("chek")).commands) == set(MODULES)
