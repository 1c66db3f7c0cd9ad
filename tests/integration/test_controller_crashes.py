"""kill -9 between any two transactions of a tick: the next controller goes on as if nothing had happened."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from integration.rollout_fleet import Fleet
from tinyfleet_service.database.engine import Lease
from tinyfleet_service.publish import CONTROLLER_LEASE


class PowerCut(BaseException):
    """Like SIGKILL: nothing catches it."""


class CutAtCommit:
    """Kills the process at the n-th transaction after arming, before or after it reached the disk."""

    def __init__(self, nth: int, *, after: bool) -> None:
        self.left, self.after = nth, after
        self._commit = Session.commit

    def __enter__(self) -> None:
        def commit(session: Session) -> None:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise PowerCut
            self._commit(session)
            if self.left == 0:
                raise PowerCut

        Session.commit = commit

    def __exit__(self, *_: object) -> None:
        Session.commit = self._commit


def tick_with_cut(fleet: Fleet, nth: int, after: bool) -> bool:
    """One tick that dies at its n-th commit and is repeated by a new owner of the lease; False when it had fewer."""
    try:
        with CutAtCommit(nth, after=after):
            fleet.tick()
        return False
    except PowerCut:
        Lease.release(fleet.engine, CONTROLLER_LEASE, fleet.owner)
        fleet.owner += "'"
        fleet.fence = Lease.acquire(fleet.engine, CONTROLLER_LEASE, fleet.owner, 3600) or 0
        fleet.tick()
        return True


@pytest.mark.parametrize("after", [False, True])
def test_dying_at_every_commit_ends_in_the_same_place(tmp_path, after):
    fleet = Fleet(tmp_path, devices=24)
    for version, accuracy in (("v1", 0.80), ("v2", 0.94)):
        fleet.push(version, accuracy)
    cuts = 0
    for version, share in (("v1", "100%"), ("v2", "4")):
        rollout = fleet.start(version, canary=share)
        for second in range(200):
            fleet.step()
            cuts += tick_with_cut(fleet, 1 + second % 2, after)
            if fleet.rollout(rollout).state == "promoted":
                break
        assert fleet.rollout(rollout).state == "promoted", fleet.rollout(rollout).reason
        fleet.settle(12)
        assert len(fleet.running(version)) == 24
    assert cuts > 20
    assert fleet.explain(2)["equal"]
    statuses = {member.status for member in fleet.members(2)}
    assert statuses == {"confirmed"}
