"""The way of an update on a device: install, delta, shadow, test, confirm, undo, and what is reported."""

import numpy as np
import pytest

from agent.agent import rig
from agent.agent.broker import Broker
from agent.agent.rig import Device, Service, holds, image, installed, release
from agent.runtime import small_model
from agent.runtime.images import golden_input
from agent.runtime.rig import Model
from tinyfleet_ota import topics
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

V1, V2, V3 = release(0, 1), release(1, 2), release(2, 3)
X = golden_input(5, int(np.prod(small_model.INPUT)))


def in_state(device: Device, item, state: SlotState) -> bool:
    return any(device.slot(s).image == item.id and device.slot(s).state == state for s in (0, 1))


def shadowing(device: Device, item) -> bool:
    return in_state(device, item, SlotState.SHADOW)


def test_first_image_is_installed_tested_and_confirmed() -> None:
    device, _ = installed(V1)
    assert device.flash_bytes(device.info.active, len(V1.image)) == V1.image
    states = [(event["from"], event["to"]) for event in device.events(EventKind.SLOT)]
    assert states == [(0, 1), (1, 2), (2, 4), (4, 5)]
    assert device.violations == 0


def test_a_packed_full_image_needs_no_base() -> None:
    device = Device()
    service = Service(device.broker)
    assert device.boot() == 0
    service.assign(V1, packed=True)
    assert device.run_until(lambda d: holds(d, V1), infer=True)
    assert device.flash_bytes(device.info.active, len(V1.image)) == V1.image
    service.assign(V2, packed=True)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert device.flash_bytes(device.info.active, len(V2.image)) == V2.image
    assert device.violations == 0


def test_answers_are_those_of_the_image() -> None:
    device, _ = installed(V1)
    model = Model(V1.image)
    expected = int(np.argmax(model.step_outputs(X)[-1]))
    assert device.infer(X)[:2] == (0, expected)
    (tensor,) = small_model._builder(((1, 0),)).inputs
    real = ((X.astype(np.float32) - tensor.zero_point) * tensor.scale).astype(np.float32)
    assert device.infer(real)[:2] == (0, expected)


def test_without_an_image_there_is_no_answer() -> None:
    device = Device()
    assert device.boot() == 0
    assert device.infer()[0] == -103


def test_a_delta_update_leaves_the_old_image_as_fallback() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert device.flash_bytes(device.info.active, len(V2.image)) == V2.image
    assert device.slot(device.info.fallback).image == V1.id
    staged = [event for event in device.events(EventKind.SLOT) if event["to"] == SlotState.STAGED]
    assert staged[-1]["received_bytes"] == service.entry(V2, base=V1).blob_bytes < len(V2.image)
    assert device.violations == 0


def test_undo_needs_no_download_and_keeps_the_undone_image_for_later() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.broker.asked.clear()
    service.assign(V1)
    assert device.run_until(lambda d: holds(d, V1), infer=True)
    assert not [topic for topic in device.broker.asked if "/b/" in topic or "/m/" in topic]
    other = device.slot(device.info.active ^ 1)
    assert (other.state, other.reason, other.image) == (SlotState.REJECTED, Reason.UNDONE, V2.id)
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert not [topic for topic in device.broker.asked if "/b/" in topic]


