"""Telemetry at rate: generator -> mosquitto -> ingesters -> database, all on this machine. `make bench-telemetry`.

    .venv/bin/python benchmarks/bench_telemetry.py --engine postgresql --seconds 300 --rate 16700 --devices 1000000
    ... --engine sqlite --seconds 300 --rate 12000 --devices 1000000     ... --tls     ... --rate 0 (as fast as it goes)

Each run first drives the raw pipeline (a subscriber that only acknowledges) for a short while, then the whole one on a
database that knows every device already, and prints CPU time per report by component and their ratio. Two cores carry
16,700 reports/s when the components together need less than 120 us a report. At the end the counters in the database,
in the totals and row by row, must equal the generator's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from telemetry_parts import (
    IMAGES,
    KINDS,
    POSTGRES,
    ROOT,
    broker_of,
    build_load,
    cpu_s,
    database_of,
    expected_totals,
    free_port,
    postgres_pid,
    report_of,
    run_load,
    scratch_folder,
)

from tinyfleet_service.broker.pki import INGESTERS, Pki
from tinyfleet_service.ingest.connection import ShareConnection
from tinyfleet_service.ingest.process import DROPPED, HELD, TELEMETRY, Ingester, loop
from tinyfleet_service.mqtt import Broker, MqttClient
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore
from tinyfleet_service.telemetry.counters import Counters
from tinyfleet_service.telemetry.decode import Report, decode_batch
from tinyfleet_service.telemetry.entries import Gains

RESULTS = ROOT / "benchmarks" / "results" / "telemetry.json"
FIRST = 1000  # reports every device has sent before: counters of real size
RAW_SECONDS = 5
SETTLE_S = 120
START_S = 120
LOOKUPS = 300
ROLLUP_ROW_BYTES = 100  # of a row besides its counters: key columns, header, index entry
SHARE = f"$share/bench/{TELEMETRY}"
ROW = "{:<26} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}"
HEADINGS = ("pipeline", "reports/s", "generator", "broker", "subscriber", "database", "total us", "ratio")


# ---- subscribers, each a process of its own

Work = Callable[[Settings, bool, int, Event], None]


def connection_of(settings: Settings, pki: Pki | None, member: int) -> ShareConnection:
    files = pki.service(INGESTERS[member]) if pki else None
    place = Broker("127.0.0.1", settings.broker_port, files)
    return ShareConnection(place, INGESTERS[member], {SHARE: 1, DROPPED: 0, HELD: 0})


def run_ingester(settings: Settings, tls: bool, member: int, ready: Event) -> None:
    connection = connection_of(settings, Pki.load(settings) if tls else None, member)
    connection.connect()
    store = TelemetryStore(settings)
    store.totals()
    ready.set()
    loop(Ingester(connection, store, settings.ingest_batch, member=member), store, threading.Event())


def run_drain(settings: Settings, tls: bool, member: int, ready: Event) -> None:
    connection = connection_of(settings, Pki.load(settings) if tls else None, member)
    connection.connect()
    ready.set()
    while True:
        connection.acknowledge([delivery.mid for delivery in connection.receive(0.1)])


def run_paho(settings: Settings, tls: bool, member: int, ready: Event) -> None:
    """The client of our control paths as subscriber, over TLS, as it always is."""
    files = Pki.load(settings).service(INGESTERS[member])
    client = MqttClient("127.0.0.1", settings.broker_port, ca=files.ca, certificate=files.certificate, key=files.key,
                        client_id=INGESTERS[member], clean_session=False, manual_ack=True)  # fmt: skip
    client.subscribe(SHARE, client.acknowledge)
    client.connect()
    ready.set()
    threading.Event().wait()


def start(work: Work, settings: Settings, tls: bool) -> list[BaseProcess]:
    context, processes = multiprocessing.get_context("spawn"), []
    for member in range(settings.ingesters):
        ready = context.Event()
        process = context.Process(target=work, args=(settings, tls, member, ready), daemon=True)
        process.start()
        processes.append((process, ready))
    for _, ready in processes:
        if not ready.wait(START_S):
            raise SystemExit("a subscriber did not start")
    time.sleep(1)  # the broker has their subscriptions by now
    return [process for process, _ in processes]


def end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
        process.join()


# ---- the database before and after


def prefill(settings: Settings, devices: int) -> None:
    """A row for every device as its report number FIRST would have left it."""
    store = TelemetryStore(settings)
    rows = [decode_batch([report_of(kind, FIRST)])[0] for kind in range(KINDS)]
    tables = store.tables
    columns = "device_id, at, boot, number, images, entries"
    for at in range(0, devices, 20_000):
        part = range(at, min(at + 20_000, devices))
        with tables.transaction():
            tables.execute(
                f"INSERT INTO {{device_report}} ({columns}) VALUES (?, ?, ?, ?, ?, ?)",
                [(name_of(device), time.time(), *_row(rows[device % KINDS])) for device in part],
            )
    totals = expected_totals([FIRST * len(range(kind, devices, KINDS)) for kind in range(KINDS)], devices)
    with tables.transaction():
        tables.execute(
            "INSERT INTO {image_total} (image, devices, reports, counters) VALUES (?, ?, 0, ?)",
            [(image, devices, json.dumps(counters.as_dict())) for image, counters in totals.items()],
        )
    store.close()
    if not settings.url.startswith("sqlite"):
        statement(settings, "VACUUM (ANALYZE) telemetry.device_report")
        statement(settings, "CHECKPOINT")


def _row(report: Report | str) -> Report:
    assert isinstance(report, Report)
    return report


def name_of(device: int) -> str:
    return f"m4-{device * 2654435761 % (1 << 32):08x}"


def statement(settings: Settings, text: str) -> Any:
    import psycopg
    from sqlalchemy.engine import make_url

    url = make_url(settings.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text)
        return cursor.fetchone()[0] if cursor.description else None


def sums_of_rows(store: TelemetryStore) -> tuple[dict[str, Counters], int]:
    """Counters per image added up from every device's row, and the sum of all report numbers."""
    sums, last, numbers = Gains(2), "", 0
    while True:
        with store.tables.reading():
            rows = store.tables.query(
                "SELECT device_id, number, images, entries FROM {device_report} WHERE device_id > ? "
                "ORDER BY device_id LIMIT 10000", [last],
            )  # fmt: skip
        if not rows:
            return {image.hex(): sums.counters(place) for place, image in enumerate(IMAGES)}, numbers
        assert {bytes(row[2]) for row in rows} == {b"".join(IMAGES)}
        sums.add([bytes(row[3]) for row in rows], np.tile([0, 1], (len(rows), 1)), 1)
        last, numbers = rows[-1][0], numbers + sum(row[1] for row in rows)


