"""Writes a data set for fleet_device (README, "Data sets") from an NPZ with `x` (N, ...) and optional `y` (N,).

python make_dataset.py field.npz field.tfds --layout nchw
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"TFDS"
VERSION = 1
TYPES = {np.dtype(np.int8): 0, np.dtype("<f4"): 1}
UNKNOWN = -1


def encode(x: npt.NDArray[np.generic], y: npt.NDArray[np.integer] | None = None) -> bytes:
    """Bytes of a data set: `x` (N, ...) int8 or float32, channels last; `y` (N,) labels, -1 where not known.

    Raises ValueError for other types, no samples, or labels that do not fit.
    """
    if x.dtype not in TYPES:
        raise ValueError(f"inputs are {x.dtype}, expected int8 or float32: convert them first")
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"inputs have shape {x.shape}, expected (N, ...) with at least one sample")
    labels = np.full(len(x), UNKNOWN, "<i4") if y is None else y.astype("<i4")
    if labels.shape != (len(x),):
        raise ValueError(f"labels have shape {labels.shape}, expected ({len(x)},)")
    inputs = np.ascontiguousarray(x).tobytes()
    header = struct.pack("<4sHBBII", MAGIC, VERSION, TYPES[x.dtype], 0, len(x), len(inputs) // len(x))
    return header + inputs + bytes(-len(inputs) % 4) + labels.tobytes()


def channels_last(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """(N, C, H, W) -> (N, H, W, C); fewer dimensions stay."""
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layout", choices=["nchw", "nhwc"], default="nhwc", help="of x in the NPZ; devices see NHWC")
    arguments = parser.parse_args()
    with np.load(arguments.npz) as data:
        x = channels_last(data["x"]) if arguments.layout == "nchw" else data["x"]
        arguments.out.write_bytes(encode(x, data.get("y")))


if __name__ == "__main__":
    main()
