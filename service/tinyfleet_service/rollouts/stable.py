"""Stable builds: what the newest promoted rollout brought to a class, for the devices that it was for.

A rollout that `--where` narrowed speaks for the devices that match it, also those that come later; for the others the
promoted rollout before it does. The row `StableBuild` is the newest of a class, whoever it is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlmodel import Session, col, select

from tinyfleet_service.database.models import Build, Rollout, RolloutMember, RolloutState, StableBuild
from tinyfleet_service.rollouts.records import spec_of
from tinyfleet_service.rollouts.select_devices import selected_among
from tinyfleet_service.rollouts.state_machine import LEFT

AT_ONCE = 1000
"""Devices that one query names."""


class Classed(Protocol):
    """A device, or a row of a plan."""

    @property
    def id(self) -> str:
        """Device id."""

    @property
    def device_class(self) -> str:
        """Its class."""


class StableBuilds:
    """The stable builds of a component in a project, each class looked up once."""

    def __init__(self, session: Session, project_id: int, component: str) -> None:
        self._session, self._project_id, self._component = session, project_id, component
        self._known: dict[str, list[tuple[str | None, Build]]] = {}

    def of(self, device: Classed) -> Build | None:
        """What this device is to run when no rollout has something for it; None when there is none."""
        return self.of_many([device]).get(device.id)

    def of_many(self, devices: Iterable[Classed]) -> dict[str, Build]:
        """Those of these devices that have one, by id."""
        left: dict[str, list[str]] = {}
        for device in devices:
            left.setdefault(device.device_class, []).append(device.id)
        found: dict[str, Build] = {}
        for device_class, names in left.items():
            for where, build in self._of_class(device_class):
                names = [name for name in names if name not in found]
                found |= dict.fromkeys(self._selected(names, where) if where else names, build)
        return found

    def _selected(self, names: Sequence[str], where: str) -> Iterator[str]:
        for at in range(0, len(names), AT_ONCE):
            yield from selected_among(self._session, self._project_id, names[at : at + AT_ONCE], where)

    def _of_class(self, device_class: str) -> list[tuple[str | None, Build]]:
        if device_class not in self._known:
            self._known[device_class] = list(self._builds(device_class))
        return self._known[device_class]

    def _builds(self, device_class: str) -> Iterator[tuple[str | None, Build]]:
        """Selectors and builds, newest first, down to the first that is for everybody."""
        row = self._session.exec(_row_of(self._project_id, self._component, device_class)).first()
        if row is not None and row.rollout_id is None:
            yield None, self._session.get_one(Build, row.build_id)
        if row is None or row.rollout_id is None:
            return
        for rollout, build_id in promoted(self._session, self._project_id, self._component, device_class):
            where = spec_of(rollout).where
            yield where, self._session.get_one(Build, build_id)
            if not where:
                return


def promoted(session: Session, project_id: int, component: str, device_class: str) -> Iterator[tuple[Rollout, int]]:
    """Promoted rollouts that brought something to the class and were not undone there, newest first; and the build."""
    query = select(Rollout).where(Rollout.project_id == project_id, Rollout.component == component)
    query = query.where(Rollout.state == RolloutState.PROMOTED)
    for rollout in session.exec(query.order_by(col(Rollout.finished_at).desc(), col(Rollout.id).desc())):
        of_class = select(RolloutMember.build_id).where(
            RolloutMember.rollout_id == rollout.id, RolloutMember.device_class == device_class
        )
        build_id = session.exec(of_class.where(col(RolloutMember.status).not_in(LEFT)).limit(1)).first()
        if build_id is not None:
            yield rollout, build_id


def set_stable(session: Session, rollout: Rollout, builds: Mapping[str, int], now: datetime) -> None:
    """The rollout was promoted: its `builds` are the newest of their classes."""
    for device_class, build_id in builds.items():
        query = _row_of(rollout.project_id, rollout.component, device_class)
        row = session.exec(query).first() or StableBuild(
            project_id=rollout.project_id, component=rollout.component, device_class=device_class, build_id=build_id
        )
        row.build_id, row.rollout_id, row.since = build_id, rollout.id, now
        session.add(row)


def restore_stable(session: Session, rollout: Rollout, now: datetime) -> None:
    """The rollout was undone: where its build was the newest, the one promoted before it is again, or none."""
    for row in session.exec(select(StableBuild).where(StableBuild.rollout_id == rollout.id)).all():
        before = next(promoted(session, rollout.project_id, rollout.component, row.device_class), None)
        if before is None:
            session.delete(row)
            continue
        older, row.build_id = before
        row.rollout_id, row.since = older.id, now
        session.add(row)


def _row_of(project_id: int, component: str, device_class: str) -> Any:
    return select(StableBuild).where(
        StableBuild.project_id == project_id,
        StableBuild.component == component,
        StableBuild.device_class == device_class,
    )