def check(settings: Settings, load: dict[str, Any], devices: int) -> float:
    """Seconds until the database held everything. Ends the run when the counters differ."""
    store, expected, started = TelemetryStore(settings), expected_totals(load["numbers"], devices), time.monotonic()
    while store.totals() != expected:
        if time.monotonic() - started > SETTLE_S:
            found = {image: counters.inferences for image, counters in store.totals().items()}
            wanted = {image: counters.inferences for image, counters in expected.items()}
            raise SystemExit(f"the totals are not the generator's: {found}, not {wanted}; {store.ingesters()}")
        time.sleep(0.2)
    waited = time.monotonic() - started
    sums, numbers = sums_of_rows(store)
    if sums != expected or numbers != sum(load["numbers"]):
        raise SystemExit("the rows are not the generator's")
    store.close()
    return waited


def lookups_ms(settings: Settings, devices: int) -> float:
    """95th percentile of reading one device's counters and when it was last heard."""
    store, times = TelemetryStore(settings), []
    for n in range(LOOKUPS):
        name, started = name_of(n * 7919 % devices), time.perf_counter()
        found = store.read_counters([name], IMAGES[0].hex()), store.last_heard([name])
        times.append(1000 * (time.perf_counter() - started))
        assert name in found[0]
        assert name in found[1]
    store.close()
    return float(np.percentile(times, 95))


# ---- runs


