"""Questions to a service with a million devices: how long each answer takes. `make bench-queries`.

    .venv/bin/python benchmarks/bench_queries.py --devices 1000000 --engine sqlite --engine postgresql

Fills a database with devices (four classes, four sites, 200 lines, a rare tag, two images, three groups) and telemetry,
starts the service's api process on it and asks that over HTTP: the overview, one device, and pages of 100 devices by
selectors common, rare and empty. Prints median and 95th percentile of each in milliseconds, beside an empty request of
that run. A selector may take several requests until its page is full or all was looked at: each is one of those times,
and how many they were and what they took together, in the median, stand in the last columns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from sqlalchemy import Engine, insert, text  # noqa: E402
from telemetry_parts import POSTGRES, free_port  # noqa: E402

from integration.fleet_database import PROJECT  # noqa: E402
from postgres import postgres_server  # noqa: E402
from tinyfleet_ota.protocol import SlotState  # noqa: E402
from tinyfleet_service.auth import create_token  # noqa: E402
from tinyfleet_service.broker.pki import Pki  # noqa: E402
from tinyfleet_service.database.device_index import rebuild  # noqa: E402
from tinyfleet_service.database.engine import make_engine, session_scope  # noqa: E402
from tinyfleet_service.database.migrate import upgrade  # noqa: E402
from tinyfleet_service.database.models import Device, DeviceGroup, GroupMember, Project, utc_now  # noqa: E402
from tinyfleet_service.devices import apply_state  # noqa: E402
from tinyfleet_service.keys import ensure_keys  # noqa: E402
from tinyfleet_service.settings import Settings, load_settings  # noqa: E402
from tinyfleet_service.telemetry import TelemetryStore  # noqa: E402
from unit.service.fleet_state_builders import slot, state  # noqa: E402
from unit.service.fleet_telemetry_builders import image_counters, telemetry  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "queries.json"
CLASSES = ("cortex-m0plus", "cortex-m4", "cortex-m33", "esp32-s3")
SITES = ("lyon", "oslo", "rome", "kyiv")
LINES = 200
ODD_LINES = tuple(str(line) for line in range(1, 100, 2))
"""Of devices with odd numbers, none of which is in the group `half`."""
IMAGES = ("a0" * 16, "a1" * 16)
ASKED = 60
"""Requests of a question, and at least so often the whole question."""
AT_LEAST = 5
ANSWER_S = 60
LIMIT = 100
PAGE = 10_000
ROW = "{:<12} {:<48} {:>9} {:>9} {:>7} {:>9} {:>9}"


def questions(devices: int) -> dict[str, str]:
    """Name -> path; `{n}` is a number that changes from one request to the next."""
    page = f"/api/v1/devices?limit={LIMIT}&where="
    return {
        "empty request": "/healthz",
        "overview": "/api/v1/overview",
        "one device, last state": "/api/v1/devices/m4-{n:07}",
        "first page": f"/api/v1/devices?limit={LIMIT}",
        "a later page": f"/api/v1/devices?limit={LIMIT}&after=m4-{devices // 2:07}",
        "class=cortex-m4": page + "class%3Dcortex-m4",
        "class=cortex-m4 and site=lyon": page + "class%3Dcortex-m4 and site%3Dlyon",
        "line=77 (1 in 200)": page + "line%3D77",
        "pilot=yes (50 devices)": page + "pilot%3Dyes",
        "class=cortex-m4 and pilot=yes": page + "class%3Dcortex-m4 and pilot%3Dyes",
        "site=nowhere (none)": page + "site%3Dnowhere",
        "image=a1* and not site=oslo": page + "image%3Da1* and not site%3Doslo",
        "group=pilots (50 devices)": page + "group%3Dpilots",
        "group=floor (1 in 100)": page + "group%3Dfloor",
        "group=half": page + "group%3Dhalf",
        "group=floor and line=77": page + "group%3Dfloor and line%3D77",
        "group=floor and line=77 and not pilot=yes": page + "group%3Dfloor and line%3D77 and not pilot%3Dyes",
        "group=floor and line in (77, 78)": page + "group%3Dfloor and line in (77, 78)",
        "group=floor and class=esp32-s3 (none)": page + "group%3Dfloor and class%3Desp32-s3",
        "line=77 or pilot=yes": page + "line%3D77 or pilot%3Dyes",
        "site=nowhere or line=999 (none)": page + "site%3Dnowhere or line%3D999",
        "group=half and class=cortex-m4 (none)": page + "group%3Dhalf and class%3Dcortex-m4",
        "group=half and line in (50 of 200) (none)": page + f"group%3Dhalf and line in ({', '.join(ODD_LINES)})",
        "group!=half and site=lyon": page + "group!%3Dhalf and site%3Dlyon",
        "not site in (lyon, oslo, rome, kyiv) (1)": page + "not site in (lyon, oslo, rome, kyiv)",
        "id=m4-09999* and not site=lyon": page + "id%3Dm4-09999* and not site%3Dlyon",
        'group="" and line=77': page + 'group%3D"" and line%3D77',
        "groups": "/api/v1/groups",
        "group floor, counted by class and state": "/api/v1/groups/floor",
        "id in (three)": page + "id in (m4-0000007, m4-0000099, m4-0000500)",
    }


def fill(settings: Settings, engine: Engine, devices: int) -> None:
    """One device by the real way, the others as copies of its twin with class, tags and image of their own."""
    with session_scope(engine) as session:
        session.add(Device(id="m4-x", project_id=PROJECT, device_class="cortex-m4"))
        session.flush()
        slots = [slot(SlotState.CONFIRMED, bytes.fromhex(IMAGES[0])), slot(SlotState.SHADOW, bytes.fromhex(IMAGES[1]))]
        twin = apply_state(session, "m4-x", state(slots=slots, active=0)).model_dump(exclude={"id", "tags"})
    for at in range(0, devices, PAGE):
        rows = [twin | _own(n, devices) for n in range(at, min(at + PAGE, devices))]
        with session_scope(engine) as session:
            session.connection().execute(insert(Device), rows)
    with session_scope(engine) as session:
        rebuild(session)
        for number, (name, every) in enumerate({"pilots": devices // 50, "floor": 100, "half": 2}.items(), 1):
            ids = [f"m4-{n:07}" for n in range(0, devices, every)]
            classes = Counter(CLASSES[n % 4] for n in range(0, devices, every))
            session.add(DeviceGroup(id=number, project_id=PROJECT, name=name, devices=len(ids), by_class=classes))
            session.flush()
            rows = [{"group_id": number, "device_id": device_id} for device_id in ids]
            session.connection().execute(insert(GroupMember), rows)
    _fill_telemetry(settings, devices)


def _own(n: int, devices: int) -> dict[str, Any]:
    tags = {"site": SITES[n // 4 % 4], "line": str(n * 7919 % LINES)} | (
        {"pilot": "yes"} if n % (devices // 50) == 3 else {}
    )
    return {"id": f"m4-{n:07}", "device_class": CLASSES[n % 4], "tags": tags, "active_image": IMAGES[n // 16 % 2],
            "last_seen_at": utc_now()}  # fmt: skip


def _fill_telemetry(settings: Settings, devices: int) -> None:
    """A row of telemetry for every device, copies of one that was ingested."""
    store = TelemetryStore(settings)
    assert store.ingest([("m4-x", telemetry(image_counters(inferences=5)))]).stored
    with store.tables.reading():
        row = store.tables.query(
            "SELECT at, boot, number, images, entries FROM {device_report} WHERE device_id = ?", ["m4-x"]
        )[0]
    for at in range(0, devices, PAGE):
        with store.tables.transaction():
            store.tables.execute(
                "INSERT INTO {device_report} (device_id, at, boot, number, images, entries) VALUES (?, ?, ?, ?, ?, ?)",
                [(f"m4-{n:07}", *row) for n in range(at, min(at + PAGE, devices))],
            )
    store.close()


@contextmanager
def service(engine_name: str, devices: int) -> Iterator[httpx.Client]:
    """The api process on a filled database."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder, _url_of(engine_name) as url:
        settings = load_settings(Path(folder), database_url=url, http_port=free_port())
        settings.dirs.create()
        ensure_keys(settings)
        Pki.create(settings)
        engine = make_engine(settings)
        upgrade(engine)
        with session_scope(engine) as session:
            session.add(Project(id=PROJECT, name="default"))
            session.flush()
            _, token = create_token(session, PROJECT, "bench", "viewer")
        fill(settings, engine, devices)
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        engine.dispose()
        headers = {"Authorization": f"Bearer {token}"}
        with _api_process(settings) as url, httpx.Client(base_url=url, headers=headers, timeout=ANSWER_S) as client:
            yield client


