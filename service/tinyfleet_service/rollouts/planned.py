"""A plan as it is carried about: the draw, the builds, where devices come from, and its document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tinyfleet_service.database.models import Build, MemberStatus
from tinyfleet_service.rollouts.membership import Draw
from tinyfleet_service.rollouts.spec import RolloutSpec


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
    labels_per_s: float | None = None
    """How fast a device that runs what is to be replaced got labels so far."""
    answers_per_s: float | None = None
    """How fast such a device answered so far."""
    gates_from: dict[str, str] = field(default_factory=dict)
    """Who said what each gate is, as `policy.gate_sources`."""
    document: dict[str, Any] = field(default_factory=dict)


def transfer_pairs(plan: Plan) -> list[tuple[int, int | None]]:
    """(build, base build) pairs whose transfer blobs this plan needs: for the bases that its devices run now.

    `publish.prepare_transfers` computes them.
    """
    wanted = {(plan.builds[place.device_class].id or 0, plan.bases[place.device_id]) for place in plan.draw.places}
    return sorted(wanted, key=lambda pair: (pair[0], pair[1] or 0))


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