def test_shadow_counts_pairs_until_a_higher_sequence_activates() -> None:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: shadowing(d, V2))
    rng = np.random.default_rng(1)
    models = [Model(V1.image), Model(V2.image)]
    pairs, agree = [0, 0, 0, 0], 0
    for _ in range(40):
        x = rng.integers(-128, 128, X.size).astype(np.int8)
        tops = [int(np.argmax(model.step_outputs(x)[-1])) for model in models]
        status, top, number = device.infer(x)
        assert (status, top) == (0, tops[0])
        label = int(rng.integers(0, 3))
        assert device.label(number, label) == 0
        pairs[2 * (tops[0] != label) + (tops[1] != label)] += 1
        agree += tops[0] == tops[1]
    device.run(61_000)
    counters = device.telemetry()[V2.id]
    assert (counters["shadow_inferences"], counters["shadow_agree"], counters["shadow_pairs"]) == (40, agree, pairs)
    assert counters["role"] == SlotState.SHADOW
    assert device.answering == V1.id
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_counters_of_the_old_image_stay_across_the_swap() -> None:
    device, service = installed(V1)
    before = 7
    for _ in range(before):
        _, top, number = device.infer()
        assert device.label(number, top) == 0
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.run(61_000)
    old, new = device.telemetry()[V1.id], device.telemetry()[V2.id]
    assert (old["labelled"], old["correct"]) == (before, before)
    assert old["inferences"] >= before
    assert new["inferences"] >= 1
    assert (old["activations"], new["activations"]) == (1, 1)
    assert sum(old["predictions"][1::2]) == old["inferences"] == sum(old["latency_histogram"][1::2])


LABEL_RING = 16
"""FLEET_LABEL_RING's default."""


def test_labels_are_taken_once_and_only_while_remembered() -> None:
    device, _ = installed(V1)
    _, top, number = device.infer()
    assert device.label(number, top) == 0
    assert device.label(number, top) == -104
    assert device.label(number + 1, top) == -104
    numbers = [device.infer()[2] for _ in range(LABEL_RING + 1)]
    assert [device.label(number, 0) for number in numbers] == [-104, *[0] * LABEL_RING]
    assert device.label(0, 0) == -104


def test_testing_that_gets_no_inferences_is_reverted_after_its_timeout() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1, confirm_timeout_s=30)
    assert device.run_until(lambda d: in_state(d, V2, SlotState.TESTING))
    assert device.run_until(lambda d: holds(d, V1), ms=40_000)
    assert (device.slot(device.info.active ^ 1).reason) == Reason.CONFIRM_TIMEOUT
    assert device.state()["last_reason"] == Reason.CONFIRM_TIMEOUT


def test_a_clock_that_goes_back_costs_no_candidate_its_test() -> None:
    device, service = installed(V1, Device(now_ms=2**33))
    service.assign(V2, base=V1, confirm_timeout_s=30)
    assert device.run_until(lambda d: in_state(d, V2, SlotState.TESTING))
    for back_ms in (1, 10_000):
        device.now_ms -= back_ms + 2000  # steps go on at most a second each
        device.step()
        device.step()
        assert in_state(device, V2, SlotState.TESTING)
    assert device.run_until(lambda d: holds(d, V2), ms=60_000, infer=True)
    device.run(120_000)
    assert device.state()["fresh"]
    assert sum(counters["active_s"] for counters in device.telemetry().values()) < 1000


def test_answers_above_the_latency_budget_revert() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1, latency_budget_us=50, confirm_min_inferences=10)
    assert device.run_until(lambda d: in_state(d, V2, SlotState.TESTING))
    for _ in range(3):
        assert device.infer()[0] == 0
    assert holds(device, V1)
    assert device.slot(device.info.active ^ 1).reason == Reason.BUDGET_EXCEEDED
    device.run(61_000)
    assert device.telemetry()[V2.id]["faults"] == 3


def test_resets_while_a_candidate_runs_end_in_rejection() -> None:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: shadowing(d, V2))
    for _ in range(3):
        assert device.boot() == 0
        assert device.run_until(lambda d: shadowing(d, V2), ms=1)
    assert device.boot() == 0
    device.run(2000)
    candidate = device.slot(device.info.active ^ 1)
    assert (candidate.state, candidate.reason) == (SlotState.REJECTED, Reason.ATTEMPTS_EXHAUSTED)
    assert device.answering == V1.id


def test_a_newer_assignment_supersedes_a_shadowing_candidate() -> None:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: shadowing(d, V2))
    service.assign(V1)
    assert device.run_until(lambda d: in_state(d, V2, SlotState.REJECTED))
    assert device.slot(device.info.active ^ 1).reason == Reason.SUPERSEDED
    service.assign(V3)
    assert device.run_until(lambda d: holds(d, V3), infer=True)


