"""The processes by name. Each also runs alone: `python -m tinyfleet_service.serve NAME --data DIR`."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tinyfleet_service.broker.pki import MAX_INGESTERS
from tinyfleet_service.errors import DatabaseUnavailableError, FleetError
from tinyfleet_service.observe.logs import configure_logging
from tinyfleet_service.observe.metrics import keep_own, serve_metrics
from tinyfleet_service.observe.traces import configure_traces, end_traces
from tinyfleet_service.schema import check_schema
from tinyfleet_service.serve.ports import resolve_ports
from tinyfleet_service.settings import Settings

Run = Callable[[Settings, threading.Event], None]
PARENT_POLL_S = 1.0
OWN_FILES = 0o077
"""Mode bits that no file of the service has: database, blobs and what the broker keeps hold models."""
_log = logging.getLogger(__name__)


def _api() -> Run:
    from tinyfleet_service.serve.api import run

    return run


def _est() -> Run:
    from tinyfleet_service.est import run

    return run


def _controller() -> Run:
    from tinyfleet_service.controller import run

    return run


def _ingest(member: int = 0) -> Run:
    from tinyfleet_service.ingest import run

    return partial(run, member=member)


def _builder() -> Run:
    from tinyfleet_service.builder import run

    return run


def _webhooks() -> Run:
    from tinyfleet_service.webhooks.process import run

    return run


# A process that runs alone imports what it needs and no more: the EST listener holds no compiler.
_LOADERS: dict[str, Callable[[], Run]] = {
    "api": _api,
    "est": _est,
    "controller": _controller,
    "ingest": _ingest,
    "builder": _builder,
    **{f"ingest-{member}": partial(_ingest, member) for member in range(1, MAX_INGESTERS)},
    "webhooks": _webhooks,
}
NAMES = tuple(_LOADERS)


def supervised(settings: Settings) -> list[str]:
    """The processes that `serve` starts."""
    members = {f"ingest-{member}" for member in range(settings.ingesters, MAX_INGESTERS)}
    return [name for name in NAMES if name not in members]


def load_all() -> None:
    """Import what any process needs, for those that are going to be forks of this one."""
    for name in NAMES:
        _load(name)


def run_process(name: str, settings: Settings, *, log: Path | None = None) -> None:
    """Run one process until SIGTERM or SIGINT. Raises FleetError when it cannot start."""
    os.umask(OWN_FILES)
    configure_logging(name, log)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _watch_parents(stop)
    try:
        _check_schema(settings)
        keep_own(name)
        serve_metrics(name, settings)
        configure_traces(name, settings)
        _load(name)(resolve_ports(settings), stop)
    except FleetError as error:
        _log.error("%s", error)
        raise
    except Exception:
        _log.exception("%s ends by a bug", name)
        raise
    finally:
        end_traces()


def _check_schema(settings: Settings) -> None:
    """One that runs alone may meet a database that another version migrated. Raises SettingsError."""
    if settings.url.startswith("sqlite") and not settings.dirs.database.exists():
        return
    try:
        check_schema(settings)
    except DatabaseUnavailableError as error:
        _log.warning("%s", error)  # every process waits for its database


def _load(name: str) -> Run:
    """Import what the process needs. None of that is ever garbage: nobody looks for any meanwhile, nor at it later."""
    gc.disable()
    try:
        return _LOADERS[name]()
    finally:
        gc.freeze()
        gc.enable()


def _watch_parents(stop: threading.Event) -> None:
    """A fork ends with the supervisor, even by kill -9, and with what it is a fork of: nobody else sees how it ends."""
    supervisor, nursery = multiprocessing.parent_process(), os.getppid()
    if supervisor is None:
        return

    def watch() -> None:
        while not stop.wait(PARENT_POLL_S):
            if not supervisor.is_alive() or os.getppid() != nursery:
                _log.warning("the supervisor is gone")
                stop.set()

    threading.Thread(target=watch, daemon=True).start()
