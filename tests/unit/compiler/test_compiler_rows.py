"""NUMERICS.md, operators and tests: every operator has a row, every row is named by a test of its kernel."""

import re
from pathlib import Path

import pytest

from tinyfleet_compiler.operators import OPERATORS, OpCode

ROOT = Path(__file__).parents[3]
NUMERICS = (ROOT / "compiler" / "NUMERICS.md").read_text()
ROWS = [line.split("|")[1] for line in NUMERICS.splitlines() if line.startswith("| ") and "_" not in line[:2]]
NAMED = {name for row in ROWS for name in re.findall(r"[A-Z][A-Z0-9_]+", row) if name in OpCode.__members__}
TESTS = "\n".join(p.read_text() for p in (ROOT / "tests" / "agent" / "runtime").glob("test_*.py"))


@pytest.mark.parametrize("code", sorted(OPERATORS), ids=lambda code: code.name)
def test_every_operator_has_a_row(code: OpCode) -> None:
    assert code.name in NAMED, f"give {code.name} a row in compiler/NUMERICS.md"


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_row_is_named_by_a_test(name: str) -> None:
    """By its op code in a test that runs the C kernel beside the simulator and the formula."""
    assert re.search(rf"\b(OpCode|Code)\.{name}\b", TESTS), f"name OpCode.{name} in a test of tests/agent/runtime"
