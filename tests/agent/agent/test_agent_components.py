"""Two models on one device: each has slots, floor and counters of its own, and neither can be taken for the other."""

from dataclasses import replace

import numpy as np
import pytest

from agent.agent.rig import (
    CHUNK_BYTES,
    ERASE_BYTES,
    SLOT_BYTES,
    Device,
    Release,
    Service,
    image,
    installed,
    release,
    sha256,
)
from agent.agent.test_agent_state import KNOBS
from agent.runtime import small_model
from tinyfleet_ota import topics
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

NAMES = ("model/0", "model/1")
OLD = (release(0, 1), release(1, 1, component="model/1"))
NEW = (release(2, 2), release(3, 2, component="model/1"))
INPUTS = np.random.default_rng(5).integers(-128, 128, (20, int(np.prod(small_model.INPUT)))).astype(np.int8)


class Double(Device):
    """Two model components."""

    def __init__(self, flash_bytes_total: int = 4 * 8192 + 4 * SLOT_BYTES, erase_bytes: int = ERASE_BYTES) -> None:
        super().__init__(components=2, knobs=KNOBS, flash_bytes_total=flash_bytes_total, erase_bytes=erase_bytes)

    def infer_both(self) -> None:
        for component in (0, 1):
            self.infer(component=component)

    def confirmed_at(self, component: int) -> bytes | None:
        """Id of the image that is CONFIRMED and answers."""
        info = self.ffi.new("fleet_agent_info_t *")
        self.lib.rig_component_info(self.rig, component, info)
        if info.answering not in (0, 1) or info.slots[info.answering].state != SlotState.CONFIRMED:
            return None
        return bytes(info.slots[info.answering].image)

    def settle(self, ms: int = 10_000) -> tuple[bytes | None, bytes | None]:
        end = self.now_ms + ms
        while self.now_ms < end:
            self.step()
            self.infer_both()
        return self.confirmed_at(0), self.confirmed_at(1)


@pytest.fixture
def pair() -> tuple[Double, Service]:
    device = Double()
    service = Service(device.broker)
    assert device.boot() == 0
    service.send(*(service.entry(item, component=name) for item, name in zip(OLD, NAMES, strict=True)))
    assert device.settle() == ids(*OLD)
    return device, service


def ids(*items: Release) -> tuple[bytes, ...]:
    return tuple(item.id for item in items)


def last_reason(device: Device) -> Reason:
    return Reason(device.state()["last_reason"])


def test_both_are_updated_by_one_assignment_and_undone_apart(pair: tuple[Double, Service]) -> None:
    device, service = pair
    service.send(*(service.entry(item, component=name) for item, name in zip(NEW, NAMES, strict=True)))
    assert device.settle() == ids(*NEW)
    assert device.boot() == 0
    assert device.settle() == ids(*NEW)
    service.send(service.entry(NEW[0]), service.entry(OLD[1], component="model/1"))
    assert device.settle() == ids(NEW[0], OLD[1])
    assert device.violations == 0


def test_a_firmware_with_another_number_of_models_reads_the_journal() -> None:
    """Forth and back: sequence, floor, slots and boot counter are as they were, also once the journal moved over."""
    fix, total = release(4, 9, floor=9), 6 * 4096
    before, service = installed(fix, Device(flash_bytes_total=total, erase_bytes=4096))
    after = Double(total, 4096)
    for turn, (last, device) in enumerate(((before, after), (after, before), (before, after)), start=1):
        device.restore(last.save())
        for _ in range(12):
            assert device.boot() == 0
        info = device.info
        assert (device.answering, info.floor, info.sequence) == (fix.id, 9, service.sequence)
        assert info.boot == 12 * turn + 1


def test_manifests_that_change_places_are_refused(pair: tuple[Double, Service]) -> None:
    device, service = pair
    service.send(service.entry(NEW[1]), service.entry(NEW[0], component="model/1"))
    assert device.settle() == ids(*OLD)
    assert last_reason(device) == Reason.UNKNOWN_COMPONENT


def test_a_bundle_with_a_third_component_moves_neither(pair: tuple[Double, Service]) -> None:
    device, service = pair
    entries = [service.entry(item, component=name) for item, name in zip(NEW, NAMES, strict=True)]
    service.send(*entries, replace(entries[1], component="model/2"))
    assert device.settle() == ids(*OLD)
    assert last_reason(device) == Reason.UNKNOWN_COMPONENT


