"""Models that keep state on the real agent: areas of their own, beginnings, shadow runs with warm-up within a duty."""

from typing import Any

import numpy as np
import pytest

from agent.agent.rig import RESET, STOPS, Device, Release, Service, holds, installed, release
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.test_runtime_state import entry
from tinyfleet_compiler.image import Golden, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.simulate import golden_crc
from tinyfleet_ota.protocol import Reason, SlotState

SIZE, FIRST = 8, 5
KNOBS = ("FLEET_SHADOW_WARM_UP=3U", "FLEET_SHADOW_RUN=4U", "FLEET_SHADOW_DUTY_PCT=50U", "FLEET_MODELS_MAX=2")
"""With a second model for test_agent_components.py, so that one build serves both."""


def _lag(lag: int, golden: Golden, out: int = SIZE) -> ImageBuilder:
    """The output is the input of `lag` inferences ago; before that a row whose largest value is the first."""
    ops, at = [], SIZE
    for index in range(lag):  # the oldest first: each variable is read, then takes over the next one's value
        place = {"input": at, "output": at, "overlap_bytes": 0, "state": SIZE * index, "size": SIZE}
        ops.append(Op(OpCode.STATE_READ, place))
        if index:
            ops.append(Op(OpCode.STATE_WRITE, place | {"state": SIZE * (index - 1)}))
        at += SIZE
    ops.append(
        Op(
            OpCode.STATE_WRITE,
            {"input": 0, "output": 0, "overlap_bytes": 0, "state": SIZE * (lag - 1), "size": SIZE},
        )
    )
    states = tuple(entry(SIZE * index, SIZE) for index in range(lag))
    inputs, outputs = [Io(0, (SIZE,), 1.0, 0, "x")], [Io(SIZE, (out,), 1.0, 0, "y")]
    return ImageBuilder(at, inputs, outputs, ops, name=f"lag{lag}", golden=golden, states=states)


def lag_image(lag: int, counter: int, out: int = SIZE) -> Release:
    draft = read_image(_lag(lag, Golden((FIRST,), 0), out).build())
    return release(0, counter, data=_lag(lag, Golden((FIRST,), golden_crc(draft, (FIRST,))), out).build())


ONE, TWO, THREE = lag_image(1, 1), lag_image(2, 2), lag_image(3, 3)
WIDE = lag_image(2, 4, 2 * SIZE)
"""Answers with more than the product has room for."""
X = np.random.default_rng(4).integers(-128, 128, (200, SIZE)).astype(np.int8)


class Streamer(Device):
    """Infers the rows of X in order; what the test needs for confirmation too."""

    at = 0

    def infer(self, x: Any = None) -> tuple[int, int, int]:
        if x is None:
            x = X[self.at % len(X)]
            self.at += 1
        return super().infer(x)


def test_a_model_answers_with_what_it_kept_and_begins_anew_after_a_boot() -> None:
    device, _ = installed(ONE, Streamer(state_bytes=32))
    assert device.boot() == 0
    assert device.run_until(lambda d: holds(d, ONE))
    tops = [device.infer(x)[1] for x in X[:6]]
    assert tops == [0, *(int(x.argmax()) for x in X[:5])]
    assert device.lib.rig_reset_stream(device.rig) == 0
    assert [device.infer(x)[1] for x in X[6:8]] == [0, int(X[6].argmax())]
    assert device.boot() == 0
    assert device.infer(X[0])[1] == 0


@pytest.mark.parametrize("room", [0, 16])
def test_a_candidate_that_keeps_more_than_its_area_is_rejected(room: int) -> None:
    device = Streamer(state_bytes=room)
    service = Service(device.broker)
    assert device.boot() == 0
    service.assign(THREE)
    rejected = (SlotState.REJECTED, Reason.SHADOW_NO_RAM)
    assert device.run_until(lambda d: any((d.slot(s).state, d.slot(s).reason) == rejected for s in (0, 1)))


def test_a_candidate_whose_answer_has_no_room_is_reverted_and_the_fallback_answers() -> None:
    device, service = installed(ONE, Streamer(state_bytes=32))
    device.lib.rig_output_room(device.rig, SIZE)
    service.assign(WIDE)
    assert device.run_until(lambda d: d.answering == WIDE.id)
    assert device.infer()[0] == 0
    assert (device.answering, device.slot(device.info.active ^ 1).reason) == (ONE.id, Reason.INFERENCE_FAILED)
    device.lib.rig_output_room(device.rig, SIZE - 1)
    assert (device.infer()[0], device.answering) == (-15, ONE.id)


def shadow(lag: Release, knobs: tuple[str, ...]) -> Device:
    device, service = installed(ONE, Streamer(state_bytes=32, knobs=knobs))
    service.assign(lag, SlotState.SHADOW)
    assert device.run_until(
        lambda d: any(d.slot(s).state == SlotState.SHADOW and d.slot(s).image == lag.id for s in (0, 1))
    )
    assert device.lib.rig_reset_stream(device.rig) == 0
    return device


def counted(device: Device, item: Release) -> tuple[int, int]:
    device.run(61_000)
    counters = device.telemetry()[item.id]
    return counters["shadow_inferences"], counters["shadow_agree"]


def agreement(warm_up: int, run: int, cycle: int, count: int) -> tuple[int, int]:
    """(inferences, agreements) of a lag of two beside a lag of one over X[:count]: each run begins anew."""
    seen = same = 0
    for at in range(count):
        position = at % cycle
        if not warm_up <= position < warm_up + run:
            continue
        candidate = int(X[at - 2].argmax()) if position >= 2 else 0
        seen += 1
        same += candidate == int(X[at - 1].argmax())
    return seen, same


def test_a_candidate_with_state_shadows_in_runs_with_warm_up_within_its_duty() -> None:
    device = shadow(TWO, KNOBS)
    before = counted(device, TWO)
    assert device.lib.rig_reset_stream(device.rig) == 0
    for x in X[:60]:
        device.infer(x)
    after = counted(device, TWO)
    assert (after[0] - before[0], after[1] - before[1]) == agreement(3, 4, 14, 60)


def test_without_a_pause_the_run_never_ends() -> None:
    device = shadow(TWO, ("FLEET_SHADOW_WARM_UP=3U", "FLEET_SHADOW_RUN=4U"))
    before = counted(device, TWO)
    assert device.lib.rig_reset_stream(device.rig) == 0
    for x in X[:40]:
        device.infer(x)
    after = counted(device, TWO)
    assert (after[0] - before[0], after[1] - before[1]) == agreement(3, 1000, 1003, 40)


def test_the_candidates_state_is_its_own_and_new_when_it_takes_over() -> None:
    device = shadow(TWO, ())
    for x in X[:5]:
        device.infer(x)
    service = Service(device.broker, sequence=10)
    service.assign(TWO)
    assert device.run_until(lambda d: d.answering == TWO.id)
    assert [device.infer(x)[1] for x in X[:4]] == [0, 0, int(X[0].argmax()), int(X[1].argmax())]


def test_a_duty_holds_for_candidates_that_keep_nothing_too() -> None:
    first, second = release(0, 1), release(1, 2)
    device, service = installed(first, Device(knobs=KNOBS))
    service.assign(second, SlotState.SHADOW)
    assert device.run_until(lambda d: any(d.slot(s).state == SlotState.SHADOW for s in (0, 1)))
    for _ in range(40):
        device.infer()
    assert counted(device, second)[0] == 20
    device.infer()  # its turn
    device.misbehave(STOPS, device.info.active ^ 1)
    assert device.infer()[0] == 0  # its pause: none of its code runs
    assert device.infer()[0] == RESET