def test_undo_while_testing_goes_back_at_once() -> None:
    device, service = installed(V1)
    service.assign(V2, base=V1, confirm_min_inferences=1000)
    assert device.run_until(lambda d: in_state(d, V2, SlotState.TESTING))
    service.assign(V1)
    assert device.run_until(lambda d: holds(d, V1), ms=2000)
    assert device.slot(device.info.active ^ 1).reason == Reason.UNDONE


@pytest.mark.parametrize("golden_ok", [True, False])
def test_an_image_in_testing_passes_its_golden_vectors_again_before_it_answers_after_a_reset(golden_ok: bool) -> None:
    """Other bytes with a good CRC stand for a firmware whose kernels compute otherwise."""
    device, service = installed(V1)
    service.assign(V2, confirm_min_inferences=100)
    assert device.run_until(lambda d: d.answering == V2.id)
    slot, other = device.info.active, image(9, golden_ok=golden_ok)
    assert len(other) == len(V2.image)
    start = device.lib.rig_slot_offset(device.rig, slot)
    device._memory()[0][start : start + len(other)] = other
    assert device.boot() == 0
    assert device.answering == (V2.id if golden_ok else V1.id)
    if not golden_ok:
        assert (device.slot(slot).state, device.slot(slot).reason) == (SlotState.REJECTED, Reason.GOLDEN_FAILED)
        device.run(5000)
        assert holds(device, V1)


def test_an_image_that_fails_its_golden_vectors_never_runs() -> None:
    device, service = installed(V1)
    bad = release(9, 5, data=image(9, golden_ok=False))
    service.assign(bad)
    assert device.run_until(lambda d: in_state(d, bad, SlotState.REJECTED), infer=True)
    assert device.slot(device.info.active ^ 1).reason == Reason.GOLDEN_FAILED
    assert device.answering == V1.id
    device.run(5000)
    assert [event["to"] for event in device.events(EventKind.SLOT)].count(SlotState.WRITING) == 2


def test_the_floor_forbids_undo_and_says_so() -> None:
    device, service = installed(V1)
    fix = release(3, 4, floor=4)
    service.assign(fix)
    assert device.run_until(lambda d: holds(d, fix), infer=True)
    assert device.info.floor == 4
    assert device.info.fallback == 0xFF
    service.assign(V1)
    device.run(3000)
    assert device.answering == fix.id
    assert device.state()["last_reason"] == Reason.BELOW_FLOOR
    assert device.state()["refused_sequence"] == service.sequence


def test_factory_reset_keeps_floor_and_sequence() -> None:
    device, service = installed(release(3, 4, floor=4))
    assert device.lib.rig_factory_reset(device.rig) == 0
    assert device.boot() == 0
    assert device.answering is None
    assert (device.info.floor, device.info.sequence) == (4, service.sequence)
    assert device.run_until(lambda d: d.answering is not None, infer=True)


def test_state_tells_slots_boot_nonce_and_freshness() -> None:
    device, service = installed(V1)
    state = device.state()
    assert state["device_class"] == "cortex-m4"
    assert (state["root"], state["boot"], state["sequence"], state["fresh"]) == (1, 1, service.sequence, True)
    service.send(service.entry(V1), nonce=state["nonce"])
    device.run(2000)
    assert device.state()["sequence"] == service.sequence


def test_a_blob_that_changes_in_mid_download_starts_over() -> None:
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: None if topic.endswith("/3") else data
    service.assign(V2)
    device.run(5000)
    assert device.state()["waiting"][1] == 3
    device.broker.deliver = None
    service.assign(V2, base=V1)
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_lost_chunks_shrink_the_window_and_are_asked_again() -> None:
    device, service = installed(V1)
    seen: dict[str, int] = {}

    def lossy(topic: str, data: bytes) -> bytes | None:
        seen[topic] = seen.get(topic, 0) + 1
        return None if "/b/" in topic and seen[topic] == 1 and topic[-1] in "246" else data

    device.broker.deliver = lossy
    service.assign(V2)
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert "waiting" not in device.state() or device.state()["waiting"] is None


