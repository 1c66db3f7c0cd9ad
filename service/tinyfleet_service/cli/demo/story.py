"""The story, chapter by chapter, told with the very commands an operator types."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyfleet_service.cli.demo.groups import DeviceGroup
from tinyfleet_service.cli.demo.service import DemoService
from tinyfleet_service.cli.demo.summary import Summary, summarise
from tinyfleet_service.cli.demo.world import write_datasets
from tinyfleet_service.cli.errors import EXIT_OK, EXIT_ROLLED_BACK
from tinyfleet_service.cli.output import console
from tinyfleet_service.client import Client
from tinyfleet_service.errors import StartError

MODEL = "model"
INDENT = " " * 9
REPORT_INTERVAL_S = 1
RATE_HZ = 10
LABEL_DELAY_MS = 300
# (class, site): devices. Three in four cameras hang crooked.
FLEET = {
    ("cortex-m4", "tilted"): 28,
    ("cortex-m4", "upright"): 10,
    ("cortex-m0plus", "tilted"): 16,
    ("cortex-m0plus", "upright"): 6,
}
SINGLES = 5  # tilted cortex-m4 devices in processes of their own, on a slow link: two of them get into trouble
SLOW_LINK_BYTES_PER_S = 2000


class Demo:
    """Holds the running parts; `run` tells the story and returns its summary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.service = DemoService(folder / "data")
        self.groups: list[DeviceGroup] = []
        self.client: Client | None = None
        self.screen = console()
        self.started = time.monotonic()
        self.trouble = Trouble(self)
        self.rollouts: list[int] = []

    def run(self) -> Summary:
        """The whole story. Raises StartError when a chapter does not end as it must, and the service's own errors."""
        self.chapter("A service starts: database, certificate authority, broker with mutual TLS, builder, enrolment")
        client = self.client = self.service.start()
        self.note(self.dashboard_hint())
        self.chapter("60 devices of two classes enrol and connect, each with its own key, certificate and flash")
        self._start_devices()
        self.chapter("The ML engineer pushes three versions; each is compiled for each class")
        for version in ("v1", "v2", "v3"):
            self._push(version)
        self.chapter("v1 goes to everyone: there is nothing to compare with yet")
        self._rollout("v1", "--canary", "100%", expect=EXIT_OK)
        self.wait_until("every device runs v1", lambda: self._running("v1") >= self._device_count())
        self._settle()
        self.chapter(
            "v2 to a canary of 5 %: shadow, canary, then waves; one device loses power in mid-update, one falls silent"
        )
        self.trouble.arm("v2")
        self._rollout("v2", "--canary", "5%", expect=EXIT_OK)
        self.trouble.finish()
        self._settle()
        self.chapter("v3 is the best on the evaluation set. Shadow, a required gate, asks the devices")
        self._rollout("v3", "--canary", "5%", expect=EXIT_ROLLED_BACK)
        self._settle()
        self.chapter(
            "v3 again, with shadow only advisory: now three devices rely on it until the canary gate rolls it back"
        )
        self._rollout("v3", "--canary", "5%", "--gate", "shadow=advisory", expect=EXIT_ROLLED_BACK)
        self.wait_until("the canaries are back on v2", lambda: self._running("v3") == 0)
        return summarise(client, self.rollouts, self.trouble.recovered, time.monotonic() - self.started)

    def stop(self) -> None:
        """End devices and service."""
        self.trouble.armed_version = None
        for group in self.groups:
            group.stop()
        self.service.stop()

    # ---- chapters

    def _start_devices(self) -> None:
        assert self.client is not None
        datasets = write_datasets(self.folder / "datasets")
        for (device_class, site), count in FLEET.items():
            claim = self.client.create_claim(f"{device_class}-{site}", device_class, tags={"site": site}, quota=count)
            singles = SINGLES if (device_class, site) == ("cortex-m4", "tilted") else 0
            self._add_group(claim, device_class, site, datasets[site], count - singles, "")
            for number in range(singles):
                self._add_group(claim, device_class, site, datasets[site], 1, f"-single{number}")
        wanted = sum(FLEET.values())
        self.wait_until(f"{wanted} devices connected", lambda: self._connected() >= wanted, timeout_s=90)

    def _add_group(
        self, claim: dict[str, Any], device_class: str, site: str, dataset: Path, count: int, suffix: str
    ) -> None:
        folder = self.folder / "devices" / f"{device_class}-{site}{suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        assert self.client is not None
        files = {
            "claim.pem": claim["certificate_pem"].encode(),
            "claim.key": claim["key_pem"].encode(),
            "ca.pem": self.client.ca(),
            "root1.cbor": self.client.root(),
        }
        for name, data in files.items():
            path = folder / name
            path.touch(mode=0o600)
            path.write_bytes(data)
        arguments = [
            str(find_device_program()),
            "--est", self.service.address("est_port"),
            "--broker", self.service.address("broker_port"),
            "--ca", str(folder / "ca.pem"),
            "--root", str(folder / "root1.cbor"),
            "--claim-cert", str(folder / "claim.pem"),
            "--claim-key", str(folder / "claim.key"),
            "--dir", str(folder / "state"),
            "--device-class", device_class,
            "--count", str(count),
            "--dataset", str(dataset),
            "--rate-hz", str(RATE_HZ),
            "--label-delay-ms", str(LABEL_DELAY_MS),
            "--report-interval-s", str(REPORT_INTERVAL_S),
            "--seed", str(len(self.groups) + 1),
        ]  # fmt: skip
        if suffix:
            arguments += ["--rx-bytes-per-s", str(SLOW_LINK_BYTES_PER_S)]
        group = DeviceGroup(f"{device_class}-{site}{suffix}", arguments, folder, count, self.trouble.listen)
        self.groups.append(group)
        group.start()

    def _push(self, version: str) -> None:
        folder = repository() / "examples" / "digits"
        self.fleetctl(
            "model", "push", f"{MODEL}:{version}", str(folder / f"digits_{version}.onnx"),
            "--calibration", str(folder / "calibration.npz"), "--evaluate", str(folder / "evaluation.npz"),
            expect=EXIT_OK,
        )  # fmt: skip

    def _rollout(self, version: str, *options: str, expect: int) -> None:
        assert self.client is not None
        self.fleetctl("rollout", f"{MODEL}:{version}", *options, "--yes", "--watch", "--timeout", "180", expect=expect)
        self.rollouts.append(max(int(row["id"]) for row in self.client.rollouts()))

    def _settle(self) -> None:
        """Let every device report once more, so that the next rollout starts from fresh counters."""
        time.sleep(2 * REPORT_INTERVAL_S)

    # ---- looking

    def _devices(self) -> list[dict[str, Any]]:
        assert self.client is not None
        return self.client.devices()

    def _device_count(self) -> int:
        return sum(FLEET.values())

    def _connected(self) -> int:
        return sum(1 for device in self._devices() if device.get("reported"))

    def _running(self, version: str) -> int:
        return sum(1 for device in self._devices() if device.get("active_version") == f"{MODEL}:{version}")

    def wait_until(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for `condition` and say so. Raises StartError after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise StartError(
                    f"waited {timeout_s:.0f} s in vain for: {what}", next=f"look at {self.folder}/data/log"
                )
            time.sleep(0.3)
        self.note(what)

    # ---- telling

    def dashboard_hint(self) -> str:
        """Where to look, and how to get in."""
        assert self.client is not None
        return f"dashboard {self.client.url}/dashboard (log in with the token in {self.folder.name}/data/admin.token)"

    def chapter(self, text: str) -> None:
        """Begin a chapter: the time since the start, and what happens now."""
        self.screen.print(f"\n[bold cyan]{time.monotonic() - self.started:5.0f} s[/]  [bold]{text}[/]")

    def note(self, text: str) -> None:
        """A line of the story; may be called from any thread."""
        self.screen.print(INDENT + text)

    def fleetctl(self, *arguments: str, expect: int) -> None:
        """Run a real `fleetctl`, show its command and its output, and insist on its exit code."""
        shown = " ".join(
            Path(word).name if "/" in word else word for word in arguments if word not in ("--yes", "--watch")
        )
        self.screen.print(f"{INDENT}[green]$ fleetctl {shown}[/]")
        command = [sys.executable, "-m", "tinyfleet_service.cli", "--data", str(self.service.data), *arguments]
        environment = os.environ | {"COLUMNS": str(max(self.screen.width - len(INDENT), 60))}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.screen.print(INDENT + line.rstrip(), markup=False)
        if process.returncode != expect:
            raise StartError(
                f"fleetctl {shown} ended with {process.returncode}, expected {expect}",
                next=f"look at {self.folder}/data/log",
            )


class Trouble:
    """What happens to two devices while v2 goes out: a power cut in mid-update, and a silence after activation."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.armed_version: str | None = None
        self.cut: DeviceGroup | None = None
        self.silenced: DeviceGroup | None = None
        self.recovered = 0
        self._lock = threading.Lock()

    def arm(self, version: str) -> None:
        """From now on, single devices that take this version may be chosen."""
        self.armed_version = version

    def listen(self, group: DeviceGroup, event: dict[str, Any]) -> None:
        """Called for each event of each device process, on that process's reader thread."""
        if self.armed_version is None or group.count != 1 or event.get("event") != "slot":
            return
        with self._lock:
            chosen = self._choose(group, str(event["to"]))
        if chosen == "cut":
            threading.Thread(target=self._cut_power, args=(group,), daemon=True).start()
        elif chosen == "silence":
            threading.Thread(target=self._silence, args=(group,), daemon=True).start()

    def finish(self) -> None:
        """Wait for the device that lost power to come back, and disarm."""
        self.armed_version = None
        if self.cut is not None:
            device = self.cut.device_ids[0]
            self.demo.wait_until(
                f"{device} came back after the power cut and runs v2", lambda: self._runs(device, "v2")
            )
            self.recovered = 1

    def _choose(self, group: DeviceGroup, state: str) -> str:
        if self._is_canary(group):
            return ""
        if state == "WRITING" and self.cut is None and group is not self.silenced:
            self.cut = group
            return "cut"
        if state == "CONFIRMED" and self.silenced is None and group is not self.cut:
            self.silenced = group
            return "silence"
        return ""

    def _is_canary(self, group: DeviceGroup) -> bool:
        assert self.demo.client is not None
        newest = max(self.demo.client.rollouts(), key=lambda row: int(row["id"]))
        return group.device_ids[0] in newest.get("canaries", [])

    def _cut_power(self, group: DeviceGroup) -> None:
        time.sleep(0.6)
        group.kill()
        self.demo.note(f"[yellow]power cut[/] on {group.device_ids[0]} while it writes v2")
        time.sleep(3)
        group.start()

    def _silence(self, group: DeviceGroup) -> None:
        time.sleep(2.5 * REPORT_INTERVAL_S)
        group.kill()
        self.demo.note(f"[yellow]{group.device_ids[0]} falls silent[/] after it activated v2, and stays so")

    def _runs(self, device: str, version: str) -> bool:
        assert self.demo.client is not None
        return bool(self.demo.client.device(device).get("active_version") == f"{MODEL}:{version}")


def find_device_program() -> Path:
    """The agent's POSIX program, built by `make setup`. Raises StartError when it is not there."""
    program = repository() / "build" / "agent" / "fleet_device"
    if not program.exists():
        raise StartError(
            "the device agent is not built", next="run `make setup` in a checkout of tinyfleet", path=str(program)
        )
    return program


def repository() -> Path:
    """The root of the checkout this code runs from."""
    return Path(__file__).resolve().parents[4]
