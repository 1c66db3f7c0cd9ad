"""Arrays in and out of NPZ files, for `fleetctl run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_service.errors import InvalidInputError

Array = npt.NDArray[Any]
SAVE_AGAIN = "save inputs with np.savez(FILE, x=...), or one array x_<name> per input of the model"


def read_inputs(path: Path) -> Array | dict[str, Array]:
    """The inputs an NPZ holds: `x`, or a dictionary as soon as there are arrays `x_<name>`; other arrays are ignored.

    Which of them a model takes is the engine's to say. Raises InvalidInputError for a file that is no NPZ, is
    damaged, holds Python objects or none of these arrays.
    """
    try:
        arrays, others = _read_arrays(path)
    except Exception as error:  # zipfile, its decompressors and numpy raise many kinds on damaged bytes
        raise InvalidInputError(f"{path} is no readable NPZ file: {error}", next=SAVE_AGAIN) from error
    if not arrays:
        raise InvalidInputError(f"{path} holds no array x, only {', '.join(others) or 'nothing'}", next=SAVE_AGAIN)
    return arrays["x"] if list(arrays) == ["x"] else arrays


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write `y_<output>` arrays, a single one also as `y`, to exactly `path`."""
    named = {f"y_{name}": value for name, value in outputs.items()}
    if len(named) == 1:
        named["y"] = next(iter(named.values()))
    with path.open("wb") as file:  # a path would get .npz appended
        np.savez_compressed(file, **named)  # type: ignore[arg-type]


def _read_arrays(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Inputs by array name, and the names of what else is there."""
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array")
    with loaded:
        inputs = [name for name in loaded.files if name == "x" or name.startswith("x_")]
        arrays = {name: loaded[name] for name in inputs}
        if bare := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{bare[0]} is no array")
        return arrays, [name for name in loaded.files if name not in inputs]
