"""What the devices of a plan can decide at all, stage by stage, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from tinyfleet_service.analysis import count_draws, deciding_looks, silences_that_stop, smallest_p
from tinyfleet_service.database.models import FIRMWARE
from tinyfleet_service.rollouts.plan_stages import draw_sizes
from tinyfleet_service.rollouts.planned import Plan
from tinyfleet_service.rollouts.policy import Policy
from tinyfleet_service.rollouts.snapshots import most_controls
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES
from tinyfleet_service.words import quantity


def decidable(plan: Plan, stages: Sequence[dict[str, Any]], shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Per stage and gate, whether these devices can decide it at all, and why not."""
    rows = []
    for stage in stages:
        wave = int(stage["key"].partition("/")[2] or 0)
        if "shadow" in stage["gates"]:
            text = _decidable_shadow(plan, stage["devices"])
            rows.append({"stage": stage["key"], "gate": "shadow", "can": True, "text": text})
        if "accuracy" in stage["gates"]:
            rows.append(_decidable_accuracy(plan, stage["key"], wave, shares))
        if plan.spec.policy("accuracy") == Policy.PROXY and "drift" in stage["gates"]:
            text = (
                "by proxy: answers that drift from the controls', by class or confidence, hold; nothing here knows "
                "which answers are right"
            )
            rows.append({"stage": stage["key"], "gate": "drift", "can": True, "text": text})
        elif (
            "accuracy" not in stage["gates"] and stage["key"] != "shadow" and plan.spec.policy("accuracy") != Policy.OFF
        ):
            text = f"not decided here: {_why_undecidable(plan, wave)}"
            rows.append({"stage": stage["key"], "gate": "accuracy", "can": False, "text": text})
        if "silence" in stage["gates"] and stage["key"] != "shadow":
            rows.append(_decidable_silence(plan, stage["key"], wave, shares))
    return rows


def _decidable_shadow(plan: Plan, devices: int) -> str:
    spec = plan.spec
    if spec.policy("shadow") == Policy.PROXY:
        return (
            f"{quantity(devices, 'device')}, at least {spec.min_inferences} answers each; by proxy: at most "
            f"{spec.disagreement:.0%} of the answers may differ from the active model's"
        )
    return (
        f"{quantity(devices, 'device')}, at least {spec.min_labels} labelled pairs each{_after(plan)}; a drop of 5 "
        "points shows after some 200 labelled pairs, 2 points of margin need some thousand"
    )


def _why_undecidable(plan: Plan, wave: int) -> str:
    if plan.component != FIRMWARE and not any(build is not None for build in plan.previous_builds.values()):
        return "no earlier version to compare with"
    if wave == plan.draw.waves - 1:
        return "no control is left"
    return f"too few devices ({plan.draw.count(wave):,}), the canary's verdict stands"


def _decidable_accuracy(plan: Plan, key: str, wave: int, shares: Mapping[str, float]) -> dict[str, Any]:
    sizes = draw_sizes(plan.draw, wave)
    p = smallest_p(sizes)
    harm = deciding_looks(shares.get(f"accuracy|{key}|{ALL_CLASSES}", plan.spec.alpha), p)
    promote = deciding_looks(plan.spec.alpha, p)
    canaries = sum(treated for treated, control in sizes if control)
    text = (
        f"{quantity(canaries, 'canary', 'canaries')}, {draws_text(count_draws(sizes))} possible draws, "
        f"smallest p {p:.2g}: {quantity(promote, 'look')} can promote, {harm} can roll back, "
        f"at least {plan.spec.min_labels} labels per device{_after(plan)}"
    )
    if not promote:
        text += "; this draw cannot decide: take more canaries, or --gate accuracy=advisory"
    return {"stage": key, "gate": "accuracy", "can": promote > 0, "text": text}


def _decidable_silence(plan: Plan, key: str, wave: int, shares: Mapping[str, float]) -> dict[str, Any]:
    sizes = [(own, min(later, most_controls(own))) for own, later in draw_sizes(plan.draw, wave) if own]
    devices, controls = plan.draw.count(wave), sum(matched for _, matched in sizes)
    stop = silences_that_stop(sizes, shares.get(f"silence|{key}|{ALL_CLASSES}", plan.spec.alpha))
    beside = f" while none of {controls} controls is" if controls else ", with no control to compare with"
    if stop:
        text = f"{stop} of {devices} devices that fall silent roll it back{beside}"
    else:
        who = "one device that falls silent" if devices == 1 else f"{devices} devices that all fall silent"
        text = f"{who} would hold it to its deadline{beside}, not roll it back"
    return {"stage": key, "gate": "silence", "can": stop is not None, "text": text}


def _after(plan: Plan) -> str:
    """How long a device takes to get the labels that are wanted, as far as labels came before."""
    if plan.labels_per_s is None:
        return ""
    seconds = plan.spec.min_labels / plan.labels_per_s
    return (
        f", after about {seconds / 3600:.1f} h" if seconds >= 3600 else f", after about {max(seconds / 60, 1):.0f} min"
    )


def draws_text(draws: int) -> str:
    """A number of draws for people; a large fleet's has more digits than Python prints."""
    return f"{draws:,}" if draws < 10**15 else f"10^{log10(draws):.0f}"
