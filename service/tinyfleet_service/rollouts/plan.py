"""The plan: what a rollout would do, with which devices, and what those devices can decide. Nothing is changed here."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import log10
from typing import Any, Protocol

from sqlmodel import Session, col, select

from tinyfleet_service.analysis import alpha_shares, count_draws, deciding_looks, smallest_p
from tinyfleet_service.database.models import (
    FIRMWARE,
    MODEL,
    Build,
    BuildState,
    MemberStatus,
    Model,
    ModelVersion,
    Rollout,
    RolloutMember,
    RolloutStage,
    StableBuild,
    TransferBlob,
    utc_now,
)
from tinyfleet_service.errors import NotFoundError, PlanError
from tinyfleet_service.publish import all_choices, base_ids, form_of, running_image
from tinyfleet_service.rollouts.admit import known_zone
from tinyfleet_service.rollouts.gates import wave_decides
from tinyfleet_service.rollouts.membership import Candidate, Draw, draw_members, stratum_of
from tinyfleet_service.rollouts.observe import heard_at, image_id, silence_s
from tinyfleet_service.rollouts.select_devices import FleetDevice, devices_for
from tinyfleet_service.rollouts.spec import GATES, Policy, RolloutSpec
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Stage
from tinyfleet_service.telemetry import Counters

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
UNLABELLED = 1000
"""After so many answers without one label, labels are not about to come."""


@dataclass(frozen=True)
class ClassBuild:
    """The build a class gets, and what its devices run now."""

    build: Build
    devices: int
    canaries: int
    previous: tuple[Build, ...]


@dataclass(frozen=True)
class Plan:
    """An accepted or refused-later plan; `document` is what is shown and stored."""

    spec: RolloutSpec
    version_id: int
    previous_version_id: int | None
    component: str
    salt: str
    draw: Draw
    builds: dict[str, Build]
    previous_builds: dict[str, int | None]
    bases: dict[str, int | None]
    document: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as shown to people and stored with the rollout."""
        return self.document


