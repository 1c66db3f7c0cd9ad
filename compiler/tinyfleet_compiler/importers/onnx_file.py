"""Reads an ONNX file with bounds: size, external data inside the folder, finite weights."""

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.graph import elements

MAX_FILE_BYTES = 256 << 20
MAX_NODES = 5_000
MAX_ELEMENTS = 1 << 26
OPSETS = range(11, 26)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Parse `path` without touching external data. Raises `ModelError`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; give the path of an .onnx file") from error
    if not path.is_file() or size == 0 or size > MAX_FILE_BYTES:
        raise ModelError(f"{path.name} has {size} bytes; an .onnx file of 1 to {MAX_FILE_BYTES} bytes is needed")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError, OSError) as error:
        raise ModelError(f"{path.name} is not an ONNX model ({error}); export it again") from error
    _check_names(model, path.name)
    _check_model(model, path.name)
    return model


def _check_names(model: onnx.ModelProto, name: str) -> None:
    """The protobuf reader hands on text that is not UTF-8 as bytes; no later stage should meet it."""
    graph = model.graph
    texts: list[object] = [graph.name, *(o.domain for o in model.opset_import)]
    texts += [text for p in model.metadata_props for text in (p.key, p.value)]
    texts += [t.name for t in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    if not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{name} holds names that are not UTF-8; export it again, it may be damaged")


def _check_model(model: onnx.ModelProto, name: str) -> None:
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{name} holds no ONNX graph; export it again, it may be truncated")
    if len(model.graph.node) > MAX_NODES:
        raise ModelError(f"{name} has {len(model.graph.node)} nodes, at most {MAX_NODES} are read; simplify it first")
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or versions[0] not in OPSETS:
        found = versions[0] if versions else "none"
        raise ModelError(f"{name} uses opset {found}; export with opset {OPSETS[0]} to {OPSETS[-1]}")


def read_tensors(model: onnx.ModelProto, folder: Path) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Every initializer as an array, and what is wrong with the others."""
    arrays: dict[str, np.ndarray] = {}
    problems: list[Problem] = []
    for tensor in model.graph.initializer:
        try:
            arrays[tensor.name] = read_tensor(tensor, folder)
        except (ValueError, TypeError, OSError, KeyError, OverflowError) as error:
            problems.append(Problem(tensor.name, "initializer", str(error), "export the model again"))
    return arrays, problems


def read_tensor(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The array of one tensor, external data only from inside `folder`. Raises `ValueError`."""
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape) or float(np.prod([float(d) for d in shape])) > MAX_ELEMENTS:
        raise ValueError(f"shape {shape} is outside what is read (at most {MAX_ELEMENTS} elements)")
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _embed(tensor, folder)
    array = numpy_helper.to_array(tensor)
    if array.size != elements(shape):
        raise ValueError(f"holds {array.size} elements, its shape {shape} says {elements(shape)}")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity")
    return array


def _embed(tensor: TensorProto, folder: Path) -> TensorProto:
    entries = {e.key: e.value for e in tensor.external_data}
    base = folder.resolve()
    location = entries.get("location", "")
    try:
        path = (base / location).resolve()
        inside = path.is_relative_to(base) and path.is_file()
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise ValueError(f"external data '{location}' is not a file inside the model's folder")
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0)) or path.stat().st_size
    if offset < 0 or length < 0 or length > MAX_FILE_BYTES or offset + length > path.stat().st_size:
        raise ValueError("external data lies outside its file")
    with path.open("rb") as file:
        file.seek(offset)
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.ClearField("external_data")
        copy.data_location = TensorProto.DEFAULT
        copy.raw_data = file.read(length)
    return copy
