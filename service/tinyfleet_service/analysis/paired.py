"""Candidate against active model on the same labelled inputs: a confidence sequence that may be read at any time.

Each labelled shadow pair gives `X = +1` (only the candidate was right), `-1` (only the active model was right) or `0`.
The wealth of a gambler who bets the fraction `f` of what he may lose against "mean of X is at most m" is

    W_f(m) = (1 + f (1-m)/(1+m))^c  (1 - f)^a  (1 - f m/(1+m))^n0

with c, a, n0 the counts of +1, -1 and 0. A fixed mixture over `f` is a non-negative martingale under the null, so by
Ville's inequality P(it ever exceeds 1/alpha) <= alpha: the bounds hold at every look at once. The wealth depends on the
counts only, which is what devices report, and at m = 0 on the discordant pairs only. It falls as m grows, so the
bounds are found by narrowing a grid.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2023), with a
discrete mixture of constant bets instead of their adaptive ones.

**No device decides alone.** What a candidate does differs from device to device, and labels speak about the devices
that make most of them. So the evidence for either verdict is read without the device that adds most to it, where there
are three or more (of two, one that falls silent would leave the other without a say): ten devices that differ by a
point, one of which makes half of the labels, would otherwise undo one in ten harmless versions.

What it speaks about: the inputs of the devices that shadow. Devices that differ in their mean difference are covered at
each look (by the arithmetic-geometric inequality the wealth stays below one in expectation for their average).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_FRACTIONS = np.geomspace(0.004, 0.98, 32)
_LOG_LOSS = np.log1p(-_FRACTIONS)
_GRID = 130
NO_DEVICE_ALONE = 3
"""From so many devices with labels on, the loudest is left out."""


@dataclass(frozen=True)
class PairedShadow:
    """Result of `paired_shadow_test`; accuracies and differences are fractions, None without labels."""

    devices: int
    labels: int
    active_only: int
    candidate_only: int
    accuracy_active: float | None
    accuracy_candidate: float | None
    difference: float | None
    lower: float
    upper: float
    e_promote: float
    e_harm: float
    worst_device_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return dict(vars(self))


def paired_shadow_test(pairs: npt.ArrayLike, *, margin: float, alpha_promote: float, alpha_harm: float) -> PairedShadow:
    """Bounds of the accuracy difference candidate minus active from 2x2 tables `(devices, 4)`.

    Columns: both right, active only, candidate only, neither (wire order). `lower` holds at level `alpha_promote`,
    `upper` at `alpha_harm`, each one-sided and at all looks together; they and the two e-values leave out the device
    that speaks loudest for a better, or a worse, candidate. All else counts every device. Raises ValueError for
    negative or misshaped counts.
    """
    table = np.asarray(pairs, dtype=np.int64).reshape(-1, 4)
    if (table < 0).any():
        raise ValueError("shadow pairs are counts: none may be negative")
    better = _without_loudest(table, table @ np.array([0, -1, 1, 0]) + margin * table.sum(axis=1))
    worse = _without_loudest(table, table @ np.array([0, 1, -1, 0]))
    both, active_only, candidate_only, neither = (int(v) for v in table.sum(axis=0))
    same = both + neither
    labels = same + active_only + candidate_only
    return PairedShadow(
        devices=int((table.sum(axis=1) > 0).sum()),
        labels=labels,
        active_only=active_only,
        candidate_only=candidate_only,
        accuracy_active=(both + active_only) / labels if labels else None,
        accuracy_candidate=(both + candidate_only) / labels if labels else None,
        difference=(candidate_only - active_only) / labels if labels else None,
        lower=_lower_bound(*better, alpha_promote),
        upper=-_lower_bound(worse[1], worse[0], worse[2], alpha_harm),
        e_promote=_wealth(*better, -margin),
        e_harm=_wealth(worse[1], worse[0], worse[2], 0.0),
        worst_device_difference=_worst_device(table),
    )


def _without_loudest(table: npt.NDArray[np.int64], evidence: npt.NDArray[Any]) -> tuple[int, int, int]:
    """Pairs that only the candidate, only the active model, and both or neither got right, the loudest device aside.

    The stake grows with `evidence` by device: what it says for the claim, to the first order of a small bet.
    """
    counted = np.flatnonzero(table.sum(axis=1))
    if len(counted) >= NO_DEVICE_ALONE:
        table = np.delete(table, counted[np.argmax(evidence[counted])], axis=0)
    both, active_only, candidate_only, neither = (int(v) for v in table.sum(axis=0))
    return candidate_only, active_only, both + neither


def _log_wealth(up: int, down: int, same: int, means: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Log wealth against each of `means`, as an array."""
    mean = np.atleast_1d(np.asarray(means, dtype=np.float64))[:, None]
    ratio, zero = (1.0 - mean) / (1.0 + mean), mean / (1.0 + mean)
    per_bet = up * np.log1p(_FRACTIONS * ratio) + down * _LOG_LOSS + same * np.log1p(-_FRACTIONS * zero)
    top = per_bet.max(axis=1)
    wealth: npt.NDArray[np.float64] = top + np.log(np.mean(np.exp(per_bet - top[:, None]), axis=1))
    return wealth


def _wealth(up: int, down: int, same: int, mean: float) -> float:
    return float(np.exp(min(float(_log_wealth(up, down, same, mean)[0]), 600.0)))


def _lower_bound(up: int, down: int, same: int, alpha: float) -> float:
    """Largest mean that the wealth has ruled out, to 1e-5; -1 when none is."""
    needed = -float(np.log(alpha))
    low, high = -1.0 + 1e-9, 1.0 - 1e-9
    if up + down + same == 0 or _log_wealth(up, down, same, low)[0] < needed:
        return -1.0
    while high - low > 1e-5:
        grid = np.linspace(low, high, _GRID)
        passed = int((_log_wealth(up, down, same, grid[1:-1]) >= needed).sum())  # it falls as the mean grows
        low, high = float(grid[passed]), float(grid[passed + 1])
    return low


def _worst_device(table: npt.NDArray[np.int64]) -> float | None:
    labels = table.sum(axis=1)
    seen = labels > 0
    if not seen.any():
        return None
    return float(((table[seen, 2] - table[seen, 1]) / labels[seen]).min())
