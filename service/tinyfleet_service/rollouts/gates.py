"""Gates at one look: stored records in, outcomes with their numbers out. Pure, so `explain` runs exactly this again.

Each judge reads one guardrail of one stage and returns `GateResult`s: promote (enough evidence that it is no worse
than the margin), hold (not decided) or rollback (evidence of harm). Missing data is hold, never promote.
"""

from __future__ import annotations

from tinyfleet_service.rollouts.gate_accuracy import judge_accuracy, wave_decides
from tinyfleet_service.rollouts.gate_agreement import judge_agreement
from tinyfleet_service.rollouts.gate_counts import judge_faults, judge_silence
from tinyfleet_service.rollouts.gate_drift import judge_drift
from tinyfleet_service.rollouts.gate_latency import judge_latency
from tinyfleet_service.rollouts.gate_shadow import judge_shadow
from tinyfleet_service.rollouts.judging import RULES, GateKey, GateResult, Look
from tinyfleet_service.rollouts.policy import Policy

__all__ = ["RULES", "GateKey", "GateResult", "Look", "judge", "wave_decides"]

JUDGES = {
    "shadow": judge_shadow,
    "accuracy": judge_accuracy,
    "faults": judge_faults,
    "silence": judge_silence,
    "latency": judge_latency,
    "drift": judge_drift,
}
PROXIES = {"shadow": judge_agreement}


def judge(look: Look) -> list[GateResult]:
    """All gates of this stage at this look."""
    policies = {gate: look.spec.policy(gate) for gate in look.gates}
    judges = [PROXIES[g] if p == Policy.PROXY else JUDGES[g] for g, p in policies.items() if p != Policy.OFF]
    return [result for judge_gate in judges for result in judge_gate(look)]
