"""The telemetry store: sums stay right under loss, duplication, reordering, reboots and nonsense."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tinyfleet_ota.protocol_codec import latency_bucket
from tinyfleet_service.database.keep_lease import keep_nothing
from tinyfleet_service.errors import DatabaseUnavailableError
from tinyfleet_service.rollouts.paced import PacedTelemetry
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import Counters, TelemetryStore, histogram_quantile
from tinyfleet_service.telemetry.merge import DAY_S, KEEP_BOOTS, MAX_IMAGES_PER_DEVICE, TURNOVER_PER_DAY
from unit.service.fleet_telemetry_builders import IMAGE, image_counters, plainly, telemetry

NAME = IMAGE.hex()


@pytest.fixture
def store(tmp_path: Path) -> TelemetryStore:
    return TelemetryStore(Settings(data=tmp_path))


def counted(inferences: int, **values: object) -> dict[str, object]:
    return image_counters(inferences=inferences, **values)


def test_the_newest_report_of_a_boot_counts_and_boots_add_up(store: TelemetryStore) -> None:
    store.ingest([("m4-a", telemetry(counted(10, labelled=4, correct=3), report=1))])
    store.ingest([("m4-a", telemetry(counted(25, labelled=8, correct=7), report=2))])
    store.ingest([("m4-a", telemetry(counted(5, labelled=2, correct=0), boot=2, report=1))])
    store.ingest([("m4-b", telemetry(counted(100)))])
    counters = store.read_counters(["m4-a", "m4-b", "m4-never"], NAME)
    assert set(counters) == {"m4-a", "m4-b"}
    assert (counters["m4-a"].inferences, counters["m4-a"].labelled, counters["m4-a"].correct) == (30, 10, 7)
    assert counters["m4-a"].accuracy == 0.7
    assert store.totals()[NAME].inferences == 130
    assert store.overview()[NAME]["devices"] == 2
    assert set(store.last_heard(["m4-a", "m4-b", "m4-never"])) == {"m4-a", "m4-b"}


def test_every_field_arrives(store: TelemetryStore) -> None:
    values = {
        "inferences": 7,
        "latency_histogram": [40, 5, 44, 2],
        "confidence_histogram": [0, 1, 9, 6],
        "predictions": [3, 7],
        "labelled": 6,
        "correct": 5,
        "faults": 1,
        "active_s": 60,
        "shadow_inferences": 9,
        "shadow_agree": 8,
        "shadow_pairs": [4, 3, 2, 1],
        "shadow_latency_histogram": [41, 9],
        "arena_high_water_bytes": 4096,
        "energy_uj": 77,
        "activations": 1,
    }
    store.ingest([("m4-a", telemetry(image_counters(**values)))])
    counters = store.read_counters(["m4-a"], NAME)["m4-a"]
    assert counters.latency_histogram == {40: 5, 44: 2}
    assert counters.shadow_pairs == (4, 3, 2, 1)
    assert counters.accuracy_with_shadow == (5 + 4 + 2) / (6 + 10)
    assert Counters.from_dict(counters.as_dict()) == counters
    for name in ("inferences", "faults", "active_s", "shadow_agree", "arena_high_water_bytes", "energy_uj"):
        assert getattr(counters, name) == values[name]


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 2**32))
def test_loss_duplication_and_order_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[int]], seed: int
) -> None:
    """Whatever arrives, in whatever batches: the result is the sum over boots of the newest report that came."""
    store = TelemetryStore(Settings(data=tmp_path_factory.mktemp("t")))
    dice = random.Random(seed)
    sent = []
    for boot, gains in enumerate(steps, start=1):
        for report in range(1, len(gains) + 1):
            sent.append((boot, report, sum(gains[:report])))
    arrived = [dice.choice(sent) for _ in range(2 * len(sent))]
    messages = [("m4-a", telemetry(counted(total), boot=boot, report=report)) for boot, report, total in arrived]
    while messages:
        size = dice.randint(1, 5)
        store.ingest(messages[:size])
        messages = messages[size:]
    newest = {boot: max(r for b, r, _ in arrived if b == boot) for boot, _, _ in arrived}
    expected = sum(total for boot, report, total in set(arrived) if report == newest[boot])
    assert store.read_counters(["m4-a"], NAME)["m4-a"].inferences == expected
    assert store.totals()[NAME].inferences == expected
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_columns_hold_what_each_device_counted(
    store: TelemetryStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several images, boots and devices read in parts, whatever came last; some counters beyond 32 bits."""
    monkeypatch.setattr("tinyfleet_service.telemetry.store._READ_AT_ONCE", 3)
    monkeypatch.setattr("tinyfleet_service.rollouts.paced.PART", 5)
    dice = random.Random(seed)
    images = [bytes([n]) * 16 for n in range(3)]
    devices = [f"m4-{n}" for n in range(8)]
    for report in range(1, 60):
        parts = [image_counters(image, **drawn(dice)) for image in dice.sample(images, dice.randint(1, 3))]
        store.ingest([(dice.choice(devices), telemetry(*parts, boot=dice.randint(1, 5), report=report))])
    asked = dice.sample([*devices, "m4-never"], 8)
    for image in (*(image.hex() for image in images), "f" * 32):
        one_by_one = [store.read_counters([device], image).get(device, Counters()) for device in asked]
        for reader in (store, PacedTelemetry(store, keep_nothing)):
            columns = reader.read_columns(asked, image)
            found = [{key: int(column[at]) for key, column in columns.items() if column[at]} for at in range(8)]
            assert found == [plainly(counters) for counters in one_by_one]
            assert all(column.any() for column in columns.values())


