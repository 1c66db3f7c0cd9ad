"""Small models that keep state, for the compiler's and the engines' tests."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tinyfleet_compiler import CompileOptions, Image, compile_model, load_device_class, read_image
from unit.compiler.onnx_models import node, save_model

HOP, HISTORY, BANDS, CLASSES = 2, 6, 8, 3


def streaming_cnn(path: Path, seed: int = 0, *, metadata: bool = True) -> Path:
    """HOP new rows of BANDS an inference; a ring buffer of HISTORY rows and a running average of the convolution.

    `history`, `mean` are inputs and `history_next`, `mean_next` outputs: states of the device.
    """
    rng = np.random.default_rng(seed)
    constants = {
        "w": (rng.normal(size=(6, 1, 4, 3)) / 3).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32) / 10,
        "v": (rng.normal(size=(CLASSES, 6)) / 2).astype(np.float32),
        "starts": np.array([HOP], np.int64),
        "ends": np.array([HOP + HISTORY], np.int64),
        "axes": np.array([2], np.int64),
        "flat": np.array([1, 6], np.int64),
        "keep": np.array(0.75, np.float32),
        "give": np.array(0.25, np.float32),
    }
    nodes = [
        node("Concat", ["history", "x"], "window", axis=2),
        node("Slice", ["window", "starts", "ends", "axes"], "history_next"),
        node("Conv", ["window", "w", "b"], "c", strides=[2, 2]),
        node("Relu", ["c"], "r"),
        node("GlobalAveragePool", ["r"], "g"),
        node("Reshape", ["g", "flat"], "now"),
        node("Mul", ["mean", "keep"], "old"),
        node("Mul", ["now", "give"], "new"),
        node("Add", ["old", "new"], "mean_next"),
        node("Gemm", ["mean_next", "v"], "y", transB=1),
    ]
    inputs: dict[str, Any] = {"x": (1, 1, HOP, BANDS), "history": (1, 1, HISTORY, BANDS), "mean": (1, 6)}
    save_model(path, nodes, (), constants, inputs=inputs, outputs=("y", "history_next", "mean_next"))
    if metadata:
        model = onnx.load(path)
        entry = model.metadata_props.add()
        entry.key, entry.value = "states", "history_next -> history, mean_next -> mean"
        onnx.save(model, path)
    return path


def stream(count: int, seed: int = 1) -> np.ndarray:
    """(count, 1, HOP, BANDS) float32: a slow signal with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(count * HOP).reshape(count, 1, HOP, 1) / 9.0
    phases = np.linspace(0, 3, BANDS)
    return np.asarray(np.sin(time + phases) + 0.1 * rng.normal(size=(count, 1, HOP, BANDS)), np.float32)


def compiled(
    folder: Path, model: Path, device: str = "host", samples: int = 60, name: str = "s", **options: Any
) -> Image:
    """The image of a streaming model, calibrated on one stream."""
    data = folder / "stream.npz"
    np.savez(data, x=stream(samples))
    chosen = CompileOptions(**options)
    result = compile_model(model, load_device_class(device), name=name, version="v1", calibration=data, options=chosen)
    result.write(folder)
    return read_image(result.image)
