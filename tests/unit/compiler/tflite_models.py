"""Small TFLite models for the compiler's tests, and TensorFlow Lite Micro as the oracle that runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from tinyfleet_compiler import Image, compile_model, load_device_class, read_image
from tinyfleet_compiler.simulate import as_bytes, collect_outputs

_REASON = "TensorFlow Lite Micro comes for Linux on x86-64 only"
schema = pytest.importorskip("tflite_micro.tensorflow.lite.micro.python.schema_py_generated", reason=_REASON)
runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason=_REASON)

HOST = load_device_class("host")
_TYPES = {"i1": "INT8", "u1": "UINT8", "i2": "INT16", "i4": "INT32", "i8": "INT64", "f4": "FLOAT32"}


class Builder:
    """Collects tensors and operators of one graph; `save` writes the file."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]

    def tensor(
        self,
        shape: Sequence[int],
        scale: Any = None,
        zero_point: Any = 0,
        *,
        data: np.ndarray | None = None,
        kind: str = "i1",
        axis: int = 0,
        name: str = "",
    ) -> int:
        """Index of a new tensor: an activation, or a constant with `data`; `scale` may be one per channel."""
        made = schema.TensorT()
        made.shape = list(shape)
        made.type = getattr(schema.TensorType, _TYPES[data.dtype.str[1:] if data is not None else kind])
        made.name = name or f"t{len(self.graph.tensors)}"
        made.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [float(s) for s in np.atleast_1d(scale)]
            zeros = np.broadcast_to(np.atleast_1d(zero_point), len(made.quantization.scale))
            made.quantization.zeroPoint = [int(z) for z in zeros]
            made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def int4(self, values: np.ndarray, scale: Any, axis: int = 0) -> int:
        """A constant of int4 weights, two to a byte over the whole tensor as TFLite packs them."""
        flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8))
        packed = ((flat[1::2].astype(np.int16) << 4) | (flat[::2] & 15)).astype(np.int8)
        made = self.tensor(values.shape, scale, data=packed, axis=axis)
        self.graph.tensors[made].type = schema.TensorType.INT4
        return made

    def operator(self, name: str, inputs: Sequence[int], output: int, version: int = 1, **options: Any) -> int:
        """Append an operator; `kind` names its options table, `options` are fields of it."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), [output]
        kind = options.pop("kind", "")
        if kind:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                assert hasattr(made.builtinOptions, field), field
                setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)
        return output

    def data(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Bytes of the file."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def compiled_image(folder: Path, data: bytes) -> Image:
    """The image of a quantised model."""
    path = folder / "m.tflite"
    path.write_bytes(data)
    return read_image(compile_model(path, HOST, name="m", version="v1", calibration=None).image)


def traced(image: Image, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Output of every op of an image for inputs (N, ...) of codes in the image's order, each (N, bytes)."""
    arena = np.zeros((len(inputs[0]), image.arena_bytes), np.int8)
    for tensor, x in zip(image.inputs, inputs, strict=True):
        arena[:, tensor.offset : tensor.offset + tensor.size_bytes] = as_bytes(x)
    return collect_outputs(image, arena)


def oracle(data: bytes, inputs: Sequence[np.ndarray], tensors: Sequence[int] = ()) -> list[np.ndarray]:
    """TFLM's output 0 for inputs (N, ...), or every tensor of `tensors`, each (N, elements)."""
    config = runtime.InterpreterConfig.kPreserveAllTensors
    arena = max(10 * len(data), 1 << 20)
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena, intrepreter_config=config)
    found: list[list[np.ndarray]] = [[] for _ in tensors or (0,)]
    for row in range(len(inputs[0])):
        for index, x in enumerate(inputs):
            interpreter.set_input(x[row : row + 1].reshape(interpreter.get_input_details(index)["shape"]), index)
        interpreter.invoke()
        values = (
            [interpreter.GetTensor(t, 0)["tensor_data"] for t in tensors] if tensors else [interpreter.get_output(0)]
        )
        for part, value in zip(found, values, strict=True):
            part.append(np.array(value).reshape(-1))
    return [np.stack(part) for part in found]


def codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random int8 codes, the extremes more often than by chance."""
    values = rng.integers(-128, 128, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([-128, 127], shape), values).astype(np.int8)
