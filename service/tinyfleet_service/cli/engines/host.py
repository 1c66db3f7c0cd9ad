"""The C runtime on this machine: `fleet_runner`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image
from tinyfleet_service.cli.engines import programs
from tinyfleet_service.cli.engines.result import RunResult
from tinyfleet_service.cli.engines.tensors import split_outputs
from tinyfleet_service.errors import InvalidInputError

OPTIONS = ("-DFLEET_RUNTIME_ONLY=ON", "-DFLEET_WERROR=OFF")


def run(image: Image, inputs: npt.NDArray[Any], *, reset_state: bool = False) -> RunResult:
    """Run `inputs`, (N, bytes of all inputs) int8 in device order."""
    programs.require_tools(programs.HOST_TOOLS, "engine host")
    runner = programs.build("fleet_runner", "fleet_runner", options=OPTIONS)
    with tempfile.TemporaryDirectory(prefix="fleet-host-") as name:
        folder = Path(name)
        (folder / "image.tfm").write_bytes(image.data)
        (folder / "input.bin").write_bytes(inputs.tobytes())
        command = [str(runner), "image.tfm", "input.bin", "output.bin", *(["reset"] if reset_state else [])]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = done.stderr.strip() or f"exit code {done.returncode}"
            raise InvalidInputError(f"the C runtime refused the image: {why}", next="compile it again")
        figures = json.loads(done.stdout)
        raw = np.fromfile(folder / "output.bin", np.int8).reshape(len(inputs), -1)
    return RunResult(split_outputs(image, raw), figures["arena_bytes"], figures["state_bytes"])
