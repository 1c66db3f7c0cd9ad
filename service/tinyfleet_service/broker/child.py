"""The mosquitto child process: start, readiness, reload, stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from tinyfleet_service.broker.config import write_config
from tinyfleet_service.broker.files import write_file
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.errors import StartError
from tinyfleet_service.settings import Settings

START_S = 15.0
STOP_S = 10.0
_POLL_S = 0.05


def start(settings: Settings, pki: Pki | None = None) -> subprocess.Popen[bytes]:
    """Start mosquitto on `settings.broker_port` and wait until it answers; its log goes to `<data>/log/broker.log`.

    Raises StartError when the program is missing, the port is taken or the broker gives up.
    """
    program = find_program(settings)
    port = settings.broker_port
    _check_port(settings.host, port)
    pki = pki or Pki.create(settings)
    config = write_config(settings, pki, port)
    settings.dirs.log.mkdir(parents=True, exist_ok=True)
    log = settings.dirs.log / "broker.log"
    with log.open("ab") as output:
        process = subprocess.Popen([program, "-c", str(config)], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    write_file(_pid_path(settings), str(process.pid).encode())
    _wait_until_ready(process, settings, pki, log)
    return process


def stop(process: subprocess.Popen[bytes], timeout_s: float = STOP_S) -> None:
    """End the broker in order, so that it saves what is retained; kill it when it does not answer."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def reload(settings: Settings) -> bool:
    """Have the running broker read its certificates and revocation list again; False when none of ours runs."""
    try:
        pid = int(_pid_path(settings).read_text())
        if not _is_mosquitto(pid):
            return False
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


def address(settings: Settings) -> str:
    """Host under which this machine's own processes reach the broker; the server certificate names it."""
    if settings.external_broker:
        return settings.public_host
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)


def find_program(settings: Settings) -> str:
    """Path of mosquitto; it often lies in an sbin folder that users do not search. Raises StartError."""
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"])
    program = shutil.which(settings.mosquitto, path=search)
    if program is None:
        raise StartError(
            f"the MQTT broker {settings.mosquitto!r} is not installed",
            next="install mosquitto 2 (Debian: apt install mosquitto) or name it in TINYFLEET_MOSQUITTO",
            program=settings.mosquitto,
        )
    return program


def _pid_path(settings: Settings) -> Path:
    return settings.dirs.broker / "mosquitto.pid"


def _is_mosquitto(pid: int) -> bool:
    """A pid file outlives its process, and the number may belong to somebody else by now."""
    name = Path(f"/proc/{pid}/comm")
    return not Path("/proc/self").exists() or (name.exists() and name.read_text().strip().startswith("mosquitto"))


def _check_port(host: str, port: int) -> None:
    if port == 0:
        raise StartError("the broker needs a fixed port", next="choose one with TINYFLEET_BROKER_PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                next="stop what uses the port or choose another with TINYFLEET_BROKER_PORT",
                port=port,
            ) from error


def _wait_until_ready(process: subprocess.Popen[bytes], settings: Settings, pki: Pki, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if _answers(settings, pki):
            return
        time.sleep(_POLL_S)
    code = process.poll()
    stop(process)
    lines = log.read_text(errors="replace").splitlines()[-5:]
    raise StartError(
        f"mosquitto did not start (exit code {code}): {' | '.join(lines)}", next=f"see {log}", exit_code=code
    )


def _answers(settings: Settings, pki: Pki) -> bool:
    """True when a TLS handshake succeeds: the port is open before the certificates are read."""
    context = ssl.create_default_context(cafile=str(pki.ca_path))
    context.load_cert_chain(pki.service("svc-tool").certificate, pki.service("svc-tool").key)
    try:
        with (
            socket.create_connection((address(settings), settings.broker_port), timeout=2) as plain,
            context.wrap_socket(plain, server_hostname=address(settings)),
        ):
            return True
    except OSError:
        return False
