"""Take the pictures of README and operator guide from a real demo run: the terminal as SVG, the dashboard as PNG during
v2 and at the end, and the page of the rollout that shadow stops.

make screenshots
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
WIDTH = 128
CHROMIUM = shutil.which("chromium") or "chromium"


def main() -> None:
    """Run the demo in a pseudo-terminal and look at the dashboard meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="tinyfleet-screenshots-"))
    summary = folder / "summary.json"
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "tinyfleet_service.cli",
        "demo",
        "--dir",
        str(folder),
        "--keep",
        "--summary",
        str(summary),
    ]
    environment = os.environ | {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment, start_new_session=True)
    os.close(follower)
    output: list[bytes] = []
    threading.Thread(target=_read, args=(leader, output), daemon=True).start()
    try:
        _look(folder, summary, process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    _draw_terminal(b"".join(output).decode(errors="replace").replace(folder.name, "demo-run"))
    shutil.rmtree(folder)


def _read(leader: int, output: list[bytes]) -> None:
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            return
        if not data:
            return
        output.append(data)


def _look(folder: Path, summary: Path, process: subprocess.Popen[bytes]) -> None:
    serve = folder / "data" / "serve.json"
    _wait(serve.exists, process)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=1)
        url = json.loads(serve.read_text())["url"]
        token = folder / "data" / "admin.token"
        _wait(token.exists, process)
        page.goto(f"{url}/dashboard/login")
        page.fill("#token", token.read_text().strip())
        page.click("text=Log in")
        _wait(lambda: _shows(page, "Rollout 2:") and _shows(page, "wave 1 now"), process)
        time.sleep(4)
        _shoot(page, "dashboard")
        _wait(summary.exists, process)
        time.sleep(2)
        _shoot(page, "dashboard-end")
        page.goto(f"{url}/dashboard/rollouts/3")
        _shoot(page, "rollout")
        page.goto(f"{url}/dashboard")
        page.set_viewport_size({"width": 390, "height": 844})
        time.sleep(1)
        _shoot(page, "dashboard-phone")
        browser.close()


def _shows(page: Page, text: str) -> bool:
    return text in page.inner_text("#live")


def _shoot(page: Page, name: str) -> None:
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)


def _wait(condition: object, process: subprocess.Popen[bytes], timeout_s: float = 600) -> None:
    assert callable(condition)
    until = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit("the demo ended before the picture could be taken")
        time.sleep(0.2)


def _without_later_plans(lines: list[str]) -> list[str]:
    """The plan of v2 is shown whole; of the others only the first line, so that the picture stays readable."""
    kept: list[str] = []
    plan = ""
    for line in lines:
        text = Text.from_ansi(line).plain.strip()
        if text.startswith("Plan for "):
            plan = text
            kept.append(line)
            continue
        if plan and text.startswith(("rollout ", "shadow:", "canary:")):
            plan = ""
        if not plan or "model:v2" in plan:
            kept.append(line)
    return kept


def _draw_terminal(ansi: str) -> None:
    screen = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    screen.print("[green]$[/] make demo")
    for line in _without_later_plans(ansi.replace("\r\n", "\n").split("\n")):
        screen.print(Text.from_ansi(line))
    svg = screen.export_svg(title="make demo", font_aspect_ratio=0.61)
    # No font from another host: the reader's own monospace serves.
    (IMAGES / "demo.svg").write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
