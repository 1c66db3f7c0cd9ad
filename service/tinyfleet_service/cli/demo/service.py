"""The demo's own `fleetctl serve`: real processes in a data directory of their own, with short times."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tinyfleet_service.cli.context import Context
from tinyfleet_service.client import Client
from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.errors import FleetError, StartError

# The same settings an operator may write into settings.toml, only shorter than anyone would choose for a real fleet.
SETTINGS: dict[str, str | float | int] = {
    "device_classes": "cortex-m4,cortex-m0plus",
    "http_port": 0,
    "broker_port": 0,
    "est_port": 0,
    "tick_s": 0.5,
    "soak_s": 4.0,
    "min_labels": 100,
    "min_inferences": 100,
    "deadline_s": 120.0,
    "confirm_min_inferences": 10,
    "confirm_timeout_s": 60,
}


class DemoService:
    """Starts, waits for and stops the service of the demo."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 60.0) -> Client:
        """Start the service and wait until it answers. Raises StartError with the end of its log."""
        self.data.mkdir(parents=True, exist_ok=True)
        lines = [f"{name} = {value!r}" for name, value in SETTINGS.items()]
        (self.data / "settings.toml").write_text("# short times, for the demo\n" + "\n".join(lines) + "\n")
        with (self.data / "serve.log").open("ab") as log:
            command = [sys.executable, "-m", "tinyfleet_service.cli", "--data", str(self.data), "serve"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                client = Context(data=self.data).client()
                client.health()
                return client
            except (FleetError, OSError):
                time.sleep(0.2)
        tail = (self.data / "serve.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise StartError(f"the service did not start:\n{tail}", next=f"look at {self.data / 'log'}")

    def address(self, port: str) -> str:
        """`host:port` under which devices reach `est_port` or `broker_port`."""
        document = json.loads(DataDir(self.data).serve_json.read_text())
        return f"{document['public_host']}:{document['ports'][port]}"

    def stop(self) -> None:
        """End the service and its children in order."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
