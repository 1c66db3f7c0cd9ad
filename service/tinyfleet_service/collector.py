"""Python's garbage collector in processes that read whole fleets or batches of reports."""

from __future__ import annotations

import gc

NEW_OBJECTS = 200_000
OLDER = 20


def collect_rarely() -> None:
    """Search for cycles only after many new objects, and never again in what the process has loaded by now.

    A fleet or a batch is a hundred thousand small objects without cycles: searching them as often as Python does by
    default is a third of what a plan costs.
    """
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, OLDER, OLDER)
