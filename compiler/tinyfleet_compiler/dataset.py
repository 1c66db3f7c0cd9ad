"""Calibration and evaluation data: NPZ files with `x` (or `x_<input>`) in the model's own layout, and optional `y`."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.errors import DatasetError
from tinyfleet_compiler.operators import SourceLayout

Array = npt.NDArray[Any]
MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class Codes:
    """Arrays of type `kind` hold codes of a quantised input: real = (code - zero_point) * scale."""

    kind: str = ""
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True)
class InputSpec:
    """A model input: `shape` in the model file's layout, batch left out."""

    name: str
    shape: tuple[int, ...]
    layout: SourceLayout
    codes: Codes = Codes()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in device order (N, H, W, C), float32, by input name; `y` (N, ...) or None."""

    inputs: dict[str, npt.NDArray[np.float32]]
    y: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def load_dataset(path: Path, inputs: tuple[InputSpec, ...]) -> Dataset:
    """Read and check a file against the model's inputs. Raises `DatasetError`."""
    arrays = _read(path)
    found = {spec.name: _input(path, arrays, spec, single=len(inputs) == 1) for spec in inputs}
    counts = {len(x) for x in found.values()}
    if len(counts) != 1 or 0 in counts:
        raise DatasetError(
            f"{path.name}: inputs hold {sorted(counts)} samples; give every input the same number, at least 1"
        )
    y = arrays.get("y")
    if y is not None and (y.ndim == 0 or len(y) not in counts or y.dtype.kind not in "iuf"):
        raise DatasetError(
            f"{path.name}: y has shape {y.shape} and type {y.dtype}; it must hold one number or row per sample"
        )
    if y is not None and not _finite(y):
        raise DatasetError(f"{path.name}: y holds NaN, infinity or what float32 does not; leave such samples out")
    return Dataset(found, y)


def holds_shape(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file's `x` has samples of this shape. Raises `DatasetError` for no readable file."""
    x = _read(path).get("x")
    return x is not None and x.shape[1:] == shape


def to_device_order(x: Array, layout: SourceLayout) -> Array:
    """(N, C, H, W) to (N, H, W, C) where the device holds channels last."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout is SourceLayout.CHANNELS_FIRST else x


def to_source_order(x: Array, layout: SourceLayout) -> Array:
    """The inverse of `to_device_order`."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if layout is SourceLayout.CHANNELS_FIRST else x


def in_source_order(data: Dataset, layouts: dict[str, SourceLayout]) -> Dataset:
    """Samples as the model file has them, which is what labels and inputs to reconstruct are compared with."""
    return Dataset({name: to_source_order(x, layouts[name]) for name, x in data.inputs.items()}, data.y)


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= MAX_BYTES:
            with np.load(path, allow_pickle=False) as arrays:
                wanted = [key for key in arrays.files if key == "x" or key == "y" or key.startswith("x_")]
                found = {key: arrays[key] for key in wanted}
    except Exception as error:  # zipfile, its decompressors and numpy raise many kinds on damaged bytes
        raise DatasetError(f"cannot read {path} as NPZ ({error}); write it with numpy.savez") from error
    if unpacked > MAX_BYTES:
        raise DatasetError(f"{path.name} unpacks to more than {MAX_BYTES} bytes; use fewer samples")
    for key, array in found.items():
        if not isinstance(array, np.ndarray):  # numpy hands out a member that is no .npy as its bytes
            raise DatasetError(f"cannot read {path} as NPZ ('{key}' is no array); write it with numpy.savez")
    return found


def _finite(array: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32)).all())


def _input(path: Path, arrays: dict[str, Array], spec: InputSpec, *, single: bool) -> npt.NDArray[np.float32]:
    key = f"x_{spec.name}"
    if key not in arrays and single:
        key = "x"
    if key not in arrays:
        named = "'x' or " if single else ""
        with np.load(path) as archive:  # all its names: `arrays` has only those that may be meant
            held = ", ".join(map(repr, sorted(archive.files))) or "none"
        raise DatasetError(f"{path.name}: no array {named}'x_{spec.name}'; there are {held}")
    x = arrays[key]
    if x.ndim == 0 or x.shape[1:] != spec.shape:
        wanted = ", ".join(map(str, spec.shape))
        raise DatasetError(f"{path.name}: '{key}' has shape {x.shape}; input '{spec.name}' needs (N, {wanted})")
    if x.dtype.kind not in "iufb" or not _finite(x):
        raise DatasetError(
            f"{path.name}: '{key}' holds NaN, infinity, more than float32 holds, or type {x.dtype}; give finite numbers"
        )
    real = x.astype(np.float32)
    if x.dtype == spec.codes.kind:
        real = (real - np.float32(spec.codes.zero_point)) * np.float32(spec.codes.scale)
    return to_device_order(real, spec.layout)