def drawn(dice: random.Random) -> dict[str, object]:
    huge = 2**40 if dice.random() < 0.2 else 50
    return {
        "inferences": dice.randrange(huge),
        "labelled": dice.randrange(3),
        "arena_high_water_bytes": dice.randrange(9000),
        "shadow_pairs": [dice.randrange(3) for _ in range(4)],
        "latency_histogram": [40, dice.randrange(1, huge), 41, dice.randrange(1, 9)][: 2 * dice.randrange(3)],
        "predictions": [dice.randrange(10), dice.randrange(1, 9)],
    }


def test_old_boots_are_folded_and_late_reports_of_them_are_known(store: TelemetryStore, tmp_path: Path) -> None:
    for boot in range(1, 31):
        store.ingest([("m4-a", telemetry(counted(boot), boot=boot, report=2))])
    assert store.read_counters(["m4-a"], NAME)["m4-a"].inferences == sum(range(1, 31))
    with sqlite3.connect(tmp_path / "telemetry.db") as db:
        assert db.execute("SELECT count(*) FROM past_report").fetchone()[0] <= KEEP_BOOTS + 1
    late = store.ingest([("m4-a", telemetry(counted(99), boot=3, report=9))])
    assert (late.stored, late.known) == (0, 1)
    store.ingest([("m4-a", telemetry(counted(40), boot=30, report=3))])
    store.ingest([("m4-a", telemetry(counted(1), boot=31, report=1))])
    assert store.read_counters(["m4-a"], NAME)["m4-a"].inferences == sum(range(1, 30)) + 40 + 1
    assert store.totals()[NAME].inferences == sum(range(1, 30)) + 40 + 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 50,
        b"\xa1\x00\x01",
        telemetry(counted(1))[:-1],
        telemetry(counted(1), counted(2)),
        telemetry(counted(1), boot=2**40),
        telemetry(counted(1, latency_histogram=[1 << 50, 1])),
        telemetry(*(image_counters(bytes([n]) * 16) for n in range(17))),
    ],
    ids=["empty", "noise", "short map", "truncated", "image twice", "boot", "bucket", "too many images"],
)
def test_nonsense_is_refused_and_good_messages_beside_it_are_stored(store: TelemetryStore, payload: bytes) -> None:
    result = store.ingest([("m4-bad", payload), ("m4-good", telemetry(counted(3)))])
    assert result.stored == 1
    assert len(result.refused) == 1
    assert "m4-bad" in result.refused[0]
    assert set(store.read_counters(["m4-good", "m4-bad"], NAME)) == {"m4-good"}


