"""Drift: did the canaries' answers move otherwise than the controls'? No labels are needed.

Each device counts its answers in a histogram, by class or by confidence. Its change is the share of each bucket after
its start minus the share before; what moved for everybody (the time of day, the season) moves the controls as well.
The effect is the vector

    e = sum_s w_s (mean change of canaries in s - mean change of controls in s),   w_s = canaries in s / canaries

*Whether* it is more than chance: the canaries were drawn at random within strata, so the share of draws with
sum_b e_b^2 / v_b at least as large as the observed one is a p-value, v_b being the variance of the change of bucket b
over all devices, which no draw alters. The unit is the device, however alike the answers of one device are.

*How much*: the Jensen-Shannon distance (square root of the divergence in bits, 0 to 1) between the canaries' shares
and what they would have been without the effect. 0.2 is about a population stability index of 0.2. A p-value alone
calls any change significant once a fleet is large.

Sources: Lin, "Divergence measures based on the Shannon entropy" (1991); Endres and Schindelin (2003) for the root
being a distance; randomisation as in `randomisation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.analysis.randomisation import Floats, draw_statistics

MAX_DRAWS = 20_000
SAMPLES = 2_000
_TIE = 1e-9
_SAME = 1e-18
"""Changes of shares that vary less are equal but for rounding."""


@dataclass(frozen=True)
class Drift:
    """Result of `answer_drift`; `moved` is the effect on the share of each bucket, `distance` None without control."""

    canaries: int
    controls: int
    smallest_p: float
    p: float
    distance: float | None
    moved: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {**vars(self), "moved": list(self.moved)}


def answer_drift(
    before: npt.ArrayLike, after: npt.ArrayLike, treated: npt.ArrayLike, strata: Sequence[str], *, seed: int
) -> Drift:
    """Compare counts `(devices, buckets)` up to each device's start with those since; every row has a count in both.

    `treated` marks canaries, `strata` names each device's stratum; those without a canary or a control say nothing.
    """
    mask = np.asarray(treated, dtype=bool)
    changes, now = _shares(after) - _shares(before), _shares(after)
    weights = _weights(mask, np.asarray(strata))
    canaries, controls = int((mask & (weights > 0)).sum()), int((~mask & (weights > 0)).sum())
    if not canaries:
        return Drift(0, 0, 1.0, 1.0, None, ())
    signed = np.where(mask, weights, -weights)
    moved = signed @ changes
    found = np.where(mask, weights, 0.0) @ now
    p, smallest = _p_value(changes[weights > 0], mask[weights > 0], np.asarray(strata)[weights > 0].tolist(), seed)
    distance = jensen_shannon(found, np.clip(found - moved, 0.0, None))
    return Drift(canaries, controls, smallest, p, distance, tuple(moved.tolist()))


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Distance of two distributions, given as weights of the same buckets: 0 alike, 1 nothing in common."""
    first, second = (np.asarray(v, dtype=np.float64) / np.sum(v) for v in (p, q))
    middle = (first + second) / 2
    return float(np.sqrt(max((_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2, 0.0)))


def _relative_entropy(p: Floats, q: Floats) -> float:
    here = p > 0
    return float((p[here] * np.log2(p[here] / q[here])).sum())


def _shares(counts: npt.ArrayLike) -> Floats:
    table = np.asarray(counts, dtype=np.float64)
    shares: Floats = table / table.sum(axis=1, keepdims=True)
    return shares


def _weights(treated: npt.NDArray[np.bool_], strata: npt.NDArray[Any]) -> Floats:
    """Weight of each device in the mean of its arm; 0 in strata that lack an arm."""
    weights = np.zeros(len(treated))
    _, which = np.unique(strata, return_inverse=True)
    own, all_ = np.bincount(which, weights=treated), np.bincount(which)
    both = (own > 0) & (own < all_)
    total = own[both].sum()
    for arm, size in ((treated, own), (~treated, all_ - own)):
        here = arm & both[which]
        weights[here] = own[which[here]] / total / size[which[here]]
    return weights


def _p_value(changes: Floats, treated: npt.NDArray[np.bool_], strata: list[str], seed: int) -> tuple[float, float]:
    """Share of draws at least as extreme as the observed one, and the smallest it could be."""
    variances = changes.var(axis=0)
    extreme, observed = np.zeros(1), 0.0
    for bucket in np.flatnonzero(variances > _SAME):
        effects, own = draw_statistics(
            changes[:, bucket], treated, strata, seed=seed, max_draws=MAX_DRAWS, samples=SAMPLES
        )
        extreme = extreme + effects**2 / variances[bucket]
        observed += own**2 / variances[bucket]
    return float((extreme >= observed * (1 - _TIE)).mean()), 1 / len(extreme)