@contextmanager
def _api_process(settings: Settings) -> Iterator[str]:
    log = settings.data / "api.log"
    command = [sys.executable, "-m", "tinyfleet_service.serve", "api", "--data", settings.data, "--log", log]
    environment = {"TINYFLEET_DATABASE_URL": settings.database_url, "TINYFLEET_HTTP_PORT": str(settings.http_port),
                   "TINYFLEET_RATE_TOKEN_PER_S": "0", "TINYFLEET_RATE_ADDRESS_PER_S": "0"}  # fmt: skip
    url = f"http://{settings.host}:{settings.http_port}"
    with subprocess.Popen(command, env=os.environ | environment) as process:
        try:
            while not _answers(url):
                assert process.poll() is None, "the api process has ended"
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").is_success
    except httpx.TransportError:
        return False


@contextmanager
def _url_of(engine_name: str) -> Iterator[str]:
    if engine_name == "sqlite":
        yield ""
        return
    with postgres_server(POSTGRES) as url:
        yield url


class Asked(NamedTuple):
    """What a question took: milliseconds of each request, and devices or other things found."""

    times_ms: list[float]
    items: int


def ask(client: httpx.Client, path: str) -> Asked:
    """Ask until the page is full or there is nothing more to look at."""
    times: list[float] = []
    items, after = 0, ""
    while True:
        started = time.perf_counter()
        answer = client.get(path + after)
        times.append(1000 * (time.perf_counter() - started))
        assert answer.status_code == 200, answer.text
        found = answer.json()
        items += len(found.get("items", []))
        if found.get("next") is None or items >= LIMIT:
            return Asked(times, items)
        after = f"&after={found['next']}"


