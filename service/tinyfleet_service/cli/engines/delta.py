"""The agent's own patch decoder on this machine: `fleet_delta_apply`."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

from tinyfleet_ota.delta import patch_info
from tinyfleet_ota.errors import OtaError
from tinyfleet_service.cli.engines import programs
from tinyfleet_service.cli.engines.host import OPTIONS
from tinyfleet_service.errors import InvalidInputError


def delta_apply(old: bytes, patch: bytes) -> bytes:
    """The image that `patch` makes from `old`, decoded in C as a device does it. Raises InvalidInputError."""
    try:
        new_bytes = int(patch_info(patch)["new_bytes"] or len(old))
    except OtaError as error:
        raise InvalidInputError(f"the patch cannot be read: {error}", next="fetch or make it again") from error
    programs.require_tools(programs.HOST_TOOLS, "the C patch decoder")
    program = programs.build("fleet_delta_apply", "fleet_delta_apply", options=OPTIONS)
    base_id = hashlib.sha256(old).hexdigest()[:16] if old else "0" * 16
    with tempfile.TemporaryDirectory(prefix="fleet-delta-") as name:
        folder = Path(name)
        (folder / "old").write_bytes(old)
        (folder / "patch").write_bytes(patch)
        command = [str(program), "old", "patch", "new", str(new_bytes), base_id]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = done.stderr.strip() or f"exit code {done.returncode}"
            raise InvalidInputError(f"the patch was refused: {why}", next="make it again from this very file")
        return (folder / "new").read_bytes()
