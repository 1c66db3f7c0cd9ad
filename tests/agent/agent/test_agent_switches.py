"""Each feature of the agent left out alone: the others build as ever, without a warning, for both compilers."""

import re
import subprocess
from pathlib import Path

import pytest

from agent import cbuild
from agent.agent.rig import DIRECTOR_KEY, SRC
from tinyfleet_ota import Assignment, AssignmentEntry, make_assignment, topics
from tinyfleet_ota.assignment import ASSIGNMENT_BYTES_MAX
from tinyfleet_ota.protocol import Codec, SlotState

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


BOUNDS = re.findall(r"^KNOB\((\w+), (\d+), (\d+)\);", (SRC / "agent.c").read_text(), re.M)


def knobs_that_do_not_build(values: dict[str, int]) -> set[str]:
    knobs = [f"-D{name}={value}" for name, value in values.items()]
    include = [f"-I{folder}" for folder in (cbuild.INCLUDE, SRC)]
    command = ["gcc", "-std=c99", "-fsyntax-only", *include, *knobs, str(SRC / "agent.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=cbuild.clean_env())
    return set(re.findall(r"\b(FLEET_\w+)_is_\d+_to_\d+\b", done.stderr))


def test_a_knob_beyond_its_bounds_does_not_build() -> None:
    """Where the field that counts so far is smaller, it would do something else without a word."""
    names = {name for name, _, _ in BOUNDS}
    at_most, at_least = {name: int(most) for name, _, most in BOUNDS}, {name: int(least) for name, least, _ in BOUNDS}
    assert knobs_that_do_not_build(at_most) == knobs_that_do_not_build(at_least) == set()
    assert knobs_that_do_not_build({name: value + 1 for name, value in at_most.items()}) == names
    assert knobs_that_do_not_build({name: value - 1 for name, value in at_least.items()}) == names


def test_the_bounds_are_those_that_the_configuration_states() -> None:
    described = (cbuild.INCLUDE / "fleet_config.h").read_text()
    for name, least, most in BOUNDS:
        comment = described.split(f"#ifndef {name}\n")[0].rsplit("/**", 1)[1]
        assert f"{least}..{most}" in comment, name
    assert len(BOUNDS) >= 12


def assignment_bytes(components: int) -> int:
    """Of an assignment that says all there is to say, with the largest numbers, of so many components."""
    most, device = 2**32 - 1, "d" * 64
    entries = tuple(
        AssignmentEntry(
            f"model/{index}",
            *(bytes(32), SlotState.CONFIRMED, bytes(16), most, 65536, Codec.DELTA),
            **{"base_digest": bytes(32), "confirm_min_inferences": most, "confirm_timeout_s": most},
            **{"start_spread_s": most, "not_before": 2**53 - 1, "window": (1439, 1440), "latency_budget_us": most},
            **{"content_key": bytes(96), "brought_by": 2**53 - 2},
        )
        for index in range(components)
    )
    return len(make_assignment(Assignment(device, 2**53 - 1, 2**53 - 1, bytes(8), entries), DIRECTOR_KEY))


@pytest.mark.parametrize(("models", "firmware"), [(1, 0), (3, 1), (4, 0), (4, 1), (10, 1)])
def test_what_is_received_at_most_holds_an_assignment_of_every_component(models: int, firmware: int) -> None:
    components = models + firmware
    largest = assignment_bytes(components) if components < 6 else ASSIGNMENT_BYTES_MAX
    packet = len(topics.desired("d" * 64)) + 4 + largest
    source = f"#include <fleet_agent.h>\ntypedef char holds[FLEET_RX_BYTES >= {packet} ? 1 : -1];\n"
    knobs = [f"-DFLEET_MODELS_MAX={models}", f"-DFLEET_WITH_FIRMWARE={firmware}"]
    command = ["gcc", "-std=c99", "-fsyntax-only", f"-I{cbuild.INCLUDE}", *knobs, "-x", "c", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False, env=cbuild.clean_env())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("models", "least"), [(1, 287), (4, 626)])
def test_messages_too_small_for_a_state_of_every_component_do_not_build(models: int, least: int) -> None:
    for size in (least - 1, least):
        knobs = [f"-DFLEET_MODELS_MAX={models}", f"-DFLEET_MESSAGE_BYTES={size}", "-DFLEET_CLASSES_MAX=2"]
        include = [f"-I{folder}" for folder in (cbuild.INCLUDE, SRC)]
        command = ["gcc", "-std=c99", "-fsyntax-only", *include, *knobs, str(SRC / "events.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=cbuild.clean_env())
        assert (done.returncode == 0) == (size == least), done.stderr
        assert ("fleet_message_holds_a_state" in done.stderr) == (size < least)
