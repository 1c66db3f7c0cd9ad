"""The stages of a plan, their gates, and the share of alpha that each test gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyfleet_service.analysis import alpha_shares, deciding_looks, smallest_p
from tinyfleet_service.database.models import FIRMWARE, Build, RolloutStage
from tinyfleet_service.rollouts.gates import wave_decides
from tinyfleet_service.rollouts.membership import Draw
from tinyfleet_service.rollouts.planned import Plan
from tinyfleet_service.rollouts.policy import GATES, Policy
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Stage

GUARDED_STAGE = {
    RolloutStage.SHADOW: ("shadow", "faults", "silence"),
    RolloutStage.CANARY: ("accuracy", "faults", "silence", "latency", "drift"),
    RolloutStage.WAVES: ("accuracy", "faults", "silence", "latency", "drift"),
}
_FIRMWARE_NOTE = (
    "firmware: faults, accuracy and latency are those of the model in model/0, before and after; without labels "
    "accuracy cannot be decided: --gate accuracy=off"
)
NEEDS_CONTROL = ("accuracy", "latency", "drift")
NEVER_ROLLS_BACK = ("drift",)


def plan_stages(plan: Plan, previous: Mapping[str, Build | None]) -> tuple[list[dict[str, Any]], list[str]]:
    """Stages with their gates; what is skipped says why."""
    firmware = plan.component == FIRMWARE
    first = not firmware and not any(previous.values())
    canaries = plan.draw.in_wave(0)
    shadowing = [p for p in canaries if previous.get(p.device_id) and fits_shadow(plan.builds[p.device_class])]
    notes: list[str] = []
    reason = ""
    if plan.spec.policy("shadow") == Policy.OFF:
        reason = "switched off by --gate shadow=off"
    elif firmware:
        reason = "two firmwares do not run beside each other"
    elif not any(previous.get(p.device_id) for p in canaries):
        reason = "no canary runs an earlier version to compare with"
    elif not shadowing:
        reason = "two models do not fit in the RAM of the canaries' classes"
    if first:
        notes.append("first version: accuracy and latency have nothing to be compared with, their gates are off")
    if firmware:
        notes.append(_FIRMWARE_NOTE)
    stages = [_stage(plan, Stage(RolloutStage.SHADOW), len(shadowing), reason, first)]
    later = [Stage(RolloutStage.CANARY), *(Stage(RolloutStage.WAVES, wave) for wave in range(1, plan.draw.waves))]
    return stages + [_stage(plan, stage, plan.draw.count(stage.wave), "", first) for stage in later], notes


def _stage(plan: Plan, stage: Stage, devices: int, skipped: str, first: bool) -> dict[str, Any]:
    gates = [gate for gate in GUARDED_STAGE[stage.name] if plan.spec.policy(gate) != Policy.OFF]
    if plan.spec.policy("accuracy") == Policy.PROXY:
        gates = [gate for gate in gates if gate != "accuracy"]
    if first or stage.wave == plan.draw.waves - 1:  # nothing before, or nobody left to be control
        gates = [gate for gate in gates if gate not in NEEDS_CONTROL]
    elif stage.name == RolloutStage.WAVES and not wave_decides(plan.spec, draw_sizes(plan.draw, stage.wave)):
        gates = [gate for gate in gates if gate != "accuracy"]
    return {
        "key": stage.key,
        "devices": devices,
        "holdout": any(cell.holdout for cell in plan.draw.cells if cell.wave == stage.wave),
        "gates": [] if skipped else gates,
        "skipped": skipped,
    }


def fits_shadow(build: Build) -> bool:
    """Whether a device of the build's class has room for two models; what its report does not say is yes."""
    fits = build.report.get("fits") if isinstance(build.report, dict) else None
    return bool(fits.get("shadow", True)) if isinstance(fits, dict) else True


def plan_alpha(plan: Plan, stages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """alpha by `gate|stage|scope`, for required gates that can roll back."""
    tests: dict[str, dict[str, list[str]]] = {}
    for stage in stages:
        for gate in stage["gates"]:
            if plan.spec.policy(gate) == Policy.REQUIRED and gate not in NEVER_ROLLS_BACK:
                tests.setdefault(gate, {})[stage["key"]] = _scopes(plan, gate, stage["key"])
    return {"|".join(key): share for key, share in alpha_shares(plan.spec.alpha, tests).items()}


def _scopes(plan: Plan, gate: str, key: str) -> list[str]:
    wave = int(key.partition("/")[2] or 0)
    classes = sorted({cell.device_class for cell in plan.draw.cells if cell.wave == wave})
    if gate in ("faults", "latency"):
        return classes
    if gate in ("silence", "shadow") or len(plan.builds) == 1:
        return [ALL_CLASSES]
    # A class whose draw cannot decide at the share it would get would only take alpha from the others.
    required = sum(plan.spec.policy(name) == Policy.REQUIRED for name in GATES if name not in NEVER_ROLLS_BACK)
    level = plan.spec.alpha / (2 * required * (1 + len(classes)))
    return [ALL_CLASSES, *(c for c in classes if deciding_looks(level, smallest_p(draw_sizes(plan.draw, wave, c))))]


def draw_sizes(draw: Draw, wave: int, device_class: str | None = None) -> list[tuple[int, int]]:
    """Canaries and controls per stratum for the randomisation test of one wave."""
    counts: dict[str, list[int]] = {}
    for cell, devices in draw.cells.items():
        if cell.wave >= wave and device_class in (None, cell.device_class):
            counts.setdefault(cell.stratum, [0, 0])[cell.wave > wave] += devices
    return [(treated, control) for treated, control in counts.values()]
