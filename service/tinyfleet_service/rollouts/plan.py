"""The plan: what a rollout would do, with which devices, and what those devices can decide. Nothing is changed here."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlmodel import Session

from tinyfleet_service.database.models import FIRMWARE, MODEL, utc_now
from tinyfleet_service.errors import PlanError
from tinyfleet_service.publish import base_ids, running_image
from tinyfleet_service.rollouts.admit import known_zone
from tinyfleet_service.rollouts.describe_plan import describe_plan
from tinyfleet_service.rollouts.membership import Candidate, draw_members, stratum_of
from tinyfleet_service.rollouts.observe import heard_at, image_id, silence_s
from tinyfleet_service.rollouts.plan_builds import (
    Unsettled,
    builds_by_class,
    find_version,
    previous_builds,
    unsettled_devices,
)
from tinyfleet_service.rollouts.planned import Plan
from tinyfleet_service.rollouts.policy import Policy, gate_sources, parse_gates
from tinyfleet_service.rollouts.select_devices import FleetDevice, devices_for
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.telemetry import Counters
from tinyfleet_service.words import quantity

UNLABELLED = 1000
"""After so many answers without one label, labels are not about to come."""


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
    own = parse_gates(model.gates)
    sources, spec = gate_sources(spec.gates, own), spec.over(own)
    devices, warnings = _taking_part(spec, model.component, devices_for(session, spec.project_id, spec.where))
    builds = builds_by_class(session, spec, version, {d.device_class for d in devices})
    runs = {d.id: running_image(d, model.component) for d in devices}
    unsettled = unsettled_devices(session, model.component)
    images = {name: image_id(build.image_sha256) for name, build in builds.items()}
    have = {d.id for d in devices if runs[d.id] == images[d.device_class]}
    last = {device for device in have if _returns(unsettled.get(device))}
    devices = [d for d in devices if d.id not in have or d.id in last]
    warnings += _having_it(spec, len(have - last), len(last))
    if not devices:
        raise _nobody(spec, model.component, warnings)
    # Firmware goes by the model in model/0.
    models = {running_image(d, MODEL) if model.component == FIRMWARE else runs[d.id] for d in devices}
    counted = _counted(models, reports)
    _check_labels(spec, counted)
    if spec.window is not None:
        warnings += _zone_warnings(devices)
    previous = previous_builds(session, spec.project_id, model.component, devices, runs, unsettled)
    salt = secrets.token_hex(8)
    quiet = _quiet(devices, reports)
    if quiet:
        warnings.append(f"silent at the moment, so drawn last: {quantity(len(quiet), 'device')}")
    last |= quiet
    strata = _Strata(spec.stratify_by)
    candidates = [Candidate(d.id, d.device_class, strata.of(d), d.id in last) for d in devices]
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
        gates_from=sources,
        labels_per_s=counted.labelled / counted.active_s if counted.labelled and counted.active_s else None,
        answers_per_s=counted.inferences / counted.active_s if counted.inferences and counted.active_s else None,
    )
    plan.document.update(describe_plan(session, plan, previous, warnings))
    return plan


def _taking_part(spec: RolloutSpec, component: str, devices: list[FleetDevice]) -> tuple[list[FleetDevice], list[str]]:
    kept = [d for d in devices if d.device_class not in spec.skip_class]
    left_out = len(devices) - len(kept)
    warnings = [f"left out by --skip-class: {quantity(left_out, 'device')}"] if left_out else []
    if component == MODEL:  # every agent has it
        return kept, warnings
    able = [d for d in kept if f'"{component}"' in d.reported]
    if len(able) < len(kept):
        warnings.append(
            f"without a component {component}, so taking no part: {quantity(len(kept) - len(able), 'device')}"
        )
    return able, warnings


def _having_it(spec: RolloutSpec, stay: int, go_back: int) -> Iterator[str]:
    """Devices that run the version, and stay with it or are about to go back."""
    if stay:
        yield f"on {spec.model}:{spec.version} already, so taking no part: {quantity(stay, 'device')}"
    if go_back:
        yield f"about to go back from {spec.model}:{spec.version}, so drawn last: {quantity(go_back, 'device')}"


def _nobody(spec: RolloutSpec, component: str, warnings: Sequence[str]) -> PlanError:
    why = f": {'; '.join(warnings)}" if warnings else ""
    hint = f"; its component is {component}" if component != MODEL else ""
    return PlanError(
        f"no device would get {spec.model}:{spec.version}{why}",
        next=f"check `fleetctl device list`, --where and --skip-class{hint}",
    )


def _counted(images: set[str | None], reports: Reports | None) -> Counters:
    """All that was ever counted of these images."""
    totals = reports.totals() if reports is not None else {}
    return sum((totals[image] for image in images if image is not None and image in totals), Counters())


def _check_labels(spec: RolloutSpec, counted: Counters) -> None:
    """Raises PlanError when labels decide, and these devices have answered often without getting one."""
    labels = counted.labelled + sum(counted.shadow_pairs)
    wanting = [gate for gate in ("shadow", "accuracy") if spec.policy(gate) == Policy.REQUIRED]
    if wanting and not labels and counted.inferences >= UNLABELLED:
        raise PlanError(
            f"accuracy cannot be decided: what these devices run has answered {counted.inferences} times and got no "
            "label",
            next="--gate accuracy=proxy judges by agreement in shadow and drift afterwards; or leave "
            + " and ".join(f"--gate {gate}=off" for gate in wanting)
            + f"; `fleetctl model gates {spec.model} accuracy=proxy` says so for every rollout of the model",
            gates=wanting,
        )


def _zone_warnings(devices: Sequence[FleetDevice]) -> list[str]:
    """Devices whose window is read in UTC."""
    zones = [str(device.tags.get("timezone", "")) for device in devices]
    lost = sum(not zone or not known_zone(zone) for zone in zones)
    return [f"window in UTC, as no tag `timezone` is known here: {quantity(lost, 'device')}"] if lost else []


def _quiet(devices: Sequence[FleetDevice], reports: Reports | None) -> set[str]:
    """Devices that are silent by the measure of rule 3 of the state machine; nobody where telemetry is not at hand."""
    if reports is None:
        return set()
    now, last = utc_now(), reports.last_heard([device.id for device in devices])
    heard = ((device, heard_at(device, last.get(device.id))) for device in devices)
    return {device.id for device, at in heard if at is None or now - at > timedelta(seconds=silence_s(device))}


def _returns(unsettled: Unsettled | None) -> bool:
    return unsettled is not None and unsettled.returns


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
