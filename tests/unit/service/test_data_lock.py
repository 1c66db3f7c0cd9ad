"""The broker that a killed `serve` left behind: ended when it is ours, let alone when it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tinyfleet_service.serve import data_lock
from tinyfleet_service.serve.data_lock import end_leftover_broker
from tinyfleet_service.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(tmp_path)
    settings.dirs.create()
    return settings


@contextmanager
def a_process_called(settings: Settings, argument: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program with this argument, whose number stands where a broker writes its own."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", argument]) as process:
        (settings.dirs.broker / "mosquitto.pid").write_text(f"{process.pid}\n")
        try:
            while argument.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                time.sleep(0.01)  # it is still becoming that program
            yield process
        finally:
            process.kill()


def test_our_broker_is_ended(settings: Settings) -> None:
    with a_process_called(settings, f"{settings.dirs.broker}/mosquitto.conf") as process:
        end_leftover_broker(settings)
        assert process.wait(5) == -signal.SIGTERM


def test_a_process_of_somebody_else_under_its_number_is_let_alone(settings: Settings) -> None:
    with a_process_called(settings, "somebody else's") as process:
        end_leftover_broker(settings)
        assert process.poll() is None


def test_a_broker_that_ends_by_itself_meanwhile_is_no_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.dirs.broker / "mosquitto.pid").write_text("1234567\n")
    looks = iter([True, False])
    monkeypatch.setattr(data_lock, "_is_our_broker", lambda *_: next(looks))

    def gone(*_: object) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", gone)
    end_leftover_broker(settings)
    assert next(looks, None) is None