def test_a_device_cannot_fill_the_store_with_made_up_images(store: TelemetryStore) -> None:
    for n in range(MAX_IMAGES_PER_DEVICE + 5):
        store.ingest([("m4-a", telemetry(image_counters(n.to_bytes(16, "big"), inferences=1), report=n + 1))])
    assert len(store.totals()) == MAX_IMAGES_PER_DEVICE
    store.ingest([("m4-a", telemetry(image_counters((0).to_bytes(16, "big"), inferences=9), report=999))])
    assert store.totals()[(0).to_bytes(16, "big").hex()].inferences == 9


def image_named(n: int) -> bytes:
    return n.to_bytes(16, "big")


def test_a_device_counts_however_many_versions_it_has_run(
    store: TelemetryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version a day, reported beside the one before, a reset every other day: the newest always count."""
    days = 3 * MAX_IMAGES_PER_DEVICE
    for day in range(1, days):
        monkeypatch.setattr("tinyfleet_service.telemetry.store.time.time", lambda day=day: day * DAY_S)
        both = [image_counters(image_named(n), inferences=10) for n in (day - 1, day)]
        assert not store.ingest([("m4-a", telemetry(*both, boot=day // 2 + 1, report=day))]).refused
        assert store.read_counters(["m4-a"], image_named(day).hex())["m4-a"].inferences == 10
    kept = [n for n in range(days) if store.read_counters(["m4-a"], image_named(n).hex())]
    assert kept == list(range(days - MAX_IMAGES_PER_DEVICE, days))
    # Seen beside the one before and beside the next one, in one boot or in two.
    assert {store.totals()[image_named(n).hex()].inferences for n in range(1, days - 1)} == {10, 20}
    late = image_counters(image_named(0), inferences=10)
    assert store.ingest([("m4-a", telemetry(late, boot=1, report=99))]).stored == 0


def test_resets_do_not_let_a_device_make_images_up_without_end(
    store: TelemetryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day, beyond in ((1, TURNOVER_PER_DAY), (2, 2 * TURNOVER_PER_DAY)):
        monkeypatch.setattr("tinyfleet_service.telemetry.store.time.time", lambda day=day: day * DAY_S)
        for n in range(2 * MAX_IMAGES_PER_DEVICE):
            made_up = image_counters(image_named(1000 * day + n), inferences=1)
            result = store.ingest([("m4-a", telemetry(made_up, boot=1000 * day + n, report=1))])
        assert len(store.totals()) == MAX_IMAGES_PER_DEVICE + beyond
        assert "more than 64 images" in result.refused[0]


def test_damaged_database_is_unavailable_and_works_again_once_replaced(store: TelemetryStore, tmp_path: Path) -> None:
    (tmp_path / "telemetry.db").write_bytes(b"this is not a database" * 100)
    message = [("m4-a", telemetry(counted(3)))]
    with pytest.raises(DatabaseUnavailableError, match="telemetry database"):
        store.ingest(message)
    (tmp_path / "telemetry.db").unlink()
    assert store.ingest(message).stored == 1


def test_locked_database_stores_nothing_of_the_batch(
    store: TelemetryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyfleet_service.telemetry.sqlite.BUSY_S", 0.01)
    store.totals()
    other = sqlite3.connect(tmp_path / "telemetry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailableError):
        store.ingest([("m4-a", telemetry(counted(3)))])
    other.execute("ROLLBACK")
    other.close()
    assert store.read_counters(["m4-a"], NAME) == {}
    assert store.ingest([("m4-a", telemetry(counted(3)))]).stored == 1


@given(st.lists(st.integers(1, 1 << 30), min_size=1, max_size=300), st.sampled_from([0.5, 0.95]))
def test_quantile_lies_within_a_quarter_octave_of_the_true_one(latencies: list[int], quantile: float) -> None:
    histogram: dict[int, int] = {}
    for value in latencies:
        histogram[latency_bucket(value)] = histogram.get(latency_bucket(value), 0) + 1
    ordered = sorted(latencies)
    true = ordered[max(0, -(-int(quantile * 100) * len(ordered) // 100) - 1)]
    estimate = histogram_quantile(histogram, quantile)
    assert estimate is not None
    assert true / 1.26 <= estimate <= true * 1.26


def test_quantile_of_nothing_is_none() -> None:
    assert histogram_quantile({}, 0.5) is None
    assert Counters().latency_us(0.95) is None
    assert Counters().accuracy is None
