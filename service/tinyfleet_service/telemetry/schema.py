"""Which schema the telemetry tables have: a number beside them, and in each engine's `STEPS` the way to the next one.

Rules:

* Step n makes n of n - 1, in one transaction with the number. A step that was released never changes.
* Tables without a number are those from before there was one: number 1.
* Whoever opens an empty database makes all of it. Tables that hold something are taken further by `upgrade` alone:
  processes of an older version may still be writing to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet_service.errors import SettingsError


def steps_to_take(has: int, steps: Sequence[str], *, upgrade: bool) -> Sequence[str]:
    """What is missing of a database that has schema `has`, 0 for an empty one.

    Raises SettingsError for a newer one, and without `upgrade` for an older one.
    """
    if not upgrade or has > len(steps):
        check_schema(has, len(steps))
    return steps[has:]


def check_schema(has: int, needed: int) -> None:
    """Raises SettingsError for tables of another tinyfleet."""
    if has not in (0, needed):
        raise SettingsError(
            f"the telemetry database has schema {has}, this tinyfleet needs {needed}",
            next="`fleetctl migrate`, or start `fleetctl serve`"
            if has < needed
            else "it was made by a newer tinyfleet: update this installation, or restore a backup",
        )
