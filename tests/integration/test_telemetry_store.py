"""The telemetry store on SQLite and on PostgreSQL: the same sums, several writers, retention."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postgres import postgres_database, shared_server
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import Counters, TelemetryStore
from tinyfleet_service.telemetry.sqlite import SqliteTables
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, telemetry

NAME, OTHER = IMAGE.hex(), (b"o" * 16).hex()
server = pytest.fixture(shared_server, scope="module")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield Settings(data=tmp_path, rollup_minutes_days=1, rollup_hours_days=10)
        return
    with postgres_database(request.getfixturevalue("server")) as url:
        yield Settings(data=tmp_path, database_url=url, rollup_minutes_days=1, rollup_hours_days=10)


@pytest.fixture
def store(settings: Settings) -> Iterator[TelemetryStore]:
    store = TelemetryStore(settings)
    yield store
    store.close()


def message(inferences: int, boot: int = 1, report: int = 1, other: int | None = None) -> bytes:
    images = [image_counters(inferences=inferences)]
    if other is not None:
        images.append(image_counters(b"o" * 16, inferences=other, latency_histogram=[40, other]))
    return telemetry(*images, boot=boot, report=report)


def test_another_flash_counts_its_boots_from_the_beginning(store: TelemetryStore) -> None:
    for boot in range(1, 21):
        store.ingest([("m4-a", message(10, boot=boot, other=1 if boot < 3 else None))])
    assert store.ingest([("m4-a", message(5, boot=1, report=9))]).stored == 0
    store.count_anew("m4-a")
    store.count_anew("m4-b")
    assert store.read_counters(["m4-a", "m4-b"], NAME)["m4-a"].inferences == 200
    for boot in range(1, 21):
        assert store.ingest([("m4-a", message(5, boot=boot)), ("m4-b", message(1, boot=boot))]).stored == 2
    assert store.read_counters(["m4-a"], NAME)["m4-a"].inferences == 200 + 100
    assert store.totals()[NAME].inferences == 200 + 100 + 20
    assert store.read_counters(["m4-a"], (b"o" * 16).hex())["m4-a"].inferences == 2
    assert store.overview()[NAME]["devices"] == 2


def test_boots_add_up_duplicates_and_late_reports_do_not(store: TelemetryStore) -> None:
    assert store.ingest([("m4-a", message(10)), ("m4-b", message(1 << 40))]).stored == 2
    store.ingest([("m4-a", message(25, report=2))])
    for late in (message(10), message(25, report=2)):
        assert (store.ingest([("m4-a", late)]).stored, store.read_counters(["m4-a"], NAME)["m4-a"].inferences) == (
            0,
            25,
        )
    store.ingest([("m4-a", message(5, boot=2))])
    store.ingest([("m4-a", message(26, report=3))])  # the last of boot 1, behind the first of boot 2
    assert store.read_counters(["m4-a", "m4-x"], NAME)["m4-a"].inferences == 31
    assert store.totals()[NAME].inferences == 31 + (1 << 40)
    assert store.overview()[NAME]["devices"] == 2
    assert set(store.last_heard(["m4-a", "m4-b", "m4-x"])) == {"m4-a", "m4-b"}


def test_an_image_that_leaves_the_report_keeps_its_counters(store: TelemetryStore) -> None:
    store.ingest([("m4-a", message(10, other=7))])
    store.ingest([("m4-a", message(20, report=2))])
    store.ingest([("m4-a", message(30, report=4))])
    assert store.read_counters(["m4-a"], OTHER)["m4-a"].inferences == 7
    store.ingest([("m4-a", message(25, report=3, other=8))])  # late: only the second image is news
    assert store.read_counters(["m4-a"], OTHER)["m4-a"].latency_histogram == {40: 8}
    store.ingest([("m4-a", message(40, report=5, other=9))])
    assert (store.totals()[NAME].inferences, store.totals()[OTHER].inferences) == (40, 9)
    assert store.read_counters(["m4-a"], OTHER)["m4-a"].inferences == 9


def test_a_device_says_what_it_counted_of_each_image_the_newest_first(store: TelemetryStore) -> None:
    old = image_counters(b"o" * 16, inferences=9, labelled=8, correct=6, faults=1, predictions=[3, 9])
    store.ingest([("m4-a", telemetry(old))])
    new = image_counters(inferences=5, latency_histogram=[40, 5], shadow_pairs=[4, 1, 2, 1], energy_uj=70)
    store.ingest([("m4-a", telemetry(new, boot=2)), ("m4-b", message(77))])
    store.ingest([("m4-a", telemetry(new, boot=3))])
    counted = store.read_device("m4-a")
    assert list(counted) == [NAME, OTHER]
    assert (counted[NAME]["inferences"], counted[NAME]["energy_uj"], counted[NAME]["accuracy"]) == (10, 140, None)
    assert counted[NAME]["accuracy_with_shadow"] == 6 / 8
    assert counted[NAME]["latency_p95_us"] > counted[NAME]["latency_p50_us"] > 0
    assert (counted[OTHER]["accuracy"], counted[OTHER]["faults"], counted[OTHER]["predictions"]) == (0.75, 1, {3: 9})
    assert store.read_device("m4-x") == {}


def test_any_order_in_any_batches_by_several_writers_gives_the_sum_of_the_newest(settings: Settings) -> None:
    """Three ingesters at once, each message twice; every device ends with its newest report of each boot."""
    dice = random.Random(5)
    sent = [
        (f"m4-{device}", message(100 * boot + report, boot=boot, report=report, other=report if report % 3 else None))
        for device in range(12)
        for boot in range(1, 5)
        for report in range(1, 8)
    ]
    arrived = [*sent, *sent]
    dice.shuffle(arrived)

    def write(share: list[tuple[str, bytes]]) -> None:
        store = TelemetryStore(settings)
        for at in range(0, len(share), 40):
            store.ingest(share[at : at + 40])
        store.close()

    writers = [threading.Thread(target=write, args=(arrived[n::3],)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    store = TelemetryStore(settings)
    devices = [f"m4-{device}" for device in range(12)]
    first, second = store.read_counters(devices, NAME), store.read_counters(devices, OTHER)
    assert {c.inferences for c in first.values()} == {sum(100 * boot + 7 for boot in range(1, 5))}
    assert {c.inferences for c in second.values()} == {4 * 7}
    assert store.totals()[NAME].inferences == 12 * (1000 + 28)
    assert store.totals()[OTHER].latency_histogram == {40: 12 * 28}
    for image, each in ((NAME, first), (OTHER, second)):
        some = [*devices[:7], "m4-unknown"]
        assert store.sum_counters(some, image) == sum((each[name] for name in devices[:7]), Counters())
    assert store.sum_counters(devices, "ff" * 16) == store.sum_counters([], NAME) == Counters()
    since = datetime.now(UTC) - timedelta(hours=1)
    assert sum(row.counters.inferences for row in store.rollups(NAME, since)) == 12 * (1000 + 28)
    store.close()


def test_a_new_file_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses some of those that turn a file to its log together, and does not wait for them."""

    def begin(path: Path, together: threading.Barrier) -> None:
        tables = SqliteTables(path)
        together.wait()
        with tables.transaction():
            pass
        tables.close()

    for number in range(40):
        together = threading.Barrier(8)
        with ThreadPoolExecutor(together.parties) as pool:
            for begun in [pool.submit(begin, tmp_path / f"{number}.db", together) for _ in range(together.parties)]:
                begun.result()


