"""Ports: chosen when a setting says 0, kept over restarts because devices remember them, checked before the start."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from tinyfleet_service.errors import StartError
from tinyfleet_service.settings import Settings

QUIET_PORTS = range(15_000, 32_768)
"""Below those that Linux gives to outgoing connections (`ip_local_port_range`)."""
TRIES = 200
PORTS = ("http_port", "broker_port", "est_port")


def resolve_ports(settings: Settings) -> Settings:
    """Settings without a port 0: the one of the last run, else a free one."""
    last = read_serve_json(settings).get("ports", {})
    chosen: dict[str, int] = {}
    for name in PORTS:
        chosen[name] = getattr(settings, name) or last.get(name) or _free_port(settings.host, chosen.values())
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


def _free_port(host: str, others: Collection[int]) -> int:
    """One that nobody listens at. Not the kernel's choice: it gives such ports to outgoing connections too, which may
    take it before a child listens there.
    """
    for port in random.sample([port for port in QUIET_PORTS if port not in others], TRIES):
        with _socket(host) as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise StartError(f"no free port on {host}", next="choose ports by the settings", tried=TRIES)


def _socket(host: str) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return found
