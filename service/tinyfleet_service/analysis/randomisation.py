"""Exact randomisation test over the stratified draw: what three canaries of sixty devices can prove.

The canaries were drawn at random within strata, so under a constant effect `d` every other draw was as likely. The
statistic is the mean before/after difference of canaries minus that of controls, strata weighted by their canaries:

    T = sum_s w_s (mean of canaries in s - mean of controls in s),   w_s = canaries in s / canaries

For a hypothetical effect d the canaries' values are moved back by d and T is compared over all draws; the share of
draws at least as extreme is the p-value of "effect <= d" (or ">= d"). T is linear in d, so each draw changes side at
one value of d and the confidence bounds come from sorting those values: no search, no normal theory, right for any
noise. Up to `max_draws` draws are enumerated; beyond, seeded random draws plus the observed one (the +1 correction).

Strata without a canary or without a control say nothing and are left out.
Sources: Fisher, "The Design of Experiments" (1935); Rosenbaum, "Observational Studies" (2002) section 2.4 for the
inversion; Phipson and Smyth (2010) for the +1 in sampled tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from math import comb, floor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

MAX_DRAWS = 200_000
SAMPLES = 20_000
_ROWS = 2_000
_TIE = 1e-12

_Number = TypeVar("_Number", np.float64, np.int64)
Floats = npt.NDArray[np.float64]
Progress = Callable[[], object]  # called between parts of a computation that takes seconds
Draws = tuple[Floats, Floats]  # statistic at effect 0, and its change per unit of effect, one entry per draw


def unwatched() -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Randomisation:
    """Result of `randomisation_test`; bounds are None where the draw cannot give one at that alpha."""

    canaries: int
    controls: int
    strata: int
    draws: int
    exact: bool
    smallest_p: float
    difference: float | None
    p_promote: float
    p_harm: float
    lower: float | None
    upper: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain numbers."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Stratum:
    values: Floats
    treated: npt.NDArray[np.bool_]
    weight: float

    @property
    def slope(self) -> float:
        k, n = int(self.treated.sum()), len(self.values)
        return self.weight * (1 / k + 1 / (n - k))

    @property
    def offset(self) -> float:
        k, n = int(self.treated.sum()), len(self.values)
        return self.weight * float(self.values.sum()) / (n - k)

    @property
    def difference(self) -> float:
        """What this stratum adds to the observed statistic."""
        return self.slope * float(self.values[self.treated].sum()) - self.offset

    @property
    def effect_offset(self) -> float:
        k, n = int(self.treated.sum()), len(self.values)
        return self.weight * k / (n - k)


def count_draws(sizes: list[tuple[int, int]]) -> int:
    """Number of equally likely draws for `(canaries, controls)` per stratum; strata lacking either count once."""
    total = 1
    for canaries, controls in sizes:
        if canaries and controls:
            total *= comb(canaries + controls, canaries)
    return total


def smallest_p(sizes: list[tuple[int, int]], *, max_draws: int = MAX_DRAWS, samples: int = SAMPLES) -> float:
    """The smallest p-value this draw can ever reach: 1 / draws, or 1 / (samples + 1) when draws are sampled."""
    draws = count_draws(sizes)
    return 1 / draws if draws <= max_draws else 1 / (samples + 1)


def randomisation_test(
    values: npt.ArrayLike,
    treated: npt.ArrayLike,
    strata: list[str],
    *,
    margin: float,
    harm_beyond: float = 0.0,
    alpha_promote: float,
    alpha_harm: float,
    seed: int,
    max_draws: int = MAX_DRAWS,
    samples: int = SAMPLES,
    progress: Progress = unwatched,
) -> Randomisation:
    """Bounds of the mean effect on `values` (one before/after difference per device; larger is better).

    `p_promote` tests "effect <= -margin", `p_harm` tests "effect >= -harm_beyond"; `lower` and `upper` are one-sided
    bounds at `alpha_promote` and `alpha_harm`. `treated` marks canaries, `strata` names each device's stratum.
    """
    groups = _informative(np.asarray(values, dtype=np.float64), np.asarray(treated, dtype=bool), strata)
    sizes = [(int(g.treated.sum()), int((~g.treated).sum())) for g in groups]
    canaries, controls = sum(k for k, _ in sizes), sum(n for _, n in sizes)
    if not groups:
        return Randomisation(0, 0, 0, 1, True, 1.0, None, 1.0, 1.0, None, None)
    exact = count_draws(sizes) <= max_draws
    statistics, effects = _all_draws(groups) if exact else _sampled_draws(groups, samples, seed, progress)
    observed = sum(group.difference for group in groups)
    crossings, always = _crossings(statistics, effects, observed)
    total = len(statistics)
    return Randomisation(
        canaries=canaries,
        controls=controls,
        strata=len(groups),
        draws=total,
        exact=exact,
        smallest_p=always / total,
        difference=observed,
        p_promote=(always + int((crossings >= margin - _TIE).sum())) / total,
        p_harm=(always + int((crossings <= harm_beyond + _TIE).sum())) / total,
        lower=_bound(-crossings, floor(alpha_promote * total + _TIE) - always),
        upper=_negative(_bound(crossings, floor(alpha_harm * total + _TIE) - always)),
    )


def draw_statistics(
    values: npt.ArrayLike, treated: npt.ArrayLike, strata: list[str], *, seed: int, max_draws: int, samples: int
) -> tuple[Floats, float]:
    """The statistic of every draw (or of seeded random ones and the observed one), and the observed one.

    The draws are the same for other `values` of the same devices.
    """
    groups = _informative(np.asarray(values, dtype=np.float64), np.asarray(treated, dtype=bool), strata)
    sizes = [(int(g.treated.sum()), int((~g.treated).sum())) for g in groups]
    few = count_draws(sizes) <= max_draws
    statistics, _ = _all_draws(groups) if few else _sampled_draws(groups, samples, seed)
    return statistics, sum(group.difference for group in groups)


def _informative(values: Floats, treated: npt.NDArray[np.bool_], strata: list[str]) -> list[_Stratum]:
    names = np.asarray(strata)
    groups = []
    for name in sorted(set(strata)):
        mask = names == name
        if treated[mask].any() and not treated[mask].all():
            groups.append((values[mask], treated[mask]))
    canaries = sum(int(t.sum()) for _, t in groups)
    return [_Stratum(v, t, int(t.sum()) / canaries) for v, t in groups]


def _all_draws(groups: list[_Stratum]) -> Draws:
    statistic, effect = np.zeros(1), np.zeros(1)
    for group in groups:
        k = int(group.treated.sum())
        chosen = np.array(list(combinations(range(len(group.values)), k)))
        sums = group.slope * group.values[chosen].sum(axis=1) - group.offset
        moved = group.slope * group.treated[chosen].sum(axis=1) - group.effect_offset
        statistic = np.add.outer(statistic, sums).ravel()
        effect = np.add.outer(effect, moved).ravel()
    return statistic, effect


def _sampled_draws(groups: list[_Stratum], samples: int, seed: int, progress: Progress = unwatched) -> Draws:
    """`samples` random draws, then the observed one."""
    statistic, effect = np.zeros(samples + 1), np.zeros(samples + 1)
    for number, group in enumerate(groups):
        observed = tuple(np.flatnonzero(group.treated).tolist())
        chosen, again = _subsets(len(group.values), observed, samples, seed + number).draw(progress)
        statistic += group.slope * _sums(group.values, chosen) - group.offset
        effect += group.slope * again - group.effect_offset
    return statistic, effect


def _sums(values: npt.NDArray[_Number], chosen: npt.NDArray[np.int32]) -> npt.NDArray[_Number]:
    """`values[chosen].sum(axis=0)` to the bit, without the table of all of them: 800 MB for 5,000 canaries."""
    total = np.zeros(chosen.shape[1], dtype=values.dtype)
    for row in chosen:
        total += values[row]
    return total


class _Subsets:
    """`(k, samples + 1)` random subsets of `range(n)`, the observed one last, and how many observed ones each has.

    By Floyd's algorithm over many draws at once. What is drawn stays when `progress` raises: the next call goes on.
    """

    def __init__(self, n: int, observed: tuple[int, ...], samples: int, seed: int) -> None:
        self._n, self._samples, self._drawn = n, samples, 0
        self._rng = np.random.default_rng(seed)
        self._chosen = np.empty((len(observed), samples + 1), dtype=np.int32)
        self._chosen[:, samples] = observed

    def draw(self, progress: Progress) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """All of them; the first call draws."""
        while self._drawn < self._samples:
            self._draw_part()
            progress()
        return self._chosen, self._again

    @cached_property
    def _again(self) -> npt.NDArray[np.int64]:
        mine = np.zeros(self._n, dtype=np.int64)
        mine[self._chosen[:, self._samples]] = 1
        return _sums(mine, self._chosen)

    def _draw_part(self) -> None:
        """The next `_ROWS`: bounds the memory of the table of taken values."""
        rows = np.arange(min(_ROWS, self._samples - self._drawn))
        taken = np.zeros((len(rows), self._n), dtype=bool)
        for place, last in enumerate(range(self._n - len(self._chosen), self._n)):
            pick = self._rng.integers(0, last + 1, size=len(rows))
            pick = np.where(taken[rows, pick], last, pick)
            taken[rows, pick] = True
            self._chosen[place, self._drawn + rows] = pick
        self._drawn += len(rows)


@lru_cache(maxsize=8)
def _subsets(n: int, observed: tuple[int, ...], samples: int, seed: int) -> _Subsets:
    """Kept, since the looks of a stage compare the same draws."""
    return _Subsets(n, observed, samples, seed)


def _crossings(statistics: Floats, effects: Floats, observed: float) -> tuple[Floats, int]:
    """Where each draw stops being as extreme as the observed one, as a shift of the canaries (minus the effect).

    Moving the canaries up by `shift` changes a draw's statistic by shift x effect and the observed one by shift, so
    the draw is at least as large while (statistic - observed) / (1 - effect) >= shift. Draws that equal the observed
    one always are.
    """
    same = effects >= 1 - _TIE
    return (statistics[~same] - observed) / (1 - effects[~same]), int(same.sum())


def _bound(values: Floats, allowed: int) -> float | None:
    """The value below which `allowed` draws are as extreme; None when even the observed draw is too many."""
    if allowed < 0 or not len(values):
        return None
    rank = min(allowed, len(values) - 1)
    return float(np.partition(values, rank)[rank])


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
