"""A candidate in SHADOW whose kernels crash, hang or write too far: REJECTED, and the active model answers every input.

Beside the device runs a twin without a candidate; it gets the same inputs and resets, and both must answer alike.
"""

import numpy as np
import pytest

from agent.agent.rig import OVERRUN, RESET, STOPS, STRIDE, Device, Release, installed, release
from agent.agent.test_agent_state import ONE, TWO, Streamer
from agent.agent.test_agent_state import X as STREAM
from agent.runtime import small_model
from tinyfleet_ota.protocol import EventKind, Reason, SlotState

V1, V2 = release(0, 1), release(1, 2)
ATTEMPTS_MAX = 3
OVERRUN_STATUS = 108
IMAGES = np.random.default_rng(3).integers(-128, 128, (40, int(np.prod(small_model.INPUT)))).astype(np.int8)
KINDS = {"stateless": (V1, V2, IMAGES), "stateful": (ONE, TWO, STREAM[:40])}


class Pair:
    """A device with `candidate` in SHADOW and its twin without one."""

    def __init__(self, active: Release, candidate: Release, until: SlotState = SlotState.SHADOW, **terms: int) -> None:
        make = Streamer if active is ONE else Device
        self.twin, _ = installed(active, make(state_bytes=32))
        self.device, service = installed(active, make(state_bytes=32))
        service.assign(candidate, until, **terms)
        wanted = SlotState.SHADOW if until == SlotState.SHADOW else SlotState.TESTING
        assert self.device.run_until(lambda d: d.slot(self.other).state == wanted)
        for device in (self.device, self.twin):
            assert device.lib.rig_reset_stream(device.rig) == 0

    @property
    def other(self) -> int:
        return next(s for s in (0, 1) if self.device.slot(s).image != self.twin.answering)

    def infer(self, x: np.ndarray) -> bool:
        """Both answer alike, and the product was told before the candidate ran; True when the device was reset."""
        told = self.device.answered[0]
        status, top, _ = self.device.infer(x)
        assert self.device.answered == (told + 1, self.twin.infer(x)[1])
        assert status in (0, RESET)
        assert status == RESET or top == self.device.answered[1]
        if status == RESET:
            assert self.device.boot() == self.twin.boot() == 0
        return status == RESET

    def verdict(self) -> tuple[SlotState, Reason]:
        slot = self.device.slot(self.other)
        return slot.state, slot.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_that_crashes_or_hangs_is_rejected_and_no_answer_is_missed(kind: str) -> None:
    active, candidate, inputs = KINDS[kind]
    pair = Pair(active, candidate)
    resets = 0
    for x in inputs:
        pair.device.misbehave(STOPS, pair.other)
        resets += pair.infer(x)
        for device in (pair.device, pair.twin):
            device.run(100)
    assert resets == ATTEMPTS_MAX + 1
    assert pair.verdict() == (SlotState.REJECTED, Reason.ATTEMPTS_EXHAUSTED)
    assert pair.device.answering == active.id
    assert pair.device.violations == 0


@pytest.mark.parametrize("fault", [OVERRUN, STRIDE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_that_writes_behind_its_arena_is_rejected_at_once(kind: str, fault: int) -> None:
    active, candidate, inputs = KINDS[kind]
    pair = Pair(active, candidate)
    for x in inputs[:5]:
        assert not pair.infer(x)
    pair.device.misbehave(fault, pair.other)
    for x in inputs[5:]:
        assert not pair.infer(x)
        assert pair.verdict() == (SlotState.REJECTED, Reason.INFERENCE_FAILED)
    pair.device.run(2000)
    (fault,) = pair.device.events(EventKind.FAULT)
    assert (fault["image"], fault["detail"]) == (candidate.id, OVERRUN_STATUS)


def test_an_overrun_in_testing_is_answered_by_the_fallback() -> None:
    device, service = installed(V1)
    service.assign(V2, confirm_min_inferences=50)
    assert device.run_until(lambda d: d.answering == V2.id)
    device.misbehave(OVERRUN, device.info.answering)
    twin, _ = installed(V1)
    for x in IMAGES[:3]:
        assert device.infer(x)[:2] == twin.infer(x)[:2]
        assert device.answering == V1.id
