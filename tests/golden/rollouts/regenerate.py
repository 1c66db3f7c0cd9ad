"""What each gate makes of fixed counters: `python tests/golden/rollouts/regenerate.py` writes decisions.json beside it.

`explain` recomputes decisions by today's rules, and leaves alone those made by others. So whoever changes what a gate
says of counters that are stored already raises `RULES` in `rollouts/judging.py`; then this file is made anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tinyfleet_service.rollouts.gates import RULES
from unit.service.panel_builders import judged, make_panel

FILE = Path(__file__).with_name("decisions.json")
DIGITS = 9
CANARIES, CONTROLS = 8, 40


def panels() -> dict[str, tuple[str, Any, dict[str, Any]]]:
    """Gate, panel and what the rollout asks for, by the case's name."""
    rng, devices = np.random.default_rng(27), CANARIES + CONTROLS
    answers = rng.integers(800, 1200, devices)
    labelled = rng.integers(150, 400, devices)
    before = {"labelled": labelled * 2, "correct": rng.binomial(labelled * 2, 0.9), "active_s": np.full(devices, 10**6)}
    canary = np.arange(devices) < CANARIES
    old = rng.multinomial(900, [0.5, 0.3, 0.2], devices)
    moved = {"predicted": ((0, 1, 2), old, np.where(canary[:, None], old[:, ::-1], old))}
    fast = rng.multinomial(900, [0.97, 0.02, 0.01], devices)
    slow = {"latency": ((40, 44, 48), fast, np.where(canary[:, None], fast[:, ::-1], fast))}
    cases: dict[str, tuple[str, Any, dict[str, Any]]] = {}
    for name, loss in (("equal", 0.0), ("worse", 0.06)):
        chances = [0.87 - loss, 0.03 + loss, 0.03, 0.07]
        pairs = np.where(canary[:, None], rng.multinomial(labelled, np.tile(chances, (devices, 1))), 0)
        right = rng.binomial(labelled, np.where(canary, 0.9 - loss, 0.9))
        faults = rng.poisson(0.1 + 15 * loss * canary)
        silent = (rng.random((1, devices)) < 0.02 + 10 * loss * canary) & True
        common = {"before": before, "inferences": answers}
        agree = rng.binomial(answers, 0.95 - 2 * loss)
        sums = {"shadow_inferences": answers, "shadow_agree": agree, **common}
        cases |= {
            f"shadow {name}": ("shadow", make_panel(CANARIES, CONTROLS, pairs=pairs, **common), {}),
            f"agreement {name}": ("shadow", make_panel(CANARIES, CONTROLS, **sums), {"gates": {"accuracy": "proxy"}}),
            f"accuracy {name}": (
                "accuracy", make_panel(CANARIES, CONTROLS, labelled=labelled, correct=right, **common), {},
            ),
            f"faults {name}": ("faults", make_panel(CANARIES, CONTROLS, faults=faults, **common), {}),
            f"silence {name}": ("silence", make_panel(CANARIES, CONTROLS, silent=silent, **common), {}),
        }  # fmt: skip
    for gate, histograms in (("drift", moved), ("latency", slow)):
        panel = make_panel(CANARIES, CONTROLS, inferences=answers, histograms=histograms)
        cases[gate] = (gate, panel, {"gates": {gate: "required"}})
    return cases


def rounded(value: Any) -> Any:
    """As JSON keeps it, to as many digits as every machine gives."""
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value


def text() -> str:
    """The file's contents."""
    said = {}
    for name, (gate, panel, asked) in panels().items():
        result = judged(panel, gate, stage="shadow" if gate == "shadow" else "canary", **asked)
        said[name] = rounded({n: v for n, v in result.numbers.items() if n not in ("rules", "summary")})
    return json.dumps({"rules": RULES, "decisions": said}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
