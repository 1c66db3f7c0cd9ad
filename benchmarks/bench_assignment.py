"""Planning and assigning whole fleets, and what a tick costs once few devices lack anything. `make bench-assignment`.

For 1,000, 10,000 and 100,000 devices on SQLite with mosquitto: CPU seconds to plan and to start (members stored); then
everybody is assigned: signed, stored and published over mutual TLS until the broker has acknowledged it. Assignments
per second, and per CPU second of this process; by how much the process grew meanwhile; then CPU seconds to find and
assign the last 100 of the fleet.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sqlalchemy import insert  # noqa: E402
from sqlmodel import col, delete, select  # noqa: E402

from integration.fleet_house import FleetHouse, make_house  # noqa: E402
from integration.fleet_support import connected, running_broker  # noqa: E402
from tinyfleet_ota.protocol import SlotState  # noqa: E402
from tinyfleet_service import publish  # noqa: E402
from tinyfleet_service.controller.process import NAME  # noqa: E402
from tinyfleet_service.database.engine import session_scope  # noqa: E402
from tinyfleet_service.database.models import Desired, Device, RolloutStage, utc_now  # noqa: E402
from tinyfleet_service.devices import apply_state  # noqa: E402
from tinyfleet_service.mqtt import MqttClient  # noqa: E402
from tinyfleet_service.publish import drain_outbox  # noqa: E402
from tinyfleet_service.rollouts import make_plan, parse_spec, start_rollout  # noqa: E402
from tinyfleet_service.rollouts.assignments import Work, reconcile  # noqa: E402
from tinyfleet_service.telemetry import TelemetryStore  # noqa: E402
from unit.service.fleet_state_builders import slot, state  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "assignment.json"
FLEETS = (1000, 10_000, 100_000)
LEFT = 100
ROW = "{:>9} {:>8} {:>8} {:>9} {:>8} {:>12} {:>9} {:>10}"
HEADINGS = ("devices", "plan s", "start s", "publish s", "per s", "per CPU s", "grown MB", f"last {LEFT} s")


@contextmanager
def broker_client(house: FleetHouse) -> Iterator[MqttClient]:
    """The controller's own client at a mosquitto of its own, over mutual TLS."""
    with running_broker(house.settings) as pki, connected(house.settings, pki.service(NAME), NAME) as client:
        yield client


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
        first = apply_state(session, "m4-a", state(slots=running, active=0))
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


def publish_all(work: Work, rollout_id: int, client: MqttClient) -> int:
    """As many ticks as it takes: sign, store, publish; how many assignments the broker has acknowledged."""
    made = 0
    while some := reconcile(work, rollout_id):
        made += some
        assert drain_outbox(work.engine, client, work.fence) >= some
    return made


def forget(house: FleetHouse, count: int) -> None:
    """Take the assignments of some devices away: they are the change of the next tick."""
    with session_scope(house.engine) as session:
        names = list(session.exec(select(Desired.device_id).order_by(col(Desired.device_id).desc()).limit(count)))
        session.exec(delete(Desired).where(col(Desired.device_id).in_(names)))


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
            grown, (cpu_s, made) = grown_mb(lambda: cpu(lambda: publish_all(work, rollout_id, client)))
            wall_s = time.monotonic() - started
        assert made == devices
        forget(house, LEFT)
        left_s, again = cpu(lambda: reconcile(work, rollout_id))
        assert again == LEFT
        house.engine.dispose()
    return {"devices": devices, "plan_s": plan_s, "start_s": start_s, "wall_s": wall_s, "cpu_s": cpu_s,
            "per_s": made / wall_s, "per_cpu_s": made / cpu_s, "grown_mb": grown, "left_s": left_s}  # fmt: skip


def main() -> int:
    """Print the table."""
    rows = []
    print(ROW.format(*HEADINGS), flush=True)
    for devices in map(int, sys.argv[1:]) if len(sys.argv) > 1 else FLEETS:
        row = measure(devices)
        rows.append(row)
        show = (("plan_s", ".2f"), ("start_s", ".2f"), ("wall_s", ".1f"), ("per_s", ".0f"), ("per_cpu_s", ".0f"))
        numbers = [format(row[name], form) for name, form in (*show, ("grown_mb", ".0f"), ("left_s", ".3f"))]
        print(ROW.format(devices, *numbers), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
