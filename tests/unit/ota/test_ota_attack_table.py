"""The table of attacks in ota/SPEC.md names tests that exist, and every attack test is in it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SPEC = (ROOT / "ota" / "SPEC.md").read_text()
TABLE = SPEC[SPEC.index("### Attacks and the tests") : SPEC.index("## 2. Encoding")]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and "`test_" in line]


def names_in(*folders: str) -> set[str]:
    """Names of test functions in these folders below tests/."""
    files = [path for folder in folders for path in (ROOT / "tests" / folder).rglob("test_*.py")]
    return {name for path in files for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)}


def test_every_test_of_the_table_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 30
    assert named <= names_in("agent", "integration")


def test_every_attack_has_a_test() -> None:
    attacks = [line.split("|")[1].strip() for line in TABLE.splitlines() if line.startswith("| ")][2:]
    assert len(attacks) == len(ROWS) > 20


def test_every_attack_test_is_in_the_table() -> None:
    file = ROOT / "tests" / "agent" / "agent" / "test_agent_attacks.py"
    written = set(re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE))
    assert written <= set(re.findall(r"`(test_\w+)`", TABLE))
