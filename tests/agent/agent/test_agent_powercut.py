"""Power fails in every flash operation of an update, and again in recovery: a valid image boots, the update ends.

A bounded part of `make bench-powercut`: every scenario and kind of flash, each operation in some ways or some in each.
"""

from collections.abc import Callable

import pytest

from agent.agent.powercut import SCENARIOS, V1, Part, Scenario, first_install, install_delta
from agent.agent.rig import CUTS, Device, installed

PARTS = {
    "nor": Part("nor"),
    "ecc": Part("ecc"),
    "nor, large blocks": Part("nor", 16, 2048),
    "ecc, large blocks": Part("ecc", 32, 2048),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("make", SCENARIOS, ids=lambda make: make.__name__)
def test_cuts(make: Callable[[Part], Scenario], part: Part) -> None:
    outcome = make(part).sweep(stride=13, first=len(make.__name__) % 13, seconds=1)
    assert outcome.operations > 10
    assert outcome.second > 0
    assert outcome.cuts - outcome.second >= outcome.operations // 13
    assert outcome.lost == 0, outcome.why


def test_every_other_operation_of_a_delta_update() -> None:
    outcome = install_delta(Part()).sweep(stride=2)
    assert outcome.cuts > 2 * outcome.operations
    assert outcome.lost == 0, outcome.why


def test_the_sweep_sees_what_is_lost() -> None:
    """No image may answer at all in this scenario, so every recovery breaks the promise."""
    scenario = first_install(Part())
    scenario.valid = (None,)
    with pytest.raises(AssertionError, match="an image that is not valid answers"):
        scenario.sweep()


def test_the_sweep_sees_a_unit_that_was_programmed_twice() -> None:
    device, _ = installed(V1)
    end = device.lib.rig_slot_offset(device.rig, 0)
    units = device.lib.rig_flash_units(device.flash)
    for at in range(0, end, device.unit_bytes):
        units[at // device.unit_bytes] = 1
    device.boot()
    assert device.violations > 0


@pytest.mark.parametrize("profile", ["nor", "ecc"])
def test_journal_moves_over_with_every_write_cut(profile: str) -> None:
    """Many boots fill the journal, so that moving to the other half is cut too."""
    device, _ = installed(V1, Device(unit_bytes=64, profile=profile))
    for boot in range(1, 150):
        device.boot((1 + boot % 30, list(CUTS)[boot % len(CUTS)]))
        assert device.boot() == 0, boot
        assert device.answering == V1.id, boot
        assert device.violations == 0
