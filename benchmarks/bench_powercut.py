"""Power fails in every flash operation of an update, in every way, and again in recovery. `make bench-powercut`.

The real C agent on flash in memory, NOR and ECC, with large and small units and blocks. What a cut leaves of the
operation: nothing, its first or second half, one of eight seeded patterns, units that read differently each time, or
all of it. A cut counts once per scenario and part, however many ways lead to the same flash. Lost: a boot without a
valid image, an update that neither finishes nor is dropped, something forgotten that an earlier boot had relied on, a
unit in doubt that is relied on, a rule of flash broken.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from agent.agent.powercut import SCENARIOS, Outcome, Part  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "powercut.json"
PARTS = {
    "nor 64/512": Part("nor", 64, 512, fast=True),
    "ecc 64/512": Part("ecc", 64, 512, fast=True),
    "nor 16/2048": Part("nor", 16, 2048, fast=True),
    "ecc 32/2048": Part("ecc", 32, 2048, fast=True),
}
SECONDS = 2
FORMAT = "{:<16} {:<12} {:>10} {:>8} {:>8} {:>8} {:>8} {:>5}  {}"
HEADINGS = ("scenario", "flash", "operations", "cuts", "second", "boots", "dropped", "lost", "")


def line(scenario: str, part: str, outcome: Outcome) -> str:
    counts = (outcome.operations, outcome.cuts, outcome.second, outcome.boots, outcome.dropped, outcome.lost)
    return FORMAT.format(scenario, part, *counts, outcome.why)


def main() -> int:
    rows, total = [], Counter[str]()
    print(FORMAT.format(*HEADINGS))
    for name, part in PARTS.items():
        for make in SCENARIOS:
            outcome = make(part).sweep(seconds=SECONDS)
            rows.append({"scenario": make.__name__, "flash": name, **outcome.__dict__})
            total.update({key: value for key, value in outcome.__dict__.items() if key != "why"})
            print(line(make.__name__, name, outcome), flush=True)
    print("{cuts} distinct cuts, {second} in a recovery; {boots} boots; {lost} lost".format_map(total))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"rows": rows, "total": dict(total)}, indent=1) + "\n")
    return 1 if total["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
