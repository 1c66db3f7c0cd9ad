"""Checks on uploaded files before they count: readable as what they claim to be, in bounded time and memory."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyfleet_compiler import CompilerError, check_model, load_device_class
from tinyfleet_compiler.compile import load_samples
from tinyfleet_compiler.dataset import load_dataset
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.load_model import load_graph, needs_calibration
from tinyfleet_compiler.model_inputs import input_specs
from tinyfleet_service.errors import InvalidInputError, ModelInvalidError
from tinyfleet_service.registry.build_options import BuildOptions

MAX_UNPACKED = 4  # an NPZ may unpack to so many times the upload limit


@dataclass(frozen=True)
class Uploads:
    """Files of one push, still temporary."""

    model: Path
    calibration: Path | None = None
    evaluation: Path | None = None


def check_uploads(uploads: Uploads, options: BuildOptions, limit_bytes: int) -> None:
    """Raises ModelInvalidError with every problem of the model at once, InvalidInputError for data."""
    _check_model(uploads.model, options)
    graph = _graph(uploads.model, options)
    if uploads.calibration is None and options.type != "float32" and needs_calibration(graph):
        raise InvalidInputError(
            "a float model needs calibration data", next="send an NPZ with some typical inputs as x (--calibration)"
        )
    for name, path in (("calibration", uploads.calibration), ("evaluation", uploads.evaluation)):
        if path is not None:
            check_npz(path, name, limit_bytes)
            _check_dataset(graph, path, name)


def _check_model(path: Path, options: BuildOptions) -> None:
    host, states = load_device_class("host"), tuple(options.states)
    report = check_model(path, host, options.front_end, options.dims, states, options.type)
    unsupported = [str(problem).replace(path.name, "the model file") for problem in report.problems]
    if unsupported:
        raise ModelInvalidError(
            f"the model cannot be compiled: {unsupported[0]}" + (" ..." if len(unsupported) > 1 else ""),
            next="change the model as each problem says; nothing was registered",
            problems=unsupported,
        )


def _graph(path: Path, options: BuildOptions) -> Graph:
    return load_graph(path, options.front_end, options.dims, tuple(options.states), options.type)


def _check_dataset(graph: Graph, path: Path, name: str) -> None:
    """Shapes and values against the model's inputs: a version that can never be built must not be registered."""
    try:
        if name == "calibration":
            load_samples(path, graph, input_specs(graph))
        else:
            load_dataset(path, input_specs(graph))
    except CompilerError as error:
        reason = str(error).replace(path.name, f"the {name} file")
        raise InvalidInputError(reason, next="correct the file; nothing was registered") from error


def check_npz(path: Path, name: str, limit_bytes: int) -> None:
    """Raises InvalidInputError unless the file is an NPZ of plain arrays, `x` or `x_<input>` among them."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED * limit_bytes:
            raise InvalidInputError(f"the {name} file unpacks to {unpacked} bytes", next="send fewer samples")
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays.files)
    except InvalidInputError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds on damaged bytes
        raise InvalidInputError(
            f"the {name} file is not an NPZ of arrays: {error}",
            next="write it with numpy.savez_compressed(file, x=..., y=...)",
        ) from error
    if not any(key == "x" or key.startswith("x_") for key in names):
        raise InvalidInputError(
            f"the {name} file holds {', '.join(names) or 'no arrays'} but no x",
            next="name the inputs x, or x_<input> each",
            names=names,
        )
