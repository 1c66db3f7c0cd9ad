"""Structured logs: one JSON object a line, rotated by size."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import shutil
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROTATE_BYTES = 20 << 20
KEEP_FILES = 3
_SECRET = re.compile(
    r"tf_[A-Za-z0-9_-]{20,}|Bearer \S+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.S
)
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """`{"at", "level", "logger", "message", ...}` with what `extra=` added (device, rollout, model); no secrets."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(_hidden(line), default=str)


def _hidden(value: Any) -> Any:
    """Tokens and private keys never reach a log, wherever in the line they stand."""
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _SECRET.sub("[secret]", str(value))


def configure_logging(process: str, path: Path | None = None) -> None:
    """Send all logging of this process to a rotated file, or to stderr."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=ROTATE_BYTES, backupCount=KEEP_FILES)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def shorten_log(path: Path) -> None:
    """Begin anew what another program appends to, once it is long; its last part stays beside it.

    What anybody may have the broker write, by a connection that is no TLS for one, must not fill the disk.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size > ROTATE_BYTES:
            with suppress(OSError):  # no room for a copy: then the file makes room
                shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