class Reports(Protocol):
    """What a plan reads of telemetry."""

    def last_heard(self, device_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When each device's newest report arrived."""
        ...

    def totals(self) -> Mapping[str, Counters]:
        """Counters per image id, over all devices and boots."""
        ...


def make_plan(session: Session, spec: RolloutSpec, reports: Reports | None = None) -> Plan:
    """Plan `spec` on the fleet as it is now. With `reports`, devices that say nothing are drawn last, and accuracy is
    not promised where labels never came. Raises NotFoundError, PlanError (all problems at once), SelectorError.
    """
    model, version = find_version(session, spec)
    devices, warnings = _taking_part(spec, model.component, devices_for(session, spec.project_id, spec.where))
    builds = _builds_by_class(session, spec, version, {d.device_class for d in devices})
    images = {name: image_id(build.image_sha256) for name, build in builds.items()}
    runs = {d.id: running_image(d, model.component) for d in devices}
    others = [d for d in devices if runs[d.id] != images[d.device_class]]
    if len(others) < len(devices):
        running = len(devices) - len(others)
        warnings.append(f"{running} devices run {spec.model}:{spec.version} already and take no part")
        devices = others
    if not devices:
        raise PlanError(
            f"no device would get {spec.model}:{spec.version}",
            next="check `fleetctl device list`, --where and --skip-class"
            + (f"; its component is {model.component}" if model.component != MODEL else ""),
        )
    if reports is not None:
        _check_labels(spec, {running_image(d, MODEL) for d in devices}, reports.totals())
    if spec.window is not None:
        warnings += _zone_warnings(devices)
    previous = previous_builds(session, spec.project_id, model.component, devices, runs)
    salt = secrets.token_hex(8)
    quiet = _quiet(devices, reports)
    if quiet:
        warnings.append(f"{len(quiet)} devices say nothing at the moment and are drawn last")
    strata = _Strata(spec.stratify_by)
    candidates = [Candidate(d.id, d.device_class, strata.of(d), d.id in quiet) for d in devices]
    draw = draw_members(candidates, spec.canary, spec.waves, salt)
    ids = {device: build.id if build else None for device, build in previous.items()}
    bases = base_ids(session, ((device, builds[device.device_class]) for device in devices), model.component, runs)
    versions = Counter(build.version_id for build in previous.values() if build)
    assert version.id is not None
    plan = Plan(
        spec=spec,
        version_id=version.id,
        previous_version_id=versions.most_common(1)[0][0] if versions else None,
        component=model.component,
        salt=salt,
        draw=draw,
        builds=builds,
        previous_builds=ids,
        bases=bases,
    )
    plan.document.update(_describe(session, plan, previous, warnings))
    return plan


class _Strata:
    """`stratum_of` of many devices, most of which are alike."""

    def __init__(self, stratify_by: Sequence[str]) -> None:
        self._tags, self._known = stratify_by, dict[tuple[str | None, ...], str]()

    def of(self, device: FleetDevice) -> str:
        """The stratum of this device."""
        alike = device.device_class, *map(device.tags.get, self._tags)
        if alike not in self._known:
            self._known[alike] = stratum_of(device.device_class, device.tags, self._tags)
        return self._known[alike]


def _check_labels(spec: RolloutSpec, running: set[str | None], totals: Mapping[str, Counters]) -> None:
    """Raises PlanError when labels decide, and these devices have answered often without getting one."""
    counted = [totals[image] for image in running if image is not None and image in totals]
    answers = sum(counters.inferences for counters in counted)
    labels = sum(counters.labelled + sum(counters.shadow_pairs) for counters in counted)
    wanting = [gate for gate in ("shadow", "accuracy") if spec.policy(gate) == Policy.REQUIRED]
    if wanting and not labels and answers >= UNLABELLED:
        raise PlanError(
            f"accuracy cannot be decided: what these devices run has answered {answers} times and got no label",
            next="--gate accuracy=proxy judges by agreement in shadow and drift afterwards; or leave "
            + " and ".join(f"--gate {gate}=off" for gate in wanting),
            gates=wanting,
        )


def _quiet(devices: Sequence[FleetDevice], reports: Reports | None) -> set[str]:
    """Devices that are silent by the measure of rule 3 of the state machine; nobody where telemetry is not at hand."""
    if reports is None:
        return set()
    now, last = utc_now(), reports.last_heard([device.id for device in devices])
    heard = ((device, heard_at(device, last.get(device.id))) for device in devices)
    return {device.id for device, at in heard if at is None or now - at > timedelta(seconds=silence_s(device))}


def transfer_pairs(plan: Plan) -> list[tuple[int, int | None]]:
    """(build, base build) pairs whose transfer blobs this plan needs: for the bases that its devices run now.

    `publish.prepare_transfers` computes them.
    """
    wanted = {(plan.builds[place.device_class].id or 0, plan.bases[place.device_id]) for place in plan.draw.places}
    return sorted(wanted, key=lambda pair: (pair[0], pair[1] or 0))


def find_version(session: Session, spec: RolloutSpec) -> tuple[Model, ModelVersion]:
    """The model and version a spec names. Raises NotFoundError."""
    model = session.exec(select(Model).where(Model.project_id == spec.project_id, Model.name == spec.model)).first()
    query = select(ModelVersion).where(ModelVersion.version == spec.version)
    version = session.exec(query.where(ModelVersion.model_id == model.id)).first() if model else None
    if model is None or version is None:
        name = f"{spec.model}:{spec.version}"
        raise NotFoundError(f"no version {name}", next="`fleetctl model push` registers one", what="version", name=name)
    return model, version


def previous_builds(
    session: Session,
    project_id: int,
    component: str,
    devices: Sequence[FleetDevice],
    runs: Mapping[str, str | None],
) -> dict[str, Build | None]:
    """What each device would go back to: the build it `runs` (image ids), else its class's stable build, else None.

    A device that is still on its way back from another rollout counts as being there already, and so does one that has
    not confirmed another rollout's candidate (the plan supersedes that rollout, or is refused).
    """
    ready = session.exec(select(Build).where(Build.state == BuildState.READY))
    by_image = {(b.device_class, image_id(b.image_sha256)): b for b in ready}
    stable_rows = session.exec(
        select(StableBuild).where(StableBuild.project_id == project_id, StableBuild.component == component)
    )
    stable = {row.device_class: session.get(Build, row.build_id) for row in stable_rows}
    unsure = (MemberStatus.UNDOING, MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, MemberStatus.TESTING)
    of_component = select(Rollout.id).where(Rollout.component == component)
    undoing = session.exec(
        select(RolloutMember).where(
            col(RolloutMember.status).in_(unsure), col(RolloutMember.rollout_id).in_(of_component)
        )
    )
    target = {member.device_id: session.get(Build, member.previous_build_id) for member in undoing}
    return {
        d.id: target.get(d.id) or by_image.get((d.device_class, runs[d.id])) or stable.get(d.device_class)
        for d in devices
    }


def _taking_part(spec: RolloutSpec, component: str, devices: list[FleetDevice]) -> tuple[list[FleetDevice], list[str]]:
    kept = [d for d in devices if d.device_class not in spec.skip_class]
    warnings = [f"{len(devices) - len(kept)} devices left out by --skip-class"] if len(kept) < len(devices) else []
    if component == MODEL:  # every agent has it
        return kept, warnings
    able = [d for d in kept if f'"{component}"' in d.reported]
    if len(able) < len(kept):
        warnings.append(f"{len(kept) - len(able)} devices do not report a component {component} and take no part")
    return able, warnings


def _builds_by_class(session: Session, spec: RolloutSpec, version: ModelVersion, classes: set[str]) -> dict[str, Build]:
    """A READY build for every class. Raises PlanError listing the classes without one."""
    rows = session.exec(select(Build).where(Build.version_id == version.id))
    builds = {build.device_class: build for build in rows}
    problems = []
    for name in sorted(classes):
        build = builds.get(name)
        if build is None or build.state != BuildState.READY:
            why = f"{build.state}: {build.error}" if build and build.error else build.state if build else "no build"
            problems.append(f"class {name} has no usable build ({why})")
    if problems:
        raise PlanError(
            f"{spec.model}:{spec.version} cannot go to every class: " + "; ".join(problems),
            next="wait for the build, fix the model, or leave the class out with --skip-class",
            problems=problems,
        )
    return {name: builds[name] for name in classes}


# ---- the document
# -----------------------------------------------------------------------------------------------------


def _describe(session: Session, plan: Plan, previous: dict[str, Build | None], warnings: list[str]) -> dict[str, Any]:
    stages, notes = plan_stages(plan, previous)
    shares = plan_alpha(plan, stages)
    decidable = _decidable(plan, stages, shares)
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
        "alpha": shares,
        "margin": plan.spec.margin,
        "min_labels": plan.spec.min_labels,
        "min_inferences": plan.spec.min_inferences,
        "soak_s": plan.spec.soak_s,
        "deadline_s": plan.spec.deadline_s,
        "bytes_full": sum(c["bytes_full"] for c in classes),
        "bytes_expected": sum(c["bytes_expected"] for c in classes),
        "limits": _limits(plan.spec),
        "decidable": decidable,
        "undo": _undo_text(previous),
        "warnings": warnings + notes + _stratum_warnings(strata),
    }


