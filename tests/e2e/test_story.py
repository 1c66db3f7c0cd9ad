"""The product's story on real parts: broker, TLS, database, C agents, browser. One run serves every test here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import web

TIMEOUT_S = 600

pytestmark = pytest.mark.slow


class Story:
    """A finished `fleetctl demo --keep`, its service still running."""

    def __init__(self, folder: Path, summary: dict[str, Any], output: str) -> None:
        self.folder = folder
        self.summary = summary
        self.output = output
        self.serve = json.loads((folder / "data" / "serve.json").read_text())
        self.token = (folder / "data" / "admin.token").read_text().strip()

    def rollout(self, version: str, last: bool = False) -> dict[str, Any]:
        rows = [row for row in self.summary["rollouts"] if row["version"].endswith(version)]
        assert rows, f"no rollout of {version} in the summary"
        return rows[-1 if last else 0]

    def fleetctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tinyfleet_service.cli", "--data", str(self.folder / "data"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("demo") / "run"
    summary = folder.parent / "summary.json"
    output = folder.parent / "output.txt"
    command = [
        sys.executable,
        "-m",
        "tinyfleet_service.cli",
        "demo",
        "--dir",
        str(folder),
        "--summary",
        str(summary),
        "--keep",
    ]
    with output.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=dict(os.environ)
        )
        try:
            _wait_for(summary, process, output)
            yield Story(folder, json.loads(summary.read_text()), output.read_text())
        finally:
            process.terminate()  # SIGINT would be ignored where a shell started the tests in the background
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(summary: Path, process: subprocess.Popen[bytes], output: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not summary.exists():
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail(f"the demo did not reach its end (exit {process.poll()}):\n{output.read_text()[-6000:]}")
        time.sleep(0.5)
    time.sleep(1.0)


def test_fleet_is_what_the_story_promises(story: Story) -> None:
    assert story.summary["devices"] == 60
    assert story.summary["silent_devices"] == 1
    assert story.summary["recovered_devices"] == 1
    assert [row["version"] for row in story.summary["rollouts"]] == ["model:v1", "model:v2", "model:v3", "model:v3"]


def test_v1_reaches_everyone_in_full(story: Story) -> None:
    v1 = story.rollout("v1")
    assert v1["outcome"] == "promoted"
    assert v1["bytes_sent"] > 0
    assert v1["bytes_sent"] <= v1["bytes_full"]


def test_v2_is_promoted_by_its_gates_and_travels_as_deltas(story: Story) -> None:
    v2 = story.rollout("v2")
    assert (v2["outcome"], v2["stage"], v2["canary_devices"]) == ("promoted", "waves", 3)
    assert v2["bytes_sent"] < 0.8 * v2["bytes_full"]
    assert v2["accuracy_device"] > story.rollout("v1")["accuracy_device"] + 0.05


def test_v3_looks_better_on_the_server_and_is_worse_on_devices(story: Story) -> None:
    v2, v3 = story.rollout("v2"), story.rollout("v3")
    assert v3["accuracy_server"] > v2["accuracy_server"]
    assert v3["accuracy_device"] < v2["accuracy_device"] - 0.10


def test_shadow_stops_v3_before_any_device_relies_on_it(story: Story) -> None:
    v3 = story.rollout("v3")
    assert (v3["outcome"], v3["stage"]) == ("rolled_back", "shadow")
    assert "shadow" in v3["reason"]


def test_canary_gate_rolls_v3_back_without_a_download(story: Story) -> None:
    v3 = story.rollout("v3", last=True)
    assert (v3["outcome"], v3["stage"], v3["canary_devices"]) == ("rolled_back", "canary", 3)
    devices = json.loads(story.fleetctl("device", "list", "-o", "json").stdout)
    assert not [device["id"] for device in devices if device["active_version"] == "model:v3"]


def test_explain_recomputes_every_decision(story: Story) -> None:
    rollouts = json.loads(story.fleetctl("rollout", "list", "-o", "json").stdout)
    for row in rollouts:
        explained = json.loads(story.fleetctl("rollout", "explain", str(row["id"]), "-o", "json").stdout)
        assert explained["decisions"]
        assert explained["equal"], [row for row in explained["decisions"] if not row["equal"]][:3]


def test_exit_code_of_status_is_the_verdict(story: Story) -> None:
    rollouts = json.loads(story.fleetctl("rollout", "list", "-o", "json").stdout)
    expected = {"promoted": 0, "rolled_back": 3}
    for row in rollouts:
        assert story.fleetctl("rollout", "status", str(row["id"])).returncode == expected[row["state"]]


def test_no_secret_in_any_log(story: Story) -> None:
    passphrases = [path.read_text().strip() for path in (story.folder / "data" / "keys").glob("*passphrase*")]
    assert passphrases
    for log in [*(story.folder / "data" / "log").glob("*.log"), story.folder / "data" / "serve.log"]:
        text = log.read_text(errors="replace")
        assert story.token not in text
        assert not any(secret in text for secret in passphrases)
        assert "PRIVATE KEY" not in text


def test_dashboard_shows_the_fleet(story: Story, chromium: Any) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 1400})
    requested: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{story.serve['url']}/dashboard")
    assert page.url.endswith("/dashboard/login")
    page.fill("#token", "wrong")
    page.click("text=Log in")
    assert page.locator("[role=alert]").count() == 1
    page.fill("#token", story.token)
    page.click("text=Log in")
    page.wait_for_selector("#live table")
    text = page.inner_text("main")
    for expected in ("model:v2", "model:v3", "rolled back", "60"):
        assert expected in text, expected
    page.wait_for_selector("#chart-accuracy canvas")
    before = page.inner_text("#live")
    page.wait_for_function("before => document.querySelector('#live').innerText !== before", arg=before, timeout=20000)
    assert page.inner_text("#pulse") == "live"
    page.set_viewport_size({"width": 390, "height": 800})
    # Charts follow the window an event later.
    page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
    assert not problems
    assert all(url.startswith((story.serve["url"], "data:")) for url in requested), (
        "the page must not talk to other hosts"
    )


def test_dashboard_needs_a_login(story: Story) -> None:
    for path in ("/dashboard", "/dashboard/stream"):
        answer = web.get(story.serve["url"] + path, follow_redirects=False)
        assert answer.status_code in (302, 303, 401), path
