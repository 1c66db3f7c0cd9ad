"""Each feature of the agent left out alone: the others build as ever, without a warning, for both compilers."""

import re
import subprocess
from pathlib import Path

import pytest

from agent import cbuild
from agent.agent.rig import SRC

SOURCES = sorted(SRC.glob("*.c"))
CONDITIONAL = [path for path in SOURCES if "FLEET_WITH_" in path.read_text()]
SWITCHES = sorted({name for path in CONDITIONAL for name in re.findall(r"\bFLEET_WITH_\w+", path.read_text())})


def test_the_switches_are_those_that_the_configuration_describes() -> None:
    described = (cbuild.INCLUDE / "fleet_config.h").read_text()
    assert [name for name in SWITCHES if f"#ifndef {name}\n" not in described] == []
    assert len(SWITCHES) >= 5


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(("compiler", "sources"), [("gcc", SOURCES), ("clang", CONDITIONAL)], ids=["gcc", "clang"])
def test_one_feature_less_builds_without_a_warning(compiler: str, sources: list[Path], switch: str) -> None:
    knobs = [f"-D{name}={int(name != switch)}" for name in SWITCHES]
    include = [f"-I{folder}" for folder in (cbuild.INCLUDE, SRC, cbuild.RUNTIME)]
    command = [compiler, "-std=c99", "-fsyntax-only", *cbuild.WARNINGS, *include, *knobs, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=cbuild.clean_env())
    assert (done.returncode, done.stderr) == (0, "")
