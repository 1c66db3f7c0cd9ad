"""What the service's processes cost to start and to hold. `make bench-start`.

The same processes on the same data directory, three times each: under `fleetctl serve`, where they are forks of one
process, and one by one as `python -m tinyfleet_service.serve NAME`, each with imports of its own. CPU seconds and MB
(proportional set size: what processes share is divided among them) after a pause in which nothing asks for anything,
without mosquitto and everything that it does; of `serve` also the seconds until the API has answered.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "start.json"
NAMES = ("api", "est", "controller", "ingest", "builder", "webhooks")
FREE_PORTS = {f"TINYFLEET_{name}_PORT": "0" for name in ("HTTP", "BROKER", "EST")}
RUNS = 3
PAUSE_S = 8.0
TICKS = os.sysconf("SC_CLK_TCK")
ROW = "{:<28} {:>8} {:>8} {:>8} {:>9}"


def begin(data: Path, *names: str) -> subprocess.Popen[str]:
    """`serve` on `data`, or one process of it."""
    command = [sys.executable, "-m", "tinyfleet_service.serve", *names, "--data", str(data)]
    log = subprocess.DEVNULL if names else None  # says that there is no broker
    return subprocess.Popen(command, env=os.environ | FREE_PORTS, stdout=subprocess.PIPE, stderr=log, text=True)


def family(pid: int) -> list[int]:
    """A process, its children and theirs, but no mosquitto."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [pid, *(other for child in words for other in family(int(child)))]
    return [one for one in found if not Path(f"/proc/{one}/comm").read_text().startswith("mosquitto")]


def cost(pids: list[int]) -> tuple[float, float]:
    """CPU seconds and MB of all together."""
    seconds = kilobytes = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICKS
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return seconds, kilobytes / 1024


def end(*processes: subprocess.Popen[str]) -> None:
    """All of them, in order."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate()


def together(data: Path) -> dict[str, float]:
    """One `serve`."""
    started = time.monotonic()
    process = begin(data)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit("serve did not start")
    ready = time.monotonic() - started
    time.sleep(PAUSE_S)
    seconds, megabytes = cost(family(process.pid))
    end(process)
    return {"ready_s": ready, "cpu_s": seconds, "mb": megabytes}


def apart(data: Path) -> dict[str, float]:
    """Each process by itself, one after the other, so that none waits for a processor."""
    processes = []
    for name in NAMES:
        processes.append(begin(data, name))
        time.sleep(PAUSE_S)
    if any(process.poll() is not None for process in processes):
        raise SystemExit("a process did not start")
    seconds, megabytes = cost([pid for process in processes for pid in family(process.pid)])
    end(*processes)
    return {"cpu_s": seconds, "mb": megabytes}


def main() -> None:
    """Print the table and write the JSON."""
    figures: dict[str, list[dict[str, float]]] = {"serve": [], "each alone": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        first = together(data)  # makes schema, certificates and keys as well
        for _ in range(RUNS):
            figures["serve"].append(together(data))
            figures["each alone"].append(apart(data))
    print(ROW.format("", "run", "ready s", "CPU s", "MB"))
    for name, runs in {"serve, first start": [first], **figures}.items():
        for number, run in enumerate(runs, 1):
            ready = f"{run['ready_s']:.1f}" if "ready_s" in run else ""
            print(ROW.format(name, number, ready, f"{run['cpu_s']:.1f}", f"{run['mb']:.0f}"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"first": first, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
