"""Between a user's arrays and the device's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import numerics
from tinyfleet_compiler.image import Image, ImageTensor
from tinyfleet_compiler.operators import Element, SourceLayout
from tinyfleet_compiler.simulate import as_bytes
from tinyfleet_service.errors import InvalidInputError

Array = npt.NDArray[Any]


def device_inputs(image: Image, x: Array | Mapping[str, Array]) -> Array:
    """(N, bytes of all inputs) int8, inputs in image order, channels last. Raises InvalidInputError."""
    arrays = [_one_input(tensor, _pick(image, tensor, x)) for tensor in image.inputs]
    counts = {len(array) for array in arrays}
    if len(counts) != 1:
        raise InvalidInputError(f"inputs have {sorted(counts)} samples", next="give every input the same number")
    if counts == {0}:
        raise InvalidInputError("the input holds no samples", next="give at least one")
    return np.concatenate(arrays, axis=1)


def split_outputs(image: Image, data: Array) -> dict[str, Array]:
    """Cut (N, bytes of all outputs) int8 into (N, ...) arrays by output name."""
    ends = np.cumsum([tensor.size_bytes for tensor in image.outputs])
    parts = np.split(data, ends[:-1], axis=1)
    named = zip(image.outputs, parts, strict=True)
    return {
        tensor.name: np.ascontiguousarray(part).view(tensor.dtype).reshape(len(data), *tensor.shape)
        for tensor, part in named
    }


def _pick(image: Image, tensor: ImageTensor, x: Array | Mapping[str, Array]) -> Array:
    if not isinstance(x, Mapping):
        if len(image.inputs) > 1:
            names = ", ".join(f"x_{other.name}" for other in image.inputs)
            raise InvalidInputError("the model has several inputs", next=f"give one array per input: {names}")
        return np.asarray(x)
    for key in (f"x_{tensor.name}", tensor.name, *(["x"] if len(image.inputs) == 1 else [])):
        if key in x:
            return np.asarray(x[key])
    raise InvalidInputError(f"input {tensor.name!r} is missing", next=f"add an array x_{tensor.name}")


def _one_input(tensor: ImageTensor, x: Array) -> Array:
    if x.shape[1:] != tensor.source_shape or x.ndim == 0:
        wanted = ("N", *tensor.source_shape)
        raise InvalidInputError(
            f"input {tensor.name!r} has shape {x.shape}, the model takes ({', '.join(map(str, wanted))})",
            next="reshape it to the model's own layout",
            expected=list(tensor.source_shape),
            got=list(x.shape),
        )
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise InvalidInputError(f"input {tensor.name!r} holds NaN or infinity", next="give finite numbers")
        x = numerics.quantize(x, tensor.scale, tensor.zero_point, tensor.dtype)
    elif x.dtype != tensor.dtype:
        kind = np.dtype(tensor.dtype).name
        give = kind if tensor.element is Element.FLOAT32 else f"{kind}, or float32 to be quantised"
        raise InvalidInputError(f"input {tensor.name!r} is {x.dtype}", next=f"give {give}")
    if tensor.source_layout is SourceLayout.CHANNELS_FIRST:
        x = np.moveaxis(x, 1, -1)
    return as_bytes(x)
