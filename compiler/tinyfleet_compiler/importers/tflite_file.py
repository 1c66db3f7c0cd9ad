"""Reads a TFLite file with bounds: every offset, length, type and parameter is checked before it is used."""

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.file_kind import IDENTIFIER, is_tflite
from tinyfleet_compiler.importers.onnx_file import MAX_ELEMENTS, MAX_FILE_BYTES, MAX_NODES

VERSION = 3
MAX_TENSORS = 50_000
MAX_GRAPHS = 16
MAX_RANK = 6
MAX_OPERANDS = 64
MAX_NAME = 256
DAMAGED = (struct.error, ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError)
"""What reading a damaged flatbuffer raises: offsets outside the file, lengths beyond it, values that are no number."""

_NUMPY = {
    tflite.TensorType.FLOAT32: "<f4",
    tflite.TensorType.INT8: "<i1",
    tflite.TensorType.UINT8: "<u1",
    tflite.TensorType.INT16: "<i2",
    tflite.TensorType.INT32: "<i4",
    tflite.TensorType.INT64: "<i8",
}
TYPE_NAMES: dict[int, str] = {v: k for k, v in vars(tflite.TensorType).items() if isinstance(v, int)}
OPERATOR_NAMES: dict[int, str] = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}


@dataclass(frozen=True, eq=False)
class TfTensor:
    """One tensor: static shape, batch included, and its quantisation as the file has it."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: str
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int
    raw: npt.NDArray[np.uint8] | None
    """Bytes of a constant, None for an activation."""

    @cached_property
    def values(self) -> npt.NDArray[Any]:
        """The constant as an array of its shape, int4 unpacked to int8. Raises `UnsupportedError`."""
        if self.raw is None:
            raise UnsupportedError(f"'{self.name}' is no constant", "export the model with constant parameters")
        if self.type == "INT4":
            return _unpack_int4(self.raw, self.shape)
        kind = _NUMPY.get(getattr(tflite.TensorType, self.type))
        if kind is None:
            raise UnsupportedError(f"'{self.name}' is of type {self.type}", "use int8, int32 or float32 constants")
        array = np.frombuffer(self.raw.tobytes(), dtype=kind)
        if array.size != _count(self.shape):
            raise UnsupportedError(f"'{self.name}' holds {array.size} elements, not {self.shape}", EXPORT_AGAIN)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnsupportedError(f"'{self.name}' holds NaN or infinity", "train or export the model again")
        return array.reshape(self.shape)


@dataclass(frozen=True)
class Dilation:
    """What moves to and from the batch around a convolution mean to it (`tflite_dilation.py`)."""

    block: tuple[int, ...]
    """Of (rows, columns), or of the one axis of a sequence."""
    before: tuple[int, ...]
    """Padding before the first element of each axis in `block`."""
    inner: tuple[int, ...]
    """Shape the convolution reads in between."""


@dataclass(frozen=True, eq=False)
class TfOperator:
    """One operator: tensors by index (-1 = an optional input that is not there) and its options table."""

    index: int
    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int
    table: Any
    dilation: Dilation | None = None

    def options(self, kind: Any) -> Any:
        """The options as a `tflite` class such as `tflite.Conv2DOptions`. Raises `UnsupportedError` without them."""
        if self.table is None or self.options_type != getattr(tflite.BuiltinOptions, kind.__name__):
            raise UnsupportedError(f"has no {kind.__name__}", EXPORT_AGAIN)
        found = kind()
        found.Init(self.table.Bytes, self.table.Pos)
        return found


@dataclass(frozen=True, eq=False)
class TfModel:
    """The main graph of a file, and the others, which only initialise variables."""

    tensors: tuple[TfTensor, ...]
    operators: tuple[TfOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    others: tuple["TfModel", ...] = ()


EXPORT_AGAIN = "export the model again, it may be damaged"


def load_tflite(path: Path) -> TfModel:
    """Parse `path`. Raises `ModelError` when it is damaged or no TFLite file."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size < 8 or size > MAX_FILE_BYTES:
            raise ModelError(f"{path.name} has {size} bytes; a .tflite file of 8 to {MAX_FILE_BYTES} bytes is needed")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; give the path of a .tflite file") from error
    if not is_tflite(data):
        raise ModelError(f"{path.name} is not a TFLite model (no {IDENTIFIER.decode()} at byte 4); export it again")
    try:
        return _read(data, path.name)
    except DAMAGED as error:
        raise ModelError(f"{path.name} is not a readable TFLite model ({error}); {EXPORT_AGAIN}") from error


def _read(data: bytes, name: str) -> TfModel:
    model = tflite.Model.GetRootAs(data, 0)
    if model.Version() != VERSION:
        raise ModelError(f"{name} is of TFLite version {model.Version()}, {VERSION} is read; convert it again")
    if not 1 <= model.SubgraphsLength() <= MAX_GRAPHS:
        raise ModelError(
            f"{name} holds {model.SubgraphsLength()} graphs, 1 to {MAX_GRAPHS} are read; export it without control flow"
        )
    main, *others = (_read_graph(model, model.Subgraphs(i), name) for i in range(model.SubgraphsLength()))
    if not main.inputs or not main.outputs or not main.tensors or not main.operators:
        raise ValueError("its main graph lacks tensors, operators, inputs or outputs")
    return replace(main, others=tuple(others))


