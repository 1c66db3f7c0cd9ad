"""The component `firmware` on flash, over MQTT and under MCUboot, and the model of its rules: always alike."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.agent.firmware_model import FAILS, PASSES, PENDING, FirmwareModel
from agent.agent.firmware_rig import entry, factory, firmware_release
from agent.agent.rig import NO_SLOT, Release
from agent.agent.slot_model import Item
from tinyfleet_ota.protocol import SlotState

ITEMS = (Item("first", 1), Item("second", 2), Item("third", 3), Item("fix", 5, floor=2))
TIMEOUT_S = 600
UNTIL = (SlotState.SHADOW, SlotState.CONFIRMED, SlotState.CONFIRMED)

Step = tuple[str, int, SlotState] | tuple[str, int] | tuple[str]
ASSIGN = st.tuples(st.just("assign"), st.integers(0, len(ITEMS) - 1), st.sampled_from(UNTIL))
SELF_TEST = st.tuples(st.just("self_test"), st.sampled_from([PASSES, PENDING, FAILS]))
STEP = st.one_of(ASSIGN, ASSIGN, SELF_TEST, st.just(("reboot",)), st.just(("time_out",)))


def _life() -> list[Step]:
    """Install, revert in each way, go back, floor: each state and reason that the rules name is met."""
    first, second, third, fix = range(4)
    until = SlotState.CONFIRMED
    life: list[Step] = [("assign", first, until), ("self_test", PENDING), ("assign", second, until), ("reboot",)]
    life += [("assign", second, until), ("time_out",), ("self_test", FAILS), ("assign", third, until)]
    life += [("self_test", PASSES), ("assign", second, until), ("assign", first, until)]
    life += [("assign", third, SlotState.SHADOW), ("reboot",), ("assign", fix, until), ("assign", first, until)]
    return [*life, ("assign", second, SlotState.SHADOW), *[("reboot",)] * 5]


@pytest.fixture(scope="module")
def signed() -> dict[str, Release]:
    return {item.name: firmware_release(item.counter, item.counter, floor=item.floor) for item in ITEMS}


class Pair:
    """A device and its model, led through the same steps."""

    def __init__(self, signed: dict[str, Release]) -> None:
        self.signed = signed
        self.names = {item.id: name for name, item in signed.items()}
        self.device, self.service = factory()
        self.model = FirmwareModel()
        self.device.settle(1500)

    def take(self, step: Step) -> None:
        if len(step) == 3:
            item = ITEMS[step[1]]
            terms = {"confirm_timeout_s": TIMEOUT_S}
            self.service.send(entry(self.service, self.signed[item.name], step[2], **terms))
            self.model.assign(item, step[2], 0)
        elif len(step) == 2:
            self.device.self_test = step[1]
            self.device.lib.rig_self_test(self.device.rig, step[1])
            self.model.try_self_test(step[1])
        elif step[0] == "reboot":
            assert self.device.boot() == 0
            self.model.reboot()
        else:
            self.device.now_ms += (TIMEOUT_S + 1) * 1000
            self.model.time_out()
        self.device.settle(8000)
        assert self.seen() == self.expected(), step

    def seen(self) -> dict[str, object]:
        info = self.device.firmware
        index = lambda value: None if value == NO_SLOT else value  # noqa: E731
        slots = [self.device.firmware_slot(number) for number in (0, 1)]
        return {
            "slots": [(slot.state, self.names.get(slot.image), slot.reason, slot.attempts) for slot in slots],
            "active": index(info.active),
            "fallback": index(info.fallback),
            "floor": info.floor,
            "runs": next((name for name, item in self.signed.items() if self._primary_is(item)), None),
        }

    def _primary_is(self, item: Release) -> bool:
        return self.device.primary(len(item.image)) == item.image

    def expected(self) -> dict[str, object]:
        model = self.model
        return {
            "slots": [(s.state, s.item.name if s.item else None, s.reason, s.attempts) for s in model.slots],
            "active": model.active,
            "fallback": model.fallback,
            "floor": model.floor,
            "runs": model.primary.name if model.primary else None,
        }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=1, max_size=10))
def test_device_and_firmware_model_agree_after_every_step(signed: dict[str, Release], steps: list[Step]) -> None:
    pair = Pair(signed)
    for step in steps:
        pair.take(step)
    assert pair.device.violations == 0


def test_the_firmware_model_walks_the_whole_life_of_an_image(signed: dict[str, Release]) -> None:
    pair, met = Pair(signed), set()
    for step in _life():
        pair.take(step)
        met |= {slot.reason.name for slot in pair.model.slots} | {slot.state.name for slot in pair.model.slots}
    assert met >= {"STAGED", "TESTING", "CONFIRMED", "FIRMWARE_REVERTED", "CONFIRM_TIMEOUT", "SELF_TEST_FAILED"}
    assert "ATTEMPTS_EXHAUSTED" in met
