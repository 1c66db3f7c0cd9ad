"""What the demo's devices see: a dataset file per site, in the format `fleet_device --dataset` reads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from tinyfleet_service.cli.demo.digits import splits, tilt

MAGIC = b"TFDS"
VERSION = 1
FLOAT32 = 1
COPIES = 5  # tilted copies of each field image, so that no device sees one twice soon

SITES = ("upright", "tilted")


def write_datasets(folder: Path) -> dict[str, Path]:
    """Write `upright.tfds` and `tilted.tfds` below `folder`; returns them by site."""
    x, y = splits()["field"]
    rng = np.random.default_rng(5)
    tilted = np.concatenate([tilt(x, rng) for _ in range(COPIES)])
    folder.mkdir(parents=True, exist_ok=True)
    files = {site: folder / f"{site}.tfds" for site in SITES}
    write_dataset(files["upright"], x, y)
    write_dataset(files["tilted"], tilted, np.tile(y, COPIES))
    return files


def write_dataset(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """Write inputs `(N, C, H, W) float32` channels last, with labels `(N,)`.

    Format: device_agent/examples/posix_fleet/README.md.
    """
    inputs = np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype="<f4").reshape(len(x), -1)
    header = MAGIC + struct.pack("<HBxII", VERSION, FLOAT32, len(x), inputs.shape[1] * 4)
    path.write_bytes(header + inputs.tobytes() + y.astype("<i4").tobytes())
