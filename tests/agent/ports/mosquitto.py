"""A real mosquitto with mutual TLS on a free port, for one test module."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import cbuild
from agent.ports.pki import Files

CONFIG = """\
user root
persistence false
allow_anonymous true
listener {port} 127.0.0.1
cafile {ca}
certfile {server.cert}
keyfile {server.key}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
set_tcp_nodelay true
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run(folder: Path, ca: Path, server: Files, port: int | None = None) -> Iterator[int]:
    """The broker's port while it runs."""
    binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if binary is None:
        pytest.skip("mosquitto is not installed: `make setup` installs it")
    port = port or free_port()
    config = folder / "mosquitto.conf"
    config.write_text(CONFIG.format(port=port, ca=ca, server=server))
    with (folder / "mosquitto.log").open("ab") as log:
        process = subprocess.Popen([binary, "-c", str(config)], stdout=log, stderr=log, env=cbuild.clean_env())
        try:
            _wait_until_open(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("mosquitto did not start")
