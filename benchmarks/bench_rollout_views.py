"""What it costs to look at a rollout of many devices, and what its looks store. `make bench-rollout-views`.

For 1,000, 10,000 and 100,000 devices on SQLite: a running canary stage, 5 % of the devices against the others, members
in every status, counters of two images of every device, three looks. CPU seconds of the list, the view (API, CLI,
dashboard), the decisions as the dashboard shows them (stored) and as `explain` does (recomputed), each in a process of
its own, with the most memory it took beyond what it began with; the same of a fourth look: counters read, frozen, added
to those of the looks before, gates judged, the members having been read before. Bytes that a look has stored, in all
and for each device in it.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from bench_assignment import fill, plan_of  # noqa: E402
from sqlalchemy import func, update  # noqa: E402
from sqlmodel import Session, col, select  # noqa: E402

from integration.fleet_house import FleetHouse, make_house  # noqa: E402
from tinyfleet_service import rollouts  # noqa: E402
from tinyfleet_service.database.engine import make_engine, session_scope  # noqa: E402
from tinyfleet_service.database.models import (  # noqa: E402
    MemberStatus,
    Rollout,
    RolloutMember,
    RolloutStage,
    SnapshotPage,
    utc_now,
)
from tinyfleet_service.rollouts.cohort import Cohort  # noqa: E402
from tinyfleet_service.rollouts.look import look_now, store_look  # noqa: E402
from tinyfleet_service.rollouts.members import read_pages  # noqa: E402
from tinyfleet_service.settings import Settings  # noqa: E402
from tinyfleet_service.telemetry import TelemetryStore  # noqa: E402
from unit.service.fleet_telemetry_builders import image_counters, telemetry  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "rollout-views.json"
FLEETS = (1000, 10_000, 100_000)
LOOKS = 3
BATCH = 2000
ROW = "{:>9} {:>9} {:>7} {:>9} {:>7} {:>11} {:>7} {:>11} {:>7} {:>9} {:>7} {:>11} {:>12} {:>15}"
HEADINGS = (
    "devices",
    "list s",
    "MB",
    "view s",
    "MB",
    "decisions s",
    "MB",
    "explain s",
    "MB",
    "look s",
    "MB",
    "KB a look",
    "devices in it",
    "bytes a device",
)


def begin(house: FleetHouse, plan: Any) -> None:
    """The rollout in its canary stage, its canaries active for an hour, other members in every status."""
    start = utc_now() - timedelta(hours=1)
    statuses = list(MemberStatus)
    with session_scope(house.engine) as session:
        rollout = rollouts.start_rollout(session, plan)
        rollout.stage, rollout.stage_since = RolloutStage.CANARY, start
        of_wave = col(RolloutMember.wave) == 0
        active = {"status": MemberStatus.CONFIRMED, "assigned_at": start, "activated_at": start, "heard_at": start}
        session.connection().execute(update(RolloutMember).where(of_wave).values(active))
        for at, status in enumerate(statuses):  # one in a hundred of the others, so that most are controls
            some = col(RolloutMember.id) % (100 * len(statuses)) == at
            session.connection().execute(update(RolloutMember).where(~of_wave, some).values(status=status))


def count_on(house: FleetHouse, store: TelemetryStore, report: int, draw: np.random.Generator) -> None:
    """Every device reports once more: both images have counted on."""
    images = [house.image_id("v1"), house.image_id("v2")]
    with session_scope(house.engine, read_only=True) as session:
        names = list(session.exec(select(RolloutMember.device_id)))
    for at in range(0, len(names), BATCH):
        part = names[at : at + BATCH]
        rates = draw.poisson(1000, (len(part), len(images)))
        batch = [(name, _message(images, rate, report)) for name, rate in zip(part, rates.tolist(), strict=True)]
        store.ingest(batch)


def _message(images: list[bytes], rate: list[int], report: int) -> bytes:
    counters = []
    for image, each in zip(images, rate, strict=True):
        n = each * report
        buckets = [v for bucket in range(3) for v in (40 + bucket, n // (1 + bucket))]
        counters.append(
            image_counters(
                image, inferences=n, labelled=n // 10, correct=n // 11, active_s=60 * report, faults=n // 900,
                latency_histogram=buckets,
            )
        )  # fmt: skip
    return telemetry(*counters, report=report)


def look(house: FleetHouse, store: TelemetryStore, number: int) -> None:
    """One look, as a tick takes it."""
    with session_scope(house.engine) as session:
        cohort = cohort_of(session, store)
        store_look(session, cohort, look_now(session, cohort, store))
        assert cohort.rollout.look == number, (cohort.rollout.look, number)


def cohort_of(session: Session, store: TelemetryStore) -> Cohort:
    """Everybody, an hour after the newest look."""
    rollout = session.exec(select(Rollout)).one()
    pages = list(read_pages(session, rollout, 5000))
    members = {name: member for page in pages for name, member in page.members.items()}
    devices = {name: device for page in pages for name, device in page.devices.items()}
    now = rollout.stage_since + timedelta(hours=rollout.look + 1)
    return Cohort(rollout, members, devices, store.last_heard(list(members)), now)


def stored(house: FleetHouse) -> dict[str, float]:
    """What one look has stored, the starts left out."""
    with session_scope(house.engine, read_only=True) as session:
        sums = select(func.sum(func.length(SnapshotPage.columns)), func.sum(SnapshotPage.devices))
        size, _ = session.exec(sums.where(SnapshotPage.look == LOOKS)).one()
        counted = select(func.sum(SnapshotPage.devices)).where(SnapshotPage.look == LOOKS, SnapshotPage.kind == "look")
        devices = session.exec(counted).one()
    return {"look_bytes": size, "look_devices": devices, "device_bytes": size / devices}


ASKED: dict[str, Callable[[Session, TelemetryStore], Callable[[], Any]]] = {
    "list": lambda session, _: lambda: rollouts.list_rollouts(session, 1),
    "view": lambda session, store: lambda: rollouts.rollout_view(session, 1, store),
    "decisions": lambda session, _: lambda: rollouts.explain(session, 1, recompute=False),
    "explain": lambda session, _: lambda: rollouts.explain(session, 1),
    "look": lambda session, store: partial(next_look, session, cohort_of(session, store), store),
}
"""What is measured, of a session in which everything before it has been read."""


def next_look(session: Session, cohort: Cohort, store: TelemetryStore) -> None:
    """What a tick does of a look before its transaction."""
    assert look_now(session, cohort, store).results


def ask(name: str, settings: Settings) -> tuple[float, float]:
    """CPU seconds of one answer, and MB taken for it; in a process of its own."""
    engine, store = make_engine(settings), TelemetryStore(settings)
    with session_scope(engine, read_only=True) as session:
        session.exec(select(Rollout.id)).all()
        answer = ASKED[name](session, store)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far, which may be the parent's
        before = _status_kb("VmRSS")
        started = time.process_time()
        json.dumps(answer())
        spent = time.process_time() - started
    return spent, (_status_kb("VmHWM") - before) / 1024


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(devices: int) -> dict[str, float]:
    """One fleet."""
    draw = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
        house = make_house(Path(folder) / "fleet", devices=("m4-a",))
        fill(house, devices)
        spec = {"model": "digits", "version": "v2", "canary": "5%", "gates": {"shadow": "off"}}
        begin(house, plan_of(house, rollouts.parse_spec(spec, house.settings)))
        store = TelemetryStore(house.settings)
        for number in range(1, LOOKS + 1):
            count_on(house, store, number, draw)
            look(house, store, number)
        count_on(house, store, LOOKS + 1, draw)
        row: dict[str, float] = {"devices": devices} | stored(house)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for name in ASKED:
                row[f"{name}_s"], row[f"{name}_mb"] = pool.apply(ask, (name, house.settings))
        store.close()
        house.engine.dispose()
    return row


def main() -> int:
    """Print the table."""
    rows = []
    print(ROW.format(*HEADINGS), flush=True)
    for devices in map(int, sys.argv[1:]) if len(sys.argv) > 1 else FLEETS:
        row = measure(devices)
        rows.append(row)
        asked = [f"{row[name]:.{digits}f}" for one in ASKED for name, digits in ((f"{one}_s", 2), (f"{one}_mb", 0))]
        of_look = [f"{row['look_bytes'] / 1000:,.0f}", f"{row['look_devices']:,}", f"{row['device_bytes']:.1f}"]
        print(ROW.format(devices, *asked, *of_look), flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
