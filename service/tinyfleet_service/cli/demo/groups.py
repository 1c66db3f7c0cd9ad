"""Device processes: each runs one or many real agents and says what they do, one JSON line per event."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Listener = Callable[["DeviceGroup", dict[str, Any]], None]


@dataclass
class DeviceGroup:
    """One `fleet_device` process with `count` agents below `folder`."""

    name: str
    arguments: list[str]
    folder: Path
    count: int
    listener: Listener
    device_ids: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process (again); agents that enrolled before keep their identity."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "stderr.log").open("a")
        self.process = subprocess.Popen(self.arguments, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def kill(self) -> None:
        """kill -9: what a power cut does to a process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Ask the agents to end in order, and make sure that they do."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "enrolled" and event["device"] not in self.device_ids:
                self.device_ids.append(event["device"])
            self.listener(self, event)
