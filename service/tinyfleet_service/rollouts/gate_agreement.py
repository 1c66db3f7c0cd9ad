"""shadow without labels (`accuracy=proxy`): how often does the candidate answer otherwise than the active model?

Accuracies of the two cannot differ by more than the share of answers that differ. So the paired test of `gate_shadow`
is run on the worst case, in which each answer that differs is a mistake of the candidate. A share that is shown to be
above what is allowed holds the stage: a better model answers otherwise as well, and a proxy does not prove harm.
"""

from __future__ import annotations

from tinyfleet_service.analysis import paired_shadow_test
from tinyfleet_service.rollouts.judging import GateResult, Look
from tinyfleet_service.rollouts.state_machine import ALL_CLASSES, Outcome


def judge_agreement(look: Look) -> list[GateResult]:
    """All shadowing devices together, as `judge_shadow`."""
    spec, panel = look.spec, look.panel
    canaries, wanted = look.arm(canary=True), max(spec.min_inferences, 1)
    alive = canaries & panel.alive(look.number)
    answers, same = panel.sums["shadow_inferences"][look.row], panel.sums["shadow_agree"][look.row]
    pairs = [(int(s), int(n - s), 0, 0) for n, s in zip(answers[canaries], same[canaries], strict=True)]
    test = paired_shadow_test(
        pairs or [(0, 0, 0, 0)], margin=spec.disagreement, alpha_promote=spec.alpha, alpha_harm=spec.alpha
    )
    most, least = -test.lower, -test.upper
    differing = -(test.difference or 0.0)
    text = f"{differing:.1%} of {test.labels} answers differ, at most {most:.1%}; {spec.disagreement:.0%} may"
    outcome = Outcome.HOLD
    if least > spec.disagreement:
        text = f"by proxy, answers differ too often: {text}"
    elif look.reached(alive, answers) < wanted:
        text = f"by proxy: {text}; {look.few_of(alive, answers, wanted, 'answers')}"
    elif most < spec.disagreement:
        outcome, text = Outcome.PROMOTE, f"by proxy, answers agree: {text}"
    else:
        text = f"by proxy, undecided: {text}"
    numbers = {"differing": differing, "at_most": most, "at_least": least, "answers": test.labels}
    numbers |= {"devices": test.devices, "disagreement": spec.disagreement, "alpha": spec.alpha}
    return [look.result("shadow", ALL_CLASSES, outcome, text, numbers)]