def test_a_lost_chunk_is_asked_for_again_when_the_one_behind_it_comes() -> None:
    device, service = installed(V1)
    lost: list[str] = []

    def lossy(topic: str, data: bytes) -> bytes | None:
        if "/b/" in topic and topic.endswith("/2") and not lost:
            lost.append(topic)
            return None
        return data

    device.broker.deliver = lossy
    service.assign(V2)
    assert device.run_until(lambda d: d.broker.asked.count(lost[0]) == 2 if lost else False, ms=500)


def test_no_more_chunks_are_asked_for_at_once_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    device, service = installed(V1)
    monkeypatch.setattr(rig, "CHUNK_BYTES", 64)  # a window grows after 16 chunks without a loss
    most = 0

    def count(topic: str, data: bytes) -> bytes:
        nonlocal most
        most = max(most, sum("/b/" in other for other in device.broker.subscribed))
        return data

    device.broker.deliver = count
    large = release(1, 2, data=bytes(4000))
    service.assign(large)
    assert device.run_until(lambda d: in_state(d, large, SlotState.REJECTED))
    assert most == 8  # FLEET_WINDOW


def test_retained_messages_lost_by_the_broker_are_waited_for() -> None:
    device, service = installed(V1)
    service.assign(V2)
    kept = dict(device.broker.retained)
    device.broker.retained = {topics.desired("m4-7"): kept[topics.desired("m4-7")]}
    device.run(5000)
    device.broker.retained = kept
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_shutdown_tells_the_last_counters() -> None:
    device, _ = installed(V1)
    device.infer()
    for _ in range(50):
        device.now_ms += 1
        if device.lib.rig_shutdown(device.rig, device.now_ms):
            break
    assert device.broker.closed
    assert device.telemetry()[V1.id]["inferences"] >= 1


def test_reconnects_after_a_dead_broker_with_growing_jitter() -> None:
    device, service = installed(V1)
    device.broker.close()
    device.broker.refusing = True
    device.run(30_000)
    device.broker.refusing = False
    service.assign(V2)
    assert device.run_until(lambda d: holds(d, V2), ms=120_000, infer=True)


class CountingBroker(Broker):
    connections = 0  # also those that it refuses

    def connect(self) -> int:
        self.connections += 1
        return super().connect()


class Fickle(CountingBroker):
    """Accepts every connection and ends it at the first message, as where another device has the same id."""

    fickle = True

    def _on_publish(self, kind: int, body: bytes) -> None:
        if self.fickle:
            self.close()
        else:
            super()._on_publish(kind, body)


def test_a_broker_that_accepts_and_hangs_up_is_not_called_every_second() -> None:
    broker = Fickle()
    device = Device(broker=broker)
    assert device.boot() == 0
    device.run(20 * 60_000)
    assert 20 <= broker.connections < 100
    broker.fickle = False
    Service(broker).assign(V1)
    assert device.run_until(lambda d: holds(d, V1), ms=120_000, infer=True)
    device.run(61_000)
    broker.connections = 0
    broker.close()
    device.run(2000)
    assert broker.connections == 1, "after one that held the delays begin anew"


def test_delays_grow_without_a_random_source_too() -> None:
    broker = CountingBroker(refusing=True)
    device = Device(broker=broker)
    assert device.boot() == 0
    device.lib.rig_without_random(device.rig)
    device.run(20 * 60_000)
    assert 20 <= broker.connections < 100


@pytest.mark.parametrize("topic", ["/desired", "/root/", "/command", "/m/", "/b/"])
def test_a_refused_subscription_ends_the_connection_until_it_is_granted(topic: str) -> None:
    broker = CountingBroker(denied=topic)
    device, service = Device(broker=broker), Service(broker)
    assert device.boot() == 0
    service.assign(V1)
    device.run(20 * 60_000)
    assert 20 <= broker.connections < 100, "as after any link failure: again, with growing delays"
    assert not device.info.connected
    assert broker.of("/state"), "it is heard of in between"
    broker.denied = ""
    assert device.run_until(lambda d: holds(d, V1) and d.info.connected, ms=120_000, infer=True)
    broker.connections = 0
    device.run(120_000)
    assert broker.connections == 0


