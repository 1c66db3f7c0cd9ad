"""NUMERICS.md, operators and tests: every operator has a row, a test of its kernel and one against its oracle."""

import ast
import re
from pathlib import Path

import pytest

from tinyfleet_compiler.operators import OPERATORS, OpCode

ROOT = Path(__file__).parents[3]
NUMERICS = (ROOT / "compiler" / "NUMERICS.md").read_text()
FORMULAS, ORACLES = NUMERICS.split("\n## 9. ")
ROWS = [line.split("|")[1] for line in FORMULAS.splitlines() if line.startswith("| ") and "_" not in line[:2]]
NAMED = {name for row in ROWS for name in re.findall(r"[A-Z][A-Z0-9_]+", row) if name in OpCode.__members__}
TESTS = "\n".join(p.read_text() for p in (ROOT / "tests" / "agent" / "runtime").glob("test_*.py"))


@pytest.mark.parametrize("code", sorted(OPERATORS), ids=lambda code: code.name)
def test_every_operator_has_a_row(code: OpCode) -> None:
    assert code.name in NAMED, f"give {code.name} a row in compiler/NUMERICS.md"


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_row_is_named_by_a_test(name: str) -> None:
    """By its op code in a test that runs the C kernel beside the simulator and the formula."""
    assert re.search(rf"\b(OpCode|Code)\.{name}\b", TESTS), f"name OpCode.{name} in a test of tests/agent/runtime"


ORACLE_ROWS = [line.split("|")[1:4] for line in ORACLES.splitlines() if re.match(r"\| [A-Z]", line)]
HELD = {name: tests for names, _, tests in ORACLE_ROWS for name in names.replace(" ", "").split(",")}


@pytest.mark.parametrize("code", sorted(OPERATORS), ids=lambda code: code.name)
def test_every_operator_names_the_test_that_holds_it_to_its_oracle(code: OpCode) -> None:
    assert re.findall(r"`[^`]+::[^`]+`", HELD.get(code.name, "")), f"give {code.name} a row in section 9 of NUMERICS.md"


def test_section_9_names_operators_once_and_nothing_else() -> None:
    named = [name for names, _, _ in ORACLE_ROWS for name in names.replace(" ", "").split(",")]
    assert sorted(named) == sorted(code.name for code in OPERATORS)


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`([a-z_0-9]+\.py::\w+)`", ORACLES))))
def test_the_tests_named_exist(test: str) -> None:
    file, name = test.split("::")
    tree = ast.parse((ROOT / "tests" / "unit" / "compiler" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