def _read_graph(model: Any, graph: Any, name: str) -> TfModel:
    limits = (("tensors", graph.TensorsLength(), MAX_TENSORS), ("operators", graph.OperatorsLength(), MAX_NODES))
    for what, count, most in limits:
        if not 0 <= count <= most:
            raise ModelError(f"{name} has {count} {what}, at most {most} are read; {EXPORT_AGAIN}")
    tensors = tuple(_read_tensor(model, graph.Tensors(i), i) for i in range(graph.TensorsLength()))
    operators = tuple(_read_operator(model, graph.Operators(i), i) for i in range(graph.OperatorsLength()))
    inputs, outputs = _indices(graph.InputsAsNumpy()), _indices(graph.OutputsAsNumpy())
    used = [*inputs, *outputs, *(t for o in operators for t in o.outputs)]
    optional = [t for o in operators for t in o.inputs if t != -1]
    if not all(0 <= t < len(tensors) for t in (*used, *optional)):
        raise ValueError("it names tensors that are not there")
    return TfModel(tensors, operators, inputs, outputs)


def _indices(vector: Any) -> tuple[int, ...]:
    """A vector of indices; the bindings give 0 for one that is not there."""
    found = () if isinstance(vector, int) else tuple(int(v) for v in vector[: MAX_OPERANDS + 1])
    if len(found) > MAX_OPERANDS:
        raise ValueError(f"an operator has more than {MAX_OPERANDS} operands")
    return found


def _read_operator(model: Any, item: Any, index: int) -> TfOperator:
    code = item.OpcodeIndex()
    if not 0 <= code < model.OperatorCodesLength():
        raise ValueError(f"operator {index} has no code")
    entry = model.OperatorCodes(code)
    number = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
    operator = OPERATOR_NAMES.get(number, f"operator {number}")
    if operator == "CUSTOM":
        operator = f"custom operator {_text(entry.CustomCode()) or 'without a name'}"
    inputs, outputs = _indices(item.InputsAsNumpy()), _indices(item.OutputsAsNumpy())
    return TfOperator(index, operator, inputs, outputs, item.BuiltinOptionsType(), item.BuiltinOptions())


def _read_tensor(model: Any, item: Any, index: int) -> TfTensor:
    shape = _shape(item)
    quantization = item.Quantization()
    scales, zero_points, axis = _NO_SCALES, _NO_ZERO_POINTS, 0
    if quantization is not None and quantization.ScaleLength():
        scales = np.asarray(quantization.ScaleAsNumpy(), np.float32)
        axis = quantization.QuantizedDimension()
        zero_points = np.zeros(scales.size, np.int64)
        if quantization.ZeroPointLength():
            zero_points = np.asarray(quantization.ZeroPointAsNumpy(), np.int64)
    kind = TYPE_NAMES.get(item.Type(), f"type {item.Type()}")
    name = _text(item.Name()) or f"tensor_{index}"
    if item.Sparsity() is not None:
        kind = f"sparse {kind}"
    return TfTensor(index, name, shape, kind, scales, zero_points, axis, _buffer(model, item.Buffer()))


_NO_SCALES = np.zeros(0, np.float32)
_NO_ZERO_POINTS = np.zeros(0, np.int64)


def _shape(item: Any) -> tuple[int, ...]:
    if item.ShapeLength() > MAX_RANK:
        raise ValueError(f"a tensor has {item.ShapeLength()} dimensions")
    found = item.ShapeAsNumpy()
    shape = () if isinstance(found, int) else tuple(int(d) for d in found)
    if any(d < 0 for d in shape) or float(np.prod([float(d) for d in shape])) > MAX_ELEMENTS:
        raise ValueError(f"a tensor has shape {shape}")
    return shape


def _buffer(model: Any, index: int) -> npt.NDArray[np.uint8] | None:
    if not 0 <= index < model.BuffersLength():
        raise ValueError(f"a tensor names buffer {index}, there are {model.BuffersLength()}")
    buffer = model.Buffers(index)
    if buffer.Offset() > 1 or buffer.Size() > 1:
        raise ValueError("it keeps data behind the flatbuffer, which only models over 2 GB do")
    return np.asarray(buffer.DataAsNumpy(), np.uint8) if buffer.DataLength() else None


def _text(raw: bytes | None) -> str:
    """A name that is safe to show and to store, "" for none."""
    text = (raw or b"")[: MAX_NAME + 1].decode("utf-8", errors="replace")
    return text if len(text) <= MAX_NAME and text.isprintable() else ""


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _unpack_int4(raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """Two values a byte, the low half first, sign-extended."""
    if raw.size != -(-_count(shape) // 2):
        raise UnsupportedError(f"{raw.size} bytes are not {shape} int4 values", EXPORT_AGAIN)
    nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: _count(shape)].astype(np.int16)
    return ((nibbles ^ 8) - 8).astype(np.int8).reshape(shape)
