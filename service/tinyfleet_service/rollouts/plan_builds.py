"""The builds of a plan: what each class gets, and what each device would go back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlmodel import Session, and_, col, or_, select

from tinyfleet_service.database.models import (
    Build,
    BuildState,
    MemberStatus,
    Model,
    ModelVersion,
    Rollout,
    RolloutMember,
)
from tinyfleet_service.errors import PlanError
from tinyfleet_service.registry.versions import get_version
from tinyfleet_service.rollouts.observe import image_id
from tinyfleet_service.rollouts.records import build_of
from tinyfleet_service.rollouts.select_devices import FleetDevice
from tinyfleet_service.rollouts.spec import RolloutSpec
from tinyfleet_service.rollouts.stable import StableBuilds
from tinyfleet_service.rollouts.state_machine import OPEN


def find_version(session: Session, spec: RolloutSpec) -> tuple[Model, ModelVersion]:
    """The model and version a spec names. Raises NotFoundError, which names those that there are."""
    version = get_version(session, spec.project_id, spec.model, spec.version)
    return session.get_one(Model, version.model_id), version


def builds_by_class(session: Session, spec: RolloutSpec, version: ModelVersion, classes: set[str]) -> dict[str, Build]:
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


class Unsettled(NamedTuple):
    """A device that does not keep what it runs, or not for sure, and the build it had before."""

    previous: Build | None
    returns: bool
    """It goes back to that, or will when its rollout is superseded."""


def unsettled_devices(session: Session, component: str) -> dict[str, Unsettled]:
    """Devices on their way back from a rollout, or about to be, and those that have not confirmed one's candidate."""
    unsure = (MemberStatus.UNDOING, MemberStatus.DOWNLOADING, MemberStatus.SHADOWING, MemberStatus.TESTING)
    undone = and_(Rollout.requested == "undo", RolloutMember.status == MemberStatus.CONFIRMED)
    returns = or_(
        undone, RolloutMember.status == MemberStatus.UNDOING, Rollout.requested == "undo", col(Rollout.state).in_(OPEN)
    )
    query = (
        select(RolloutMember.device_id, RolloutMember.previous_build_id, returns)
        .join(Rollout, col(Rollout.id) == col(RolloutMember.rollout_id))
        .where(Rollout.component == component, or_(col(RolloutMember.status).in_(unsure), undone))
        .order_by(col(Rollout.id))
    )
    return {device: Unsettled(build_of(session, build), bool(back)) for device, build, back in session.exec(query)}


def previous_builds(
    session: Session,
    project_id: int,
    component: str,
    devices: Sequence[FleetDevice],
    runs: Mapping[str, str | None],
    unsettled: Mapping[str, Unsettled],
) -> dict[str, Build | None]:
    """What each device would go back to: the build it `runs` (image ids), else its stable build, else None.

    One that is `unsettled` counts as being back already (a rollout under way is superseded, or the plan is refused).
    """
    ready = session.exec(select(Build).where(Build.state == BuildState.READY))
    by_image = {(b.device_class, image_id(b.image_sha256)): b for b in ready}
    target = {device: found.previous for device, found in unsettled.items()}
    known = {d.id: target.get(d.id) or by_image.get((d.device_class, runs[d.id])) for d in devices}
    others = [d for d in devices if known[d.id] is None]
    return known | StableBuilds(session, project_id, component).of_many(others)
