"""Gates at one look, on devices that are unlike each other."""

from __future__ import annotations

import numpy as np

from tinyfleet_service.rollouts.state_machine import Outcome
from unit.service.panel_builders import judged, make_panel


def test_faults_are_weighed_within_their_strata():
    """A site where devices fault has 20 controls a canary, quiet sites have 50: pooled, that looks like harm."""
    strata = ["bad"] * 100 + [f"good{n}" for n in range(100)]
    strata += ["bad"] * 2000 + [f"good{n}" for n in range(100) for _ in range(50)]
    faults = np.array([name == "bad" for name in strata], dtype=np.int64)
    inferences = np.full(len(strata), 1000)
    panel = make_panel(200, 7000, strata=strata, faults=faults, inferences=inferences)
    assert panel.evidence(1, "fault").e_value < 2
    assert judged(panel, "faults").outcome == Outcome.PROMOTE


def test_a_canary_alone_in_its_stratum_is_weighed_beside_the_others():
    """Each of three sites of one device faults, where none of 57 others does."""
    strata = ["a", "b", "c"] + ["d"] * 3 + ["d"] * 57
    faults = np.array([1, 1, 1] + [0] * 60)
    panel = make_panel(6, 57, strata=strata, faults=faults, inferences=np.full(63, 1000))
    assert judged(panel, "faults").outcome == Outcome.ROLLBACK
