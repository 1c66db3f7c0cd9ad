"""The pages in docs/ say what the code does: generated ones are fresh, hand-written ones name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api_reference import api_document
from cli_reference import commands, flags
from make_reference import PAGES

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", DOCS / "operator-guide.md", DOCS / "integrator-guide.md"]


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    """When this fails: .venv/bin/python scripts/make_reference.py."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_flag_of_every_command_is_documented() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", (DOCS / "cli.md").read_text(), re.M | re.S))
    for name, command in commands():
        section = sections[name.replace("rollout start", "rollout")]
        missing = {flag for flag in flags(command) - {"-h", "--help"} if f"`{flag}`" not in section}
        assert not missing, name


def test_every_route_is_documented_with_its_role() -> None:
    page = (DOCS / "api.md").read_text()
    for path, methods in api_document()["paths"].items():
        for method in methods:
            row = next(line for line in page.splitlines() if line.startswith(f"| `{method.upper()} {path}` |"))
            role = row.split("|")[2].strip()
            assert role in (
                ["none"] if path in ("/healthz", "/readyz") else ["viewer", "operator", "approver", "admin"]
            )


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_commands_in_written_pages_exist(page: Path) -> None:
    known = {name: flags(command) for name, command in commands()}
    typed = re.findall(r"fleetctl ((?:[a-z][a-z-]* )*[a-z][a-z-]*)((?: [^\n`|&#]*)?)", page.read_text())
    assert typed
    for words, rest in typed:
        name = next((n for n in _prefixes(words) if n in known), None)
        if name is None and words.split()[0] == "rollout":
            name = "rollout start"
        assert name is not None, f"fleetctl {words}"
        used = set(re.findall(r"(?<=\s)--[a-z-]+", " " + rest))
        assert used <= known[name] | {"--data", "--url", "--token", "--output"}, f"fleetctl {words}{rest}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_routes_in_written_pages_exist(page: Path) -> None:
    known = {f"{m.upper()} {path}" for path, methods in api_document()["paths"].items() for m in methods}
    for route in re.findall(r"`((?:GET|POST|DELETE) /[^\s`]+)", page.read_text()):
        assert route in known


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_links_in_written_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def _prefixes(words: str) -> list[str]:
    split = words.split()
    return [" ".join(split[:count]) for count in range(len(split), 0, -1)]
