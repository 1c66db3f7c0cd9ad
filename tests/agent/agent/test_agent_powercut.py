"""Power fails in every flash operation of an update, and again in recovery: a valid image boots, the update ends."""

import random
from collections.abc import Callable

import pytest

from agent.agent.rig import CUTS, Device, Release, Service, holds, installed, release
from tinyfleet_ota.protocol import SlotState

V1, V2 = release(0, 1), release(1, 2)
UNIT_BYTES = 64
SLOW = pytest.mark.slow


def drive(device: Device, wanted: Callable[[Device], bool]) -> bool:
    return device.run_until(wanted, ms=60_000, infer=True)


class Scenario:
    """A flash to start from, what the broker retains, and when the update is at its end."""

    def __init__(self, valid: set[Release | None], goal: Release, erase_bytes: int = 512) -> None:
        self.device = Device(unit_bytes=UNIT_BYTES, erase_bytes=erase_bytes)
        self.service = Service(self.device.broker)
        self.valid = {item.id if item else None for item in valid}
        self.goal = goal

    def install(self, item: Release, base: Release | None = None, until: SlotState = SlotState.CONFIRMED) -> None:
        assert self.device.boot() == 0
        self.service.assign(item, until, base)
        ready = (lambda d: holds(d, item)) if until == SlotState.CONFIRMED else (lambda d: shadows(d, item))
        assert drive(self.device, ready)

    def start(self) -> "Scenario":
        self.saved = self.device.save()
        return self

    def operations(self) -> int:
        """Flash operations of an undisturbed run."""
        self.device.restore(self.saved)
        assert self.device.boot() == 0
        assert drive(self.device, self.at_end)
        return self.device.operations

    def at_end(self, device: Device) -> bool:
        return holds(device, self.goal)

    def check(self, cuts: list[tuple[int, str]]) -> None:
        """Boot with each cut in turn, then undisturbed: each boot has a valid image, the last ends the update."""
        device = self.device
        device.restore(self.saved)
        device.broker.published.clear()
        for cut in cuts:
            if device.boot(cut) == 0:
                drive(device, self.at_end)
        assert device.boot() == 0, cuts
        assert device.answering in self.valid, cuts
        assert drive(device, self.at_end), (cuts, device.slot(0), device.slot(1), device.events())
        slot = device.info.active
        assert device.flash_bytes(slot, len(self.goal.image)) == self.goal.image
        assert device.violations == 0, cuts


def shadows(device: Device, item: Release) -> bool:
    return any(device.slot(s).image == item.id and device.slot(s).state == SlotState.SHADOW for s in (0, 1))


def first_install() -> Scenario:
    scenario = Scenario({None, V1}, V1).start()
    scenario.service.assign(V1)
    return scenario


def full_update(erase_bytes: int = 512) -> Scenario:
    scenario = Scenario({V1, V2}, V2, erase_bytes)
    scenario.install(V1)
    scenario.service.assign(V2)
    return scenario.start()


def delta_update(erase_bytes: int = 512) -> Scenario:
    scenario = Scenario({V1, V2}, V2, erase_bytes)
    scenario.install(V1)
    scenario.service.assign(V2, base=V1)
    return scenario.start()


def full_update_within_blocks() -> Scenario:
    """Records of progress lie inside an erase block: a resume meets units that are written already."""
    return full_update(2048)


def delta_update_within_blocks() -> Scenario:
    return delta_update(2048)


def shadow_to_confirmed() -> Scenario:
    scenario = Scenario({V1, V2}, V2)
    scenario.install(V1)
    scenario.install(V2, V1, SlotState.SHADOW)
    scenario.service.assign(V2, base=V1)
    return scenario.start()


def undo() -> Scenario:
    scenario = Scenario({V1, V2}, V1)
    scenario.install(V1)
    scenario.install(V2, V1)
    scenario.service.assign(V1)
    return scenario.start()


def restage() -> Scenario:
    scenario = undo()
    scenario.install(V1)
    scenario.goal = V2
    scenario.service.assign(V2, base=V1)
    return scenario.start()


SCENARIOS = [
    first_install,
    full_update,
    delta_update,
    full_update_within_blocks,
    delta_update_within_blocks,
    shadow_to_confirmed,
    undo,
    restage,
]


@pytest.mark.parametrize("make", SCENARIOS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("variant", ["prefix", pytest.param("nothing", marks=SLOW), pytest.param("after", marks=SLOW)])
def test_one_cut_at_every_operation(make: Callable[[], Scenario], variant: str) -> None:
    scenario = make()
    count = scenario.operations()
    assert count > 10
    for operation in range(1, count + 1):
        scenario.check([(operation, variant)])


@pytest.mark.slow
@pytest.mark.parametrize("make", SCENARIOS, ids=lambda make: make.__name__)
def test_a_second_cut_during_recovery(make: Callable[[], Scenario]) -> None:
    scenario = make()
    count = scenario.operations()
    rng = random.Random(3)
    for _ in range(60):
        variants = [rng.choice(list(CUTS)) for _ in range(2)]
        scenario.check([(rng.randint(1, count), variants[0]), (rng.randint(1, 40), variants[1])])


def test_journal_moves_over_with_every_write_cut() -> None:
    """Many boots fill the journal, so that moving to the other half is cut too."""
    device, _ = installed(V1, Device(unit_bytes=UNIT_BYTES))
    for boot in range(1, 150):
        device.boot((1 + boot % 30, list(CUTS)[boot % 3]))
        assert device.boot() == 0, boot
        assert device.answering == V1.id, boot
        assert device.violations == 0