def test_rollups_by_cohort_fold_into_hours_and_end(store: TelemetryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    store.set_cohorts({"m4-a": "12/canary", "m4-b": "12/control"})
    assert store.last_heard(["m4-a"]) == {}
    for minute in range(0, 180, 30):
        now = (start + timedelta(minutes=minute)).timestamp()
        monkeypatch.setattr("tinyfleet_service.telemetry.store.time.time", lambda now=now: now)
        store.ingest([(name, message(minute + 1, report=minute + 1)) for name in ("m4-a", "m4-b", "m4-c")])
    rows = store.rollups(NAME, start)
    assert {(row.cohort, row.width_s) for row in rows} == {("", 60), ("12/canary", 60), ("12/control", 60)}
    assert [row.counters.inferences for row in rows if row.cohort == "12/canary"] == [1, 30, 30, 30, 30, 30]
    assert store.expire(start + timedelta(hours=20)) == 0
    assert store.expire(start + timedelta(days=1, hours=2)) == 3 * (4 - 2)
    hours = [row for row in store.rollups(NAME, start) if row.cohort == "12/control"]
    assert [(row.width_s, row.reports, row.counters.inferences) for row in hours] == [
        (3600, 2, 31), (3600, 2, 60), (60, 1, 30), (60, 1, 30)
    ]  # fmt: skip
    store.expire(start + timedelta(days=11))
    assert store.rollups(NAME, start - timedelta(days=99)) == []
    assert store.totals()[NAME].inferences == 3 * 151


def test_nonsense_is_refused_and_a_device_cannot_make_up_images_without_end(store: TelemetryStore) -> None:
    assert len(store.ingest([("m4-bad", b"\xff"), ("m4-a", message(3))]).refused) == 1
    made_up = [telemetry(image_counters(n.to_bytes(16, "big"), inferences=1), report=n + 9) for n in range(70)]
    results = [store.ingest([("m4-a", payload)]) for payload in made_up]
    assert sum(result.stored for result in results) == 63
    assert "more than 64 images" in results[-1].refused[0]
    assert len(store.totals()) == 64
