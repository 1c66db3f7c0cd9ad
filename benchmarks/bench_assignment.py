"""Planning and assigning whole fleets, and what a tick costs once few devices lack anything. `make bench-assignment`.

For 1,000, 10,000 and 100,000 devices on SQLite with mosquitto: CPU seconds to plan and to start (members stored); then
everybody is assigned: signed, stored and published over mutual TLS until the broker has acknowledged it. CPU
microseconds per assignment to find, sign and store it, and to bring it from the outbox to the broker; assignments per
second, and per CPU second of this process; by how much the process grew meanwhile; then CPU seconds of ticks of the
running rollout: one that reads all members, those after 0, 100 and 1,000 devices have reported something new, and one
at which a look is due, which reads all members and freezes what the devices of the stage have counted (here nothing:
nobody has begun). Devices report every minute, so that no look falls into the ticks before.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sqlalchemy import insert  # noqa: E402
from sqlmodel import col, select  # noqa: E402

from integration.fleet_house import FleetHouse, make_house  # noqa: E402
from integration.fleet_support import publisher, running_broker  # noqa: E402
from tinyfleet_ota.protocol import SlotState  # noqa: E402
from tinyfleet_service import publish  # noqa: E402
from tinyfleet_service.collector import collect_rarely  # noqa: E402
from tinyfleet_service.database.engine import session_scope  # noqa: E402
from tinyfleet_service.database.models import Desired, Device, Rollout, RolloutStage, utc_now  # noqa: E402
from tinyfleet_service.devices import apply_state  # noqa: E402
from tinyfleet_service.mqtt import Publisher  # noqa: E402
from tinyfleet_service.publish import drain_outbox  # noqa: E402
from tinyfleet_service.rollouts import make_plan, parse_spec, start_rollout, tick  # noqa: E402
from tinyfleet_service.rollouts.assignments import Work, reconcile  # noqa: E402
from tinyfleet_service.telemetry import TelemetryStore  # noqa: E402
from unit.service.fleet_state_builders import slot, state  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "assignment.json"
FLEETS = (1000, 10_000, 100_000)
CHANGED = (0, 100, 1000)
INTERVAL_S = 60
ROW = "{:>9} {:>7} {:>8} {:>7} {:>10} {:>11} {:>7} {:>10} {:>9} {:>9} {:>8} {:>9} {:>10} {:>9}"
HEADINGS = (
    *("devices", "plan s", "start s", "wall s", "assign us", "publish us", "per s", "per CPU s", "grown MB", "all s"),
    *(f"{count} s" for count in CHANGED),
    "look s",
)


@contextmanager
def broker_client(house: FleetHouse) -> Iterator[Publisher]:
    """The controller's own bulk connection at a mosquitto of its own, over mutual TLS."""
    with running_broker(house.settings) as pki:
        client = publisher(house.settings, pki)
        client.wait_connected()
        yield client
        client.close()


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of `work`, and what it returned."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def grown_mb(work: Callable[[], Any]) -> tuple[float, Any]:
    """By how much the process's highest memory rose during `work`, MB; and what it returned."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, result


def fill(house: FleetHouse, devices: int) -> None:
    """Devices that run v1 and have reported it; the first by the real way, the others as copies of its twin."""
    running = [slot(SlotState.CONFIRMED, house.image_id("v1")), slot()]
    with session_scope(house.engine) as session:
        first = apply_state(session, "m4-a", state(slots=running, active=0, report_interval_s=INTERVAL_S))
        twin = first.model_dump(exclude={"id", "tags"})
    for at in range(0, devices - 1, 5000):
        part = range(at, min(at + 5000, devices - 1))
        with session_scope(house.engine) as session:
            rows = [twin | {"id": f"m4-x{n:06}", "tags": {"site": f"site-{n % 4}"}} for n in part]
            session.connection().execute(insert(Device), rows)


def plan_of(house: FleetHouse, spec: Any) -> Any:
    """The plan."""
    with session_scope(house.engine, read_only=True) as session:
        return make_plan(session, spec)


def begin(house: FleetHouse, plan: Any) -> int:
    """Start the rollout, already in its last wave: everybody is to be assigned."""
    with session_scope(house.engine) as session:
        rollout = start_rollout(session, plan)
        rollout.stage, rollout.wave = RolloutStage.WAVES, plan.draw.waves - 1
        session.add(rollout)
        return rollout.id or 0


def publish_all(work: Work, rollout_id: int, client: Publisher) -> tuple[int, float, float]:
    """As many ticks as it takes: assignments that the broker acknowledged; CPU seconds to assign, to publish."""
    made, assign_s, publish_s = 0, 0.0, 0.0
    while True:
        spent_s, some = cpu(lambda: reconcile(work, rollout_id))
        assign_s += spent_s
        if not some:
            return made, assign_s, publish_s
        made += some
        spent_s, settled = cpu(lambda: drain_outbox(work.engine, client, work.fence))
        publish_s += spent_s
        assert settled >= some


def report(house: FleetHouse, count: int) -> None:
    """Some devices say that they download: they are the change of the next tick."""
    writing = [slot(SlotState.CONFIRMED, house.image_id("v1")), slot(SlotState.WRITING, house.image_id("v2"))]
    with session_scope(house.engine) as session:
        for device_id in session.exec(select(Desired.device_id).order_by(col(Desired.device_id).desc()).limit(count)):
            said = state(slots=writing, active=0, sequence=1, report_interval_s=INTERVAL_S)
            apply_state(session, device_id, said)


def ticks(house: FleetHouse, store: TelemetryStore, begun: datetime) -> dict[str, float]:
    """CPU seconds of ticks of the running rollout: one that reads all members, after 0, 100, 1,000 changes, a look."""
    found: dict[str, float] = {}

    def once(name: str, second: int) -> None:
        now = begun + timedelta(seconds=second)
        found[name], made = cpu(lambda: tick(house.engine, house.store, store, house.keys, house.fence, now))
        assert made == 0

    once("tick_all_s", 1)
    for second, count in enumerate(CHANGED, start=2):
        report(house, count)
        once(f"tick_{count}_s", second)
    once("tick_look_s", INTERVAL_S)
    with session_scope(house.engine, read_only=True) as session:
        assert session.exec(select(Rollout.look)).one() == 1, "the look fell into another tick"
    return found


def measure(devices: int) -> dict[str, float]:
    """One fleet."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
        house = make_house(Path(folder) / "fleet", devices=("m4-a",))
        fill(house, devices)
        spec = parse_spec({"model": "digits", "version": "v2", "canary": "5%"}, house.settings)
        plan_s, plan = cpu(lambda: plan_of(house, spec))
        start_s, rollout_id = cpu(lambda: begin(house, plan))
        store = TelemetryStore(house.settings)
        work = Work(house.engine, house.store, store, house.keys, house.fence, utc_now(), publish.assign_many)
        with broker_client(house) as client:
            started = time.monotonic()
            grown, (made, assign_s, publish_s) = grown_mb(lambda: publish_all(work, rollout_id, client))
            wall_s = time.monotonic() - started
        assert made == devices
        tick_s = ticks(house, store, work.now)
        house.engine.dispose()
    return {"devices": devices, "plan_s": plan_s, "start_s": start_s, "wall_s": wall_s,
            "assign_us": 1e6 * assign_s / made, "publish_us": 1e6 * publish_s / made, "per_s": made / wall_s,
            "per_cpu_s": made / (assign_s + publish_s), "grown_mb": grown} | tick_s  # fmt: skip


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", type=int, nargs="*", default=FLEETS, help="devices of each fleet")
    options = parser.parse_args()
    collect_rarely()  # as controller and API do
    rows = []
    print(ROW.format(*HEADINGS), flush=True)
    for devices in options.devices:
        row = measure(devices)
        rows.append(row)
        show = (("plan_s", ".2f"), ("start_s", ".2f"), ("wall_s", ".1f"), ("assign_us", ".0f"), ("publish_us", ".0f"))
        show += (("per_s", ".0f"), ("per_cpu_s", ".0f"), ("grown_mb", ".0f"), ("tick_all_s", ".2f"))
        show += (*((f"tick_{count}_s", ".3f") for count in CHANGED), ("tick_look_s", ".2f"))
        numbers = [format(row[name], form) for name, form in show]
        print(ROW.format(devices, *numbers), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
