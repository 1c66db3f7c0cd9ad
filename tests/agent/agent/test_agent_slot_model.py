"""The C state machine, on flash and over MQTT, and the model of its rules in Python: the same after every step."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.agent.rig import NO_SLOT, Device, Release, Service, holds, image, release
from agent.agent.slot_model import Item, Model
from tinyfleet_ota.protocol import SlotState

ITEMS = (
    Item("first", 1),
    Item("second", 2),
    Item("third", 3),
    Item("wrong golden", 4, golden_ok=False),
    Item("fix", 5, floor=2),
    Item("hard fix", 6, floor=6),
)
MINIMUM, TIMEOUT_S = 2, 600
UNTIL = (SlotState.SHADOW, SlotState.CONFIRMED)

ASSIGN = st.tuples(st.just("assign"), st.integers(0, len(ITEMS) - 1), st.sampled_from(UNTIL))
STEP = st.one_of(ASSIGN, ASSIGN, st.just(("infer",)), st.just(("infer",)), st.just(("reboot",)), st.just(("time_out",)))
Step = tuple[str, int, SlotState] | tuple[str]


def releases() -> dict[str, Release]:
    return {
        item.name: release(
            item.counter, item.counter, floor=item.floor, data=image(item.counter, golden_ok=item.golden_ok)
        )
        for item in ITEMS
    }


def _life() -> list[Step]:
    """Install, shadow, activate, undo, redo, floor: each state and reason that the rules name is met."""
    first, second, wrong, fix = 0, 1, 3, 4
    confirmed, shadow = SlotState.CONFIRMED, SlotState.SHADOW
    life: list[Step] = [("assign", first, confirmed), ("infer",), ("infer",), ("assign", second, shadow)]
    life += [("reboot",), ("assign", second, confirmed), ("infer",), ("infer",), ("assign", first, confirmed)]
    life += [("infer",), ("infer",), ("assign", wrong, confirmed), ("assign", second, confirmed), ("time_out",)]
    life += [("assign", second, shadow), *[("reboot",)] * 4, ("assign", fix, confirmed), ("infer",), ("infer",)]
    life += [("assign", first, confirmed), ("assign", second, shadow), ("assign", fix, shadow)]
    return life


LIFE = _life()


class Pair:
    """A device and its model, led through the same steps."""

    def __init__(self, releases: dict[str, Release], profile: str = "nor") -> None:
        self.releases = releases
        self.names = {item.id: name for name, item in releases.items()}
        self.device = Device(profile=profile)
        self.service = Service(self.device.broker)
        self.model = Model()
        assert self.device.boot() == 0
        self.device.run(1500)

    def take(self, step: Step) -> None:
        if len(step) == 3:
            self._assign(ITEMS[step[1]], step[2])
        elif step[0] == "infer":
            status, _, _ = self.device.infer()
            assert (status == 0) == (self.model.answering is not None)
            self.model.infer()
        elif step[0] == "reboot":
            choice = self.model.boot_choice
            assert self.device.boot_choice() == (0, NO_SLOT if choice is None else choice)
            assert self.device.boot() == 0
            self.model.reboot()
        else:
            self.device.now_ms += (TIMEOUT_S + 1) * 1000
            self.model.time_out()
        self.device.run(2500)
        assert self.seen() == self.expected()

    def _assign(self, item: Item, until: SlotState) -> None:
        terms = {"confirm_min_inferences": MINIMUM, "confirm_timeout_s": TIMEOUT_S}
        self.service.assign(self.releases[item.name], until, **terms)
        self.model.assign(item, until, MINIMUM)

    def seen(self) -> dict[str, object]:
        info = self.device.info
        index = lambda value: None if value == NO_SLOT else value  # noqa: E731
        slots = [self.device.slot(number) for number in (0, 1)]
        return {
            "slots": [(slot.state, self.names.get(slot.image), slot.reason, slot.attempts) for slot in slots],
            "active": index(info.active),
            "fallback": index(info.fallback),
            "answering": index(info.answering),
            "floor": info.floor,
        }

    def expected(self) -> dict[str, object]:
        model = self.model
        return {
            "slots": [(s.state, s.item.name if s.item else None, s.reason, s.attempts) for s in model.slots],
            "active": model.active,
            "fallback": model.fallback,
            "answering": model.answering,
            "floor": model.floor,
        }


@pytest.fixture(scope="module")
def signed() -> dict[str, Release]:
    return releases()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=1, max_size=14), profile=st.sampled_from(["nor", "ecc"]))
def test_device_and_model_agree_after_every_step(signed: dict[str, Release], steps: list[Step], profile: str) -> None:
    pair = Pair(signed, profile)
    for step in steps:
        pair.take(step)
    assert pair.device.violations == 0


def test_the_model_walks_the_whole_life_of_an_image(signed: dict[str, Release]) -> None:
    pair, met = Pair(signed), set()
    for step in LIFE:
        pair.take(step)
        met |= {slot.reason.name for slot in pair.model.slots} | {slot.state.name for slot in pair.model.slots}
    assert met >= {"SHADOW", "TESTING", "CONFIRMED", "UNDONE", "GOLDEN_FAILED", "CONFIRM_TIMEOUT"}
    assert met >= {"ATTEMPTS_EXHAUSTED", "SUPERSEDED"}


def test_a_candidate_beside_another_one_is_tested_where_nothing_answers(signed: dict[str, Release]) -> None:
    """The first image times out while the second is staged behind it; a third is wanted, then the second after all."""
    first, second, third = 0, 1, 2
    confirmed, shadow = SlotState.CONFIRMED, SlotState.SHADOW
    pair = Pair(signed)
    steps: list[Step] = [("assign", first, confirmed), ("assign", second, shadow), ("time_out",)]
    for step in [*steps, ("assign", third, shadow)]:
        pair.take(step)
    assert [slot.state for slot in pair.model.slots] == [SlotState.SHADOW, SlotState.REJECTED]
    steps = [("assign", second, confirmed), ("infer",), ("infer",)]
    for step in steps:
        pair.take(step)
    assert holds(pair.device, pair.releases["second"])