def test_bytes_of_one_component_served_for_the_other_end_in_its_digest(pair: tuple[Double, Service]) -> None:
    """A broker that mixes: model/1's chunks under the topics of model/0's blob. The other one is updated anyway."""
    device, service = pair
    entries = [service.entry(item, component=name) for item, name in zip(NEW, NAMES, strict=True)]
    for n in range(-(-len(NEW[0].image) // CHUNK_BYTES)):
        topic = topics.chunk(sha256(NEW[0].image)[:16], CHUNK_BYTES, n)
        device.broker.retained[topic] = NEW[1].image[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES]
    service.send(*entries)
    assert device.settle(40_000) == ids(OLD[0], NEW[1])
    slots = device.state()["components"][0]["slots"]
    assert (SlotState.REJECTED, Reason.DIGEST_MISMATCH) in [(slot["state"], slot["reason"]) for slot in slots]


NOON_S = 1_800_000_000 // 86_400 * 86_400 + 12 * 3600
LATER = {
    "tomorrow": {"not_before": NOON_S + 86_400},
    "window": {"window": (20 * 60, 60)},
    "spread": {"start_spread_s": 2**32 - 1},
}


def asked_for(device: Device, item: Release) -> int:
    """How often the manifest of a release was subscribed to."""
    return device.broker.asked.count(topics.manifest(sha256(item.envelope)[:16]))


@pytest.mark.parametrize("terms", LATER.values(), ids=LATER)
@pytest.mark.parametrize("waiting", [0, 1])
def test_a_component_that_waits_holds_up_no_other(
    pair: tuple[Double, Service], waiting: int, terms: dict[str, object]
) -> None:
    device, service = pair
    device.lib.rig_clock(device.rig, 100, NOON_S)
    each = [terms if index == waiting else {} for index in (0, 1)]
    service.send(*(service.entry(NEW[i], component=NAMES[i], **each[i]) for i in (0, 1)))
    expected = list(ids(*NEW))
    expected[waiting] = OLD[waiting].id
    assert device.settle(20_000) == tuple(expected)
    device.settle(60_000)
    assert asked_for(device, NEW[waiting]) <= 2, "fetched once more at most: where the other one finished"
    if "start_spread_s" not in terms:
        device.lib.rig_clock(device.rig, 100, NOON_S + 86_400 + 8 * 3600)
        assert device.settle(20_000) == ids(*NEW)


def test_two_components_wait_each_for_its_own_time(pair: tuple[Double, Service]) -> None:
    """The later one is fetched first; neither loses its wait by a repeated assignment, nor by the other's download."""
    device, service = pair
    device.lib.rig_clock(device.rig, 100, NOON_S)
    times = (NOON_S + 7200, NOON_S + 3600)
    entries = [service.entry(NEW[i], component=NAMES[i], not_before=times[i]) for i in (0, 1)]
    service.send(*entries)
    assert device.settle(20_000) == ids(*OLD)
    service.send(*entries)
    assert device.settle(20_000) == ids(*OLD)
    device.lib.rig_clock(device.rig, 100, times[1])
    assert device.settle(20_000) == ids(OLD[0], NEW[1])
    assert device.settle(20_000) == ids(OLD[0], NEW[1])
    device.lib.rig_clock(device.rig, 100, times[0])
    assert device.settle(20_000) == ids(*NEW)
    assert max(asked_for(device, item) for item in NEW) <= 2


def test_a_spread_that_was_drawn_ends_when_it_would_have(pair: tuple[Double, Service]) -> None:
    """model/0 draws its wait, model/1 takes its turn meanwhile, again and again: the wait is not drawn anew."""
    device, service = pair
    service.send(service.entry(NEW[0], start_spread_s=600), service.entry(OLD[1], component="model/1"))
    began = device.now_ms
    kept = replace(service.entry(NEW[0], start_spread_s=600), brought_by=service.sequence)
    for turn in range(6):
        other = (NEW, OLD)[turn % 2][1]
        service.send(kept, service.entry(other, component="model/1"))
        device.settle(100_000 - (device.now_ms - began) % 100_000)
    device.settle(10_000)
    assert device.confirmed_at(0) == NEW[0].id


def test_a_floor_of_one_component_does_not_bind_the_other(pair: tuple[Double, Service]) -> None:
    device, service = pair
    fix = release(4, 9, floor=9)
    service.send(service.entry(fix), service.entry(OLD[1], component="model/1"))
    assert device.settle() == ids(fix, OLD[1])
    service.send(service.entry(NEW[0]), service.entry(NEW[1], component="model/1"))
    assert device.settle() == ids(fix, NEW[1])
    assert last_reason(device) == Reason.BELOW_FLOOR


def test_what_one_component_rejected_is_not_tried_again_when_another_one_changes(pair: tuple[Double, Service]) -> None:
    """The entry was taken over as it is, and says so: neither a download nor a test begins anew, also after a reset."""
    device, service = pair
    bad = release(9, 5, data=image(9, golden_ok=False), component="model/1")
    service.send(service.entry(OLD[0]), service.entry(bad, component="model/1"))
    assert device.settle(40_000) == ids(*OLD)
    rejected = device.state()["components"][1]["slots"]
    assert SlotState.REJECTED in [slot["state"] for slot in rejected]
    kept = replace(service.entry(bad, component="model/1"), brought_by=service.sequence)
    service.send(service.entry(NEW[0]), kept)
    assert device.settle(40_000) == ids(NEW[0], OLD[1])
    assert device.state()["components"][1]["slots"] == rejected
    assert device.boot() == 0
    assert device.settle(40_000) == ids(NEW[0], OLD[1])
    assert device.state()["components"][1]["slots"] == rejected
    assert begun(device) == 2
    service.send(service.entry(NEW[0]), replace(kept, brought_by=None))
    device.settle(5000)
    assert begun(device) == 3, "an entry that is new is tried again"


def begun(device: Device) -> int:
    """How often model/1 began to write or to read back what is in a slot."""
    began = [event for event in device.events(EventKind.SLOT) if event["to"] == SlotState.WRITING]
    return [event["component"] for event in began].count("model/1")


def test_a_refusal_names_the_assignment_that_brought_the_entry(pair: tuple[Double, Service]) -> None:
    device, service = pair
    fix = release(5, 9, floor=9, component="model/1")
    service.send(service.entry(OLD[0]), service.entry(fix, component="model/1"))
    assert device.settle() == ids(OLD[0], fix)
    service.send(service.entry(OLD[0]), service.entry(NEW[1], component="model/1"))
    device.settle()
    assert (last_reason(device), device.state()["refused_sequence"]) == (Reason.BELOW_FLOOR, service.sequence)
    refused = service.sequence
    service.send(service.entry(NEW[0]), replace(service.entry(NEW[1], component="model/1"), brought_by=refused))
    assert device.settle() == ids(NEW[0], fix)
    assert (last_reason(device), device.state()["refused_sequence"]) == (Reason.BELOW_FLOOR, refused)