def _limits(spec: RolloutSpec) -> dict[str, Any]:
    """How fast devices may begin, as asked for."""
    names = ("window", "max_in_flight", "max_bytes_per_hour", "start_spread_s")
    return {name: getattr(spec, name) for name in names if getattr(spec, name)}


def _zone_warnings(devices: Sequence[FleetDevice]) -> list[str]:
    """Devices whose window is read in UTC."""
    zones = [str(device.tags.get("timezone", "")) for device in devices]
    lost = sum(not zone or not known_zone(zone) for zone in zones)
    return [f"{lost} devices have no tag `timezone` that is known here: their window is read in UTC"] if lost else []


def plan_stages(plan: Plan, previous: dict[str, Build | None]) -> tuple[list[dict[str, Any]], list[str]]:
    """Stages with their gates; what is skipped says why."""
    firmware = plan.component == FIRMWARE
    first = not firmware and not any(previous.values())
    canaries = plan.draw.in_wave(0)
    shadowing = [p for p in canaries if previous.get(p.device_id) and _fits_shadow(plan.builds[p.device_class])]
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


def _fits_shadow(build: Build) -> bool:
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


def _decidable(plan: Plan, stages: Sequence[dict[str, Any]], shares: dict[str, float]) -> list[dict[str, Any]]:
    """Per stage and gate, whether these devices can decide it at all, and why not."""
    rows = []
    for stage in stages:
        wave = int(stage["key"].partition("/")[2] or 0)
        if "shadow" in stage["gates"]:
            text = _decidable_shadow(plan.spec, stage["devices"])
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
    return rows


