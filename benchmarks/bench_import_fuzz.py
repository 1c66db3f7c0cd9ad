"""Hostile model files by the thousand through `fleetctl check`'s importer, under limits of time and memory.

`make bench-import-fuzz`; RUNS=n for another number, FIRST=n for other seeds. The mutations are those of
tests/unit/compiler/import_fuzz.py; every failure can be made again from its seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "import_fuzz.json"
RUNS, FIRST = int(os.environ.get("RUNS", "10000")), int(os.environ.get("FIRST", "0"))
A_CHILD = 1000


def run_child(first: int, count: int) -> dict[str, object]:
    """What one process found in `count` files; a child that dies is a failure too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "unit.compiler.import_fuzz", str(first), str(count), folder]
        child = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    if child.returncode != 0:
        error = f"the process ended with {child.returncode}: {child.stderr[-300:]}"
        return {"files": 0, "outcomes": {}, "worst_cpu_s": 0.0, "peak_rss_bytes": 0, "failures": [{"error": error}]}
    found: dict[str, object] = json.loads(child.stdout)
    return found


def main() -> int:
    """Print the table, write the figures; exit 1 when a file got no clear answer."""
    parts = [run_child(FIRST + at, min(A_CHILD, RUNS - at)) for at in range(0, RUNS, A_CHILD)]
    outcomes: dict[str, int] = {}
    for part in parts:
        for name, count in part["outcomes"].items():  # type: ignore[attr-defined]
            outcomes[name] = outcomes.get(name, 0) + count
    total = {
        "files": sum(part["files"] for part in parts),  # type: ignore[misc]
        "outcomes": outcomes,
        "worst_cpu_s": max(part["worst_cpu_s"] for part in parts),  # type: ignore[type-var]
        "peak_rss_bytes": max(part["peak_rss_bytes"] for part in parts),  # type: ignore[type-var]
        "failures": [failure for part in parts for failure in part["failures"]],  # type: ignore[attr-defined]
    }
    for name, value in total.items():
        print(f"{name:16} {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(total, indent=2) + "\n")
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
