"""The compiler's own numpy engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.image import Image, ImageTensor
from tinyfleet_compiler.simulate import simulate
from tinyfleet_service.cli.engines.result import RunResult


def run(image: Image, inputs: npt.NDArray[Any], *, reset_state: bool = False) -> RunResult:
    """Run `inputs`, (N, bytes of all inputs) int8 in device order."""
    ends = np.cumsum([tensor.size_bytes for tensor in image.inputs])
    parts = zip(image.inputs, np.split(inputs, ends[:-1], axis=1), strict=True)
    shaped = {tensor.name: _typed(part, tensor) for tensor, part in parts}
    outputs = simulate(image, shaped if len(shaped) > 1 else next(iter(shaped.values())), reset_state=reset_state)
    return RunResult(outputs, image.arena_bytes, image.state_bytes)


def _typed(part: npt.NDArray[Any], tensor: ImageTensor) -> npt.NDArray[Any]:
    """Bytes (N, bytes) as the tensor's elements."""
    return np.ascontiguousarray(part).view(tensor.dtype).reshape(len(part), *tensor.shape)
