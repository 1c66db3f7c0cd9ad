"""The memory behind the page's charts: one thread fills it, every page that is open reads it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from tinyfleet_service.dashboard.samples import KEEP, Samples

VERSION = {"version": "m:v1", "labelled": 10, "correct": 5, "latency_p50_us": 7.0}


@pytest.fixture
def threads_alternate() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("threads_alternate")
def test_pages_read_while_samples_are_added() -> None:
    samples = Samples()
    for second in range(KEEP):
        samples.add([VERSION], 100.0 * second)
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set():
            samples.add([VERSION])

    adding = threading.Thread(target=add)
    adding.start()
    try:
        read = [samples.series() for _ in range(20)]
    finally:
        stop.set()
        adding.join()
    for series in read:
        assert {len(series["times"]), len(series["latency"]["m:v1"]), len(series["accuracy"]["m:v1"])} == {KEEP}