def test_a_manifest_that_does_not_come_is_waited_for_and_told_once() -> None:
    device, service = installed(V1)
    entry = service.entry(V2)
    topic = topics.manifest(entry.manifest_digest[:16])
    for held in (None, V1.envelope):
        device.broker.retained.pop(topic, None)
        device.broker.retained |= {topic: held} if held else {}
        service.send(entry)
        assert device.run_until(lambda d: d.info.sequence == service.sequence)
        device.run(3000)
        said = len(device.broker.of("/state"))
        assert device.state()["waiting"] == [entry.blob, 0]
        device.run(30_000)
        assert len(device.broker.of("/state")) == said
    device.broker.retained[topic] = V2.envelope
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    device.run(100)
    assert "waiting" not in device.state()


def test_a_first_device_keeps_running_while_the_broker_is_silent() -> None:
    device = Device()
    device.broker.silent = True
    assert device.boot() == 0
    device.run(60_000)
    device.broker.silent = False
    service = Service(device.broker)
    service.assign(V1)
    assert device.run_until(lambda d: holds(d, V1), ms=120_000, infer=True)


def test_a_resume_asks_only_for_what_is_missing() -> None:
    device, service = installed(V1)
    device.broker.deliver = lambda topic, data: None if topic.endswith("/4") else data
    service.assign(V2)
    device.run(3000)
    assert device.state()["waiting"][1] == 4
    assert device.boot() == 0
    device.broker.deliver = None
    device.broker.asked.clear()
    assert device.run_until(lambda d: holds(d, V2), infer=True)
    assert {topic.rsplit("/", 1)[1] for topic in device.broker.asked if "/b/" in topic} == {"4"}
    staged = [event for event in device.events(EventKind.SLOT) if event["to"] == SlotState.STAGED]
    assert staged[-1]["received_bytes"] == len(V2.image)


def test_a_download_waits_for_its_time_and_window() -> None:
    device, service = installed(V1)
    noon = 1_800_000_000 // 86_400 * 86_400 + 12 * 3600
    device.lib.rig_clock(device.rig, 100, noon)
    service.assign(V2, not_before=noon + 60, window=(13 * 60, 30))
    for wall in (noon, noon + 90, noon + 2 * 3600):
        device.lib.rig_clock(device.rig, 100, wall)
        device.run(30_000)
        assert device.slot(device.info.active ^ 1).state == SlotState.EMPTY
    device.lib.rig_clock(device.rig, 100, noon + 3600 + 60)
    assert device.run_until(lambda d: holds(d, V2), infer=True)


def test_start_spread_delays_a_download_but_not_an_undo() -> None:
    device, service = installed(V1)
    service.assign(V2, start_spread_s=600)
    assert device.run_until(lambda d: holds(d, V2), ms=700_000, infer=True)
    service.assign(V1, start_spread_s=600)
    assert device.run_until(lambda d: holds(d, V1), ms=2000, infer=True)


@pytest.mark.parametrize("state", [SlotState.WRITING, SlotState.SHADOW])
def test_a_component_that_is_assigned_nothing_any_more_keeps_what_answers(state: SlotState) -> None:
    device, service = installed(V1)
    service.assign(V2, SlotState.SHADOW, base=V1)
    assert device.run_until(lambda d: in_state(d, V2, state))
    service.send()
    assert device.run_until(lambda d: in_state(d, V2, SlotState.REJECTED))
    assert device.boot() == 0
    device.run(5000)
    assert device.answering == V1.id
    assert in_state(device, V2, SlotState.REJECTED)


def test_a_first_image_that_is_assigned_no_more_is_not_installed() -> None:
    device = Device()
    service = Service(device.broker)
    assert device.boot() == 0
    service.assign(V1)
    assert device.run_until(lambda d: in_state(d, V1, SlotState.WRITING))
    service.send()
    assert device.run_until(lambda d: in_state(d, V1, SlotState.REJECTED))
    assert device.boot() == 0
    device.run(5000)
    assert in_state(device, V1, SlotState.REJECTED)