def measure(engine_name: str, devices: int) -> list[dict[str, Any]]:
    """All questions on one engine."""
    rows = []
    with service(engine_name, devices) as client:
        for name, path in questions(devices).items():
            ask(client, path.format(n=0))
            asked = list[Asked]()
            while len(asked) < AT_LEAST or sum(len(one.times_ms) for one in asked) < ASKED:
                asked.append(ask(client, path.format(n=len(asked) * 7919 % devices)))
            times = [time_ms for one in asked for time_ms in one.times_ms]
            rows.append({"engine": engine_name, "devices": devices, "question": name, "p50_ms": float(np.median(times)),
                         "p95_ms": float(np.percentile(times, 95)), "items": asked[0].items,
                         "requests": float(np.median([len(one.times_ms) for one in asked])),
                         "together_ms": float(np.median([sum(one.times_ms) for one in asked]))})  # fmt: skip
            last = rows[-1]
            figures = (f"{last[key]:.1f}" for key in ("p50_ms", "p95_ms"))
            together = (f"{last['requests']:.0f}", f"{last['together_ms']:.0f}")
            print(ROW.format(engine_name, name, *figures, last["items"], *together), flush=True)
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["postgresql", "sqlite"], action="append")
    parser.add_argument("--devices", type=int, default=1_000_000)
    options = parser.parse_args()
    print(
        ROW.format(
            "engine", f"question to {options.devices:,} devices", "p50 ms", "p95 ms", "items", "requests", "all, ms"
        ),
        flush=True,
    )
    rows = [row for engine in options.engine or ["sqlite", "postgresql"] for row in measure(engine, options.devices)]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
