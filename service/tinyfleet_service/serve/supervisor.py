"""The supervisor: prepare, start the broker, then the processes that need it; stop in the opposite order."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from functools import partial

from tinyfleet_service import broker
from tinyfleet_service.errors import StartError
from tinyfleet_service.observe.logs import configure_logging, shorten_log
from tinyfleet_service.serve.child import Child, end_all
from tinyfleet_service.serve.data_lock import end_leftover_broker, take_data_directory
from tinyfleet_service.serve.nursery import Nursery
from tinyfleet_service.serve.ports import PORTS, check_port, resolve_ports
from tinyfleet_service.serve.processes import OWN_FILES, supervised
from tinyfleet_service.settings import Settings

WATCH_S = 0.2
READY_S = 60.0
STOP_S = 10.0
_log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Supervise until SIGTERM or SIGINT. Raises StartError, SettingsError, StorageError when it cannot start."""
    stop = threading.Event()
    os.umask(OWN_FILES)  # broker and forks inherit it
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with take_data_directory(settings):
        settings = resolve_ports(settings)
        configure_logging("serve", settings.dirs.log / "serve.log")
        end_leftover_broker(settings)
        nursery = Nursery(settings)
        nursery.prepare()
        supervisor = Supervisor(settings, nursery)
        try:
            supervisor.start(stop)
            print(f"tinyfleet serves {supervisor.url}  (data in {settings.dirs.path}; Ctrl-C stops)", flush=True)
            supervisor.watch(stop)
        finally:
            supervisor.stop()


class Supervisor:
    """The children of one `serve`."""

    def __init__(self, settings: Settings, nursery: Nursery) -> None:
        self.settings = settings
        self.children = [Child(name, partial(nursery.start, name)) for name in supervised(settings)]
        self.broker: Child | None = None
        if not settings.external_broker:
            self.broker = Child("broker", partial(broker.start, settings))

    @property
    def url(self) -> str:
        """Where API and dashboard answer, from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.settings.host, self.settings.host)
        return f"http://{host}:{self.settings.http_port}"

    def start(self, stop: threading.Event) -> None:
        """Start everything and wait for the API. Raises StartError."""
        for setting in ("http_port", "est_port"):
            check_port(self.settings.host, getattr(self.settings, setting), setting)
        for child in self._all():
            child.launch()
        self._wait_until_ready(stop)
        self._write_serve_json()

    def watch(self, stop: threading.Event) -> None:
        """Restart what dies until `stop` is set."""
        while not stop.wait(WATCH_S):
            shorten_log(self.settings.dirs.log / "broker.log")
            restarted = [child.watch() for child in self._all()]
            if any(restarted):
                self._try_write_serve_json()

    def stop(self) -> None:
        """Stop the processes, then the broker they talk through."""
        _log.info("stopping")
        end_all([child.process for child in self.children if child.process], STOP_S)
        if self.broker and self.broker.process:
            end_all([self.broker.process], STOP_S)

    def _all(self) -> list[Child]:
        return [*([self.broker] if self.broker else []), *self.children]

    def _wait_until_ready(self, stop: threading.Event) -> None:
        api = next(child for child in self.children if child.name == "api")
        until = time.monotonic() + READY_S
        while not stop.is_set() and not self._answers():
            ended = api.process is not None and api.process.poll() is not None
            if ended or time.monotonic() > until:
                log = self.settings.dirs.log / "api.log"
                last = log.read_text(errors="replace").splitlines()[-1:] or ["it wrote no log"]
                raise StartError(f"the API did not start: {last[0][:500]}", next=f"see {log}")
            stop.wait(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _try_write_serve_json(self) -> None:
        try:
            self._write_serve_json()
        except OSError as error:  # a full disk must not end what still runs
            _log.error("cannot write %s: %s", self.settings.dirs.serve_json, error)

    def _write_serve_json(self) -> None:
        document = {
            "url": self.url,
            "ports": {name: getattr(self.settings, name) for name in PORTS},
            "public_host": self.settings.public_host,
            "pids": {"serve": os.getpid()} | {c.name: c.process.pid for c in self._all() if c.process},
        }
        path = self.settings.dirs.serve_json
        new = path.with_suffix(".new")
        new.write_text(json.dumps(document, indent=2) + "\n")
        new.replace(path)