def measure(
    name: str, work: Work, settings: Settings, options: Any, program: Path, first: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One pipeline; (row of the table, what the generator said)."""
    pki = Pki.load(settings) if options.tls or work is run_paho else None
    postgres = postgres_pid(settings) if work is run_ingester and options.engine == "postgresql" else 0
    with broker_of(settings, pki) as broker:
        subscribers = start(work, settings, pki is not None)
        pids = [process.pid or 0 for process in subscribers]
        before = cpu_s(broker.pid), sum(map(cpu_s, pids)), cpu_s(postgres) if postgres else 0.0
        load = run_load(program, settings, pki, options, first)
        load["settled_s"] = check(settings, load, options.devices) if work is run_ingester else 0.0
        if work is not run_ingester:
            time.sleep(2)
        after = cpu_s(broker.pid), sum(map(cpu_s, pids)), cpu_s(postgres) if postgres else 0.0
        end(subscribers)
    micro = [1e6 * (b - a) / load["sent"] for a, b in zip(before, after, strict=True)]
    row = {"pipeline": name, "rate": load["sent"] / load["seconds"], "generator": 1e6 * load["cpu_s"] / load["sent"]}
    row |= {"broker": micro[0], "subscriber": micro[1], "database": micro[2]}
    return row | {"total": row["generator"] + sum(micro)}, load


def show(row: dict[str, Any], raw: dict[str, Any]) -> None:
    numbers = [f"{row[key]:.1f}" for key in ("generator", "broker", "subscriber", "database", "total")]
    print(ROW.format(row["pipeline"], f"{row['rate']:.0f}", *numbers, f"{row['total'] / raw['total']:.2f}"), flush=True)


def bench(options: Any, folder: Path, url: str) -> dict[str, Any]:
    settings = Settings(data=folder / "data", database_url=url, broker_port=free_port(), ingesters=options.ingesters,
                        ingest_batch=options.batch)  # fmt: skip
    settings.dirs.create()
    Pki.create(settings)
    program = build_load(folder)
    short = argparse.Namespace(**{**vars(options), "seconds": min(RAW_SECONDS, options.seconds)})
    print(ROW.format(*HEADINGS), flush=True)
    raw, _ = measure("raw: only acknowledged", run_drain, settings, short, program, FIRST)
    show(raw, raw)
    rows = [raw]
    if options.paho:
        few = argparse.Namespace(**{**vars(short), "rate": 2000})
        rows.append(measure("raw, paho, TLS", run_paho, settings, few, program, FIRST)[0])
        show(rows[-1], raw)
    prefill(settings, options.devices)
    wal = statement(settings, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") if url else 0
    full, load = measure(
        f"{options.engine}{' tls' if options.tls else ''}", run_ingester, settings, options, program, FIRST
    )
    show(full, raw)
    result = {"rows": [*rows, full], "load": load, "options": vars(options), "postgres": POSTGRES if url else None}
    return result | storage(settings, load, wal, options)


def storage(settings: Settings, load: dict[str, Any], wal: int, options: Any) -> dict[str, Any]:
    """Bytes kept and written, and how fast one device is looked up."""
    figures: dict[str, Any] = {"payload_bytes": load["payload_bytes"] / load["sent"], "settled_s": load["settled_s"]}
    if options.engine == "postgresql":
        figures["wal_bytes_per_report"] = float(
            statement(settings, "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn") - wal
        ) / load["sent"]  # fmt: skip
        figures["table_bytes"] = statement(settings, "SELECT pg_total_relation_size('telemetry.device_report')")
        figures["hot_update_share"] = float(statement(
            settings, "SELECT n_tup_hot_upd::float8 / greatest(n_tup_upd, 1) FROM pg_stat_user_tables "
            "WHERE relname = 'device_report'"))  # fmt: skip
    else:
        files = settings.dirs.telemetry, settings.dirs.telemetry.with_name("telemetry.db-wal")
        figures["table_bytes"], figures["wal_file_bytes"] = (path.stat().st_size for path in files)
    figures |= growth(settings, figures, options)
    figures["lookup_p95_ms"] = lookups_ms(settings, options.devices)
    for name, value in figures.items():
        print(f"{name:<26} {value:,.2f}" if isinstance(value, float) else f"{name:<26} {value:,}")
    return figures


def growth(settings: Settings, figures: dict[str, Any], options: Any) -> dict[str, Any]:
    """Bytes a day at one report a minute from every device, and what is kept once retention drops as much as comes.

    A device has one row, whatever it reports; only rollups grow, by a row per image, cohort and minute, later hour.
    """
    store = TelemetryStore(settings)
    with store.tables.reading():
        rows = store.tables.query("SELECT counters FROM {rollup}")
    row_bytes = sum(len(str(text)) for (text,) in rows) / max(len(rows), 1) + ROLLUP_ROW_BYTES
    store.close()
    minutes, hours = 1440 * settings.rollup_minutes_days, 24 * settings.rollup_hours_days
    of_cohort = len(IMAGES) * row_bytes
    grown = {
        "rollup_bytes_per_day_and_cohort": of_cohort * 1440,
        "rollup_bytes_kept_per_cohort": of_cohort * (minutes + hours),
    }
    grown["device_bytes"] = figures["table_bytes"] / options.devices
    if "wal_bytes_per_report" in figures:
        grown["wal_gb_per_day_of_million_devices"] = figures["wal_bytes_per_report"] * 1440 * 1e6 / 1e9
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["postgresql", "sqlite"], action="append")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, help="reports/s; default 16,700 on PostgreSQL, 12,000 on SQLite")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--ingesters", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2000)
    parser.add_argument("--paho", action="store_true", help="also the raw pipeline with paho as subscriber")
    options = parser.parse_args()
    results = []
    for engine in options.engine or ["postgresql", "sqlite"]:
        rate = options.rate if options.rate is not None else {"postgresql": 16_700, "sqlite": 12_000}[engine]
        one = argparse.Namespace(**{**vars(options), "engine": engine, "rate": rate})
        with scratch_folder() as folder, database_of(engine) as url:
            results.append(bench(one, Path(folder), url))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
