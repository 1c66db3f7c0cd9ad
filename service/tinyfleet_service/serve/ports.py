"""Ports: chosen when a setting says 0, kept over restarts because devices remember them, checked before the start."""

from __future__ import annotations

import json
import socket
from typing import Any

from tinyfleet_service.errors import StartError
from tinyfleet_service.settings import Settings

PORTS = ("http_port", "broker_port", "est_port")


def resolve_ports(settings: Settings) -> Settings:
    """Settings without a port 0: the one of the last run, else a free one."""
    last = read_serve_json(settings).get("ports", {})
    chosen = {name: getattr(settings, name) or last.get(name) or _free_port(settings.host) for name in PORTS}
    return settings.model_copy(update=chosen)


def read_serve_json(settings: Settings) -> dict[str, Any]:
    """What the last `serve` wrote; empty when there is nothing readable."""
    try:
        document = json.loads(settings.dirs.serve_json.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def check_port(host: str, port: int, setting: str) -> None:
    """Raises StartError when nothing can listen there."""
    with _socket(host) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                next=f"stop what uses the port or choose another with TINYFLEET_{setting.upper()}",
                port=port,
            ) from error


def _free_port(host: str) -> int:
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return found
