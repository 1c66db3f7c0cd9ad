"""The document of a plan: what people are shown, and what is stored with the rollout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import FIRMWARE, Build, TransferBlob
from tinyfleet_service.publish import all_choices, form_of
from tinyfleet_service.rollouts.decidable import decidable
from tinyfleet_service.rollouts.membership import Draw
from tinyfleet_service.rollouts.plan_stages import fits_shadow, plan_alpha, plan_stages
from tinyfleet_service.rollouts.planned import Plan
from tinyfleet_service.rollouts.policy import GATES
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.words import quantity


def describe_plan(
    session: Session, plan: Plan, previous: Mapping[str, Build | None], warnings: Sequence[str]
) -> dict[str, Any]:
    """`Plan.document`; `warnings` are of the selection, `previous` is the build that each device would go back to."""
    stages, notes = plan_stages(plan, previous)
    shares = plan_alpha(plan, stages)
    can_decide = decidable(plan, stages, shares)
    bases = Counter((place.device_class, plan.bases[place.device_id]) for place in plan.draw.places)
    classes = [_describe_class(session, plan, name, bases) for name in sorted(plan.builds)]
    strata = _describe_strata(plan.draw)
    return {
        "version": f"{plan.spec.model}:{plan.spec.version}",
        "devices": len(plan.draw.places),
        "canary_devices": plan.draw.count(0),
        "classes": classes,
        "strata": strata,
        "stages": stages,
        "shares": list(plan.draw.shares),
        "gates": {gate: str(plan.spec.policy(gate)) for gate in GATES},
        "gates_from": plan.gates_from,
        "alpha": shares,
        "margin": plan.spec.margin,
        "min_labels": plan.spec.min_labels,
        "min_inferences": plan.spec.min_inferences,
        "soak_s": plan.spec.soak_s,
        "deadline_s": plan.spec.deadline_s,
        "bytes_full": sum(c["bytes_full"] for c in classes),
        "bytes_expected": sum(c["bytes_expected"] for c in classes),
        "limits": _limits(plan.spec),
        "decidable": can_decide,
        "undo": _undo_text(previous),
        "warnings": [*warnings, *notes, *_stratum_warnings(strata), *_time_warnings(plan)],
    }


def _limits(spec: RolloutSpec) -> dict[str, Any]:
    """How fast devices may begin, as asked for."""
    names = ("window", "max_in_flight", "max_bytes_per_hour", "start_spread_s")
    return {name: getattr(spec, name) for name in names if getattr(spec, name)}


def _describe_class(
    session: Session, plan: Plan, name: str, counted: Mapping[tuple[str, int | None], int]
) -> dict[str, Any]:
    """What a class gets; `counted`: devices by class and base build."""
    build, cells = plan.builds[name], [item for item in plan.draw.cells.items() if item[0].device_class == name]
    devices = sum(count for _, count in cells)
    bases = {_digest_of(session, base): count for (of_class, base), count in counted.items() if of_class == name}
    image_bytes = build.image_bytes or 0
    transfers = [_transfer(session, build, base, count) for base, count in bases.items()]
    return {
        "device_class": name,
        "devices": devices,
        "canary_devices": sum(count for cell, count in cells if cell.wave == 0),
        "build_id": build.id,
        "image_bytes": image_bytes,
        "fits_shadow": fits_shadow(build),
        "bytes_full": image_bytes * devices,
        "bytes_expected": sum(t["bytes"] * t["devices"] for t in transfers),
        "transfers": transfers,
    }


def _digest_of(session: Session, build_id: int | None) -> str:
    return session.get_one(Build, build_id).image_sha256 or "" if build_id is not None else ""


def _transfer(session: Session, build: Build, base: str, devices: int) -> dict[str, Any]:
    """Bytes per device from `base`; until a delta has been computed, the full image is what is promised.

    `form` is "delta", "packed", "raw" or None: not computed yet. `choices` has the bytes of every form that was tried.
    """
    query = select(TransferBlob).where(TransferBlob.image_sha256 == build.image_sha256, ~col(TransferBlob.encrypted))
    blobs = list(session.exec(query.where(col(TransferBlob.base_sha256).in_({base, ""}))))
    row: dict[str, Any] = {"base": base[:12] or None, "devices": devices}
    if all(blob.base_sha256 != base for blob in blobs):
        return row | {"bytes": build.image_bytes or 0, "codec": None, "form": None, "choices": {}}
    blob = min(blobs, key=lambda blob: blob.blob_bytes)
    full, based = (next((b for b in blobs if b.base_sha256 == wanted), None) for wanted in ("", base))
    choices = all_choices(full, based or blob)
    return row | {"bytes": blob.blob_bytes, "codec": blob.codec, "form": form_of(blob), "choices": choices}


def _describe_strata(draw: Draw) -> list[dict[str, Any]]:
    strata: dict[str, dict[str, Any]] = {}
    for cell, devices in draw.cells.items():
        fresh = {"stratum": cell.stratum, "devices": 0, "waves": [0] * draw.waves, "holdout": 0}
        row = strata.setdefault(cell.stratum, fresh)
        row["devices"] += devices
        row["waves"][cell.wave] += devices
        row["holdout"] += devices if cell.holdout else 0
    return [row for _, row in sorted(strata.items())]


def _stratum_warnings(strata: Sequence[dict[str, Any]]) -> list[str]:
    empty = [s["stratum"] for s in strata if not s["waves"][0]]
    return [f"no canary in stratum {name}: nothing is learnt about it before the waves" for name in empty]


def _time_warnings(plan: Plan) -> list[str]:
    spec, warnings = plan.spec, []
    if spec.deadline_s <= spec.soak_s:
        warnings.append(
            f"no stage can pass: devices soak for {spec.soak_s:g} s and the deadline is after {spec.deadline_s:g} s; "
            "raise --deadline or lower --soak"
        )
    if plan.answers_per_s is not None and plan.component != FIRMWARE:
        answers = plan.answers_per_s * spec.confirm_timeout_s
        if answers < spec.confirm_min_inferences:
            warnings.append(
                f"devices answer too seldom to confirm: some {answers:.0f} times in the {spec.confirm_timeout_s} s of "
                f"their trial, {spec.confirm_min_inferences} are wanted, and who has fewer throws the version out, "
                "which is harm; lower --confirm-inferences or raise --confirm-timeout"
            )
    return warnings


def _undo_text(previous: Mapping[str, Build | None]) -> str:
    without = sum(build is None for build in previous.values())
    text = "devices go back from their second slot, without a download, until the next update erases it"
    if not without:
        return text
    if without == len(previous):
        return "not possible: there is no earlier version to go back to; only what is not installed yet is withdrawn"
    return f"{text}; with nothing to go back to, so keeping it: {quantity(without, 'device')}"
