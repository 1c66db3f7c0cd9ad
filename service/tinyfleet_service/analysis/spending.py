"""How the error budget is spent.

*Wrong roll-backs*: alpha is split equally over the required guardrails, within a guardrail over its stages (half to
the canary, where few devices must decide much, the rest equally) and within a stage over its tests (classes). The
shares sum to alpha, so by Bonferroni a harmless rollout is rolled back by a test with probability at most alpha.

*Wrong promotions*: every required gate of every stage must pass, so a harmful version has to fool all of them; each
may use the whole level (intersection-union test, Berger 1982).

Tests that are not valid at any time pay per look: look k gets alpha / (k (k+1)), which sums to alpha over all looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_LOOKS = 120
"""To the deadline."""
HELD_GROWTH = 0.05
MAIN_STAGE = "canary"
_LINEAR_LOOKS = 20

TestKey = tuple[str, str, str]  # guardrail, stage, scope ("all" or a device class)


def alpha_shares(alpha: float, tests: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[TestKey, float]:
    """Shares by `(guardrail, stage, scope)` of `tests[guardrail][stage] = scopes`; sum: `alpha`."""
    guardrails = {name: {s: c for s, c in stages.items() if c} for name, stages in tests.items()}
    guardrails = {name: stages for name, stages in guardrails.items() if stages}
    shares: dict[TestKey, float] = {}
    for name, stages in guardrails.items():
        main = MAIN_STAGE if MAIN_STAGE in stages else next(iter(stages))
        for stage, scopes in stages.items():
            part = alpha / len(guardrails) * _stage_weight(len(stages), main=stage == main) / len(scopes)
            shares.update({(name, stage, scope): part for scope in scopes})
    return shares


def alpha_at_look(alpha: float, look: int) -> float:
    """Level of paid look `look` (1-based)."""
    return alpha / (look * (look + 1))


def deciding_looks(alpha: float, smallest_p: float) -> int:
    """How many paid looks can still reject when no p-value is below `smallest_p`."""
    look = 0
    while look < MAX_LOOKS and alpha_at_look(alpha, look + 1) >= smallest_p:
        look += 1
    return look


def look_due(looks_taken: int, age_s: float, last_look_age_s: float, interval_s: float, deadline_s: float) -> bool:
    """Whether a stage of age `age_s` is due for its next look."""
    return age_s >= next_look_s(looks_taken, last_look_age_s, interval_s, deadline_s)


def next_look_s(looks_taken: int, last_look_age_s: float, interval_s: float, deadline_s: float) -> float:
    """Age of a stage at which its next look is due: evenly at first, then geometrically.

    At most `MAX_LOOKS` looks cover the time to the deadline, the last one being kept for the deadline itself. A stage
    that is held beyond is looked at whenever it is `HELD_GROWTH` older: harm may come while a person thinks.
    """
    if last_look_age_s >= deadline_s:
        return last_look_age_s + max(interval_s, last_look_age_s * HELD_GROWTH)
    if looks_taken >= MAX_LOOKS - 1:
        return deadline_s
    linear_s = _LINEAR_LOOKS * interval_s
    growth = float(max(deadline_s / linear_s, 1.0)) ** (1 / (MAX_LOOKS - 1 - _LINEAR_LOOKS))
    step_s: float = max(interval_s, last_look_age_s * (growth - 1))
    return min(last_look_age_s + step_s, deadline_s)


def _stage_weight(stages: int, *, main: bool) -> float:
    if stages == 1:
        return 1.0
    return 0.5 if main else 0.5 / (stages - 1)