def _decidable_shadow(spec: RolloutSpec, devices: int) -> str:
    if spec.policy("shadow") == Policy.PROXY:
        return (
            f"{devices} devices, at least {spec.min_inferences} answers each; by proxy: at most "
            f"{spec.disagreement:.0%} of the answers may differ from the active model's"
        )
    return (
        f"{devices} devices, at least {spec.min_labels} labelled pairs each; a drop of 5 points "
        "shows after some 200 labelled pairs, 2 points of margin need some thousand"
    )


def _why_undecidable(plan: Plan, wave: int) -> str:
    if plan.component != FIRMWARE and not any(build is not None for build in plan.previous_builds.values()):
        return "no earlier version to compare with"
    if wave == plan.draw.waves - 1:
        return "no control is left"
    return f"{plan.draw.count(wave)} devices are too few, the canary's verdict stands"


def _decidable_accuracy(plan: Plan, key: str, wave: int, shares: dict[str, float]) -> dict[str, Any]:
    sizes = draw_sizes(plan.draw, wave)
    p = smallest_p(sizes)
    harm = deciding_looks(shares.get(f"accuracy|{key}|{ALL_CLASSES}", plan.spec.alpha), p)
    promote = deciding_looks(plan.spec.alpha, p)
    canaries = sum(treated for treated, control in sizes if control)
    text = (
        f"{canaries} canaries, {draws_text(count_draws(sizes))} possible draws, smallest p {p:.2g}: "
        f"{promote} looks can promote, {harm} can roll back, at least {plan.spec.min_labels} labels per device"
    )
    if not promote:
        text += "; this draw cannot decide: take more canaries, or --gate accuracy=advisory"
    return {"stage": key, "gate": "accuracy", "can": promote > 0, "text": text}


def draws_text(draws: int) -> str:
    """A number of draws for people; a large fleet's has more digits than Python prints."""
    return str(draws) if draws < 10**15 else f"10^{log10(draws):.0f}"


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
        "fits_shadow": _fits_shadow(build),
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


def _undo_text(previous: dict[str, Build | None]) -> str:
    without = sum(build is None for build in previous.values())
    text = "devices go back from their second slot, without a download, until the next update erases it"
    if not without:
        return text
    if without == len(previous):
        return "not possible: there is no earlier version to go back to"
    return f"{text}; {without} devices have nothing to go back to"


def members_of_plan(plan: Plan, rollout_id: int) -> Iterator[dict[str, Any]]:
    """Rows of `RolloutMember` for the drawn places, as plain values: a fleet has many."""
    builds = {name: build.id for name, build in plan.builds.items()}
    for place in plan.draw.places:
        yield {
            "rollout_id": rollout_id,
            "device_id": place.device_id,
            "device_class": place.device_class,
            "stratum": place.stratum,
            "rank": place.rank,
            "wave": place.wave,
            "holdout": place.holdout,
            "joiner": False,
            "build_id": builds[place.device_class],
            "previous_build_id": plan.previous_builds.get(place.device_id),
            "status": MemberStatus.PLANNED.value,
            "reason": 0,
            "bytes_full": 0,
            "bytes_sent": 0,
        }
