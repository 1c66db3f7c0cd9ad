"""Writes small_cnn.json: a fixed model compiled, its golden CRCs, and outputs for fixed inputs.

Weights and calibration are small integers over 8: every float sum is exact, so that no order of adding (BLAS,
processor) changes a byte.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tinyfleet_compiler import CompileOptions, compile_model, load_device_class, read_image, simulate
from unit.compiler.onnx_models import node, save_model

GOLDEN = Path(__file__).parent / "small_cnn.json"


def describe(folder: Path) -> dict[str, Any]:
    """Compile the fixed model and collect what must not change."""
    rng = np.random.default_rng(2)

    def grid(*dims: int) -> np.ndarray:
        return (rng.integers(-7, 8, size=dims) / 8.0).astype(np.float32)

    constants = {"w1": grid(6, 2, 3, 3), "b1": grid(6), "w2": grid(6, 1, 3, 3), "w3": grid(4, 72), "b3": grid(4)}
    nodes = [
        node("Conv", ["x", "w1", "b1"], "c1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], "r1"),
        node("Conv", ["r1", "w2"], "c2", pads=[1, 1, 1, 1], group=6),
        node("Add", ["c2", "r1"], "a"),
        node("MaxPool", ["a"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "w3", "b3"], "l", transB=1),
        node("Softmax", ["l"], "y", axis=-1),
    ]
    model = save_model(folder / "m.onnx", nodes, ["N", 2, 8, 6], constants)
    np.savez(folder / "c.npz", x=grid(16, 2, 8, 6))
    options = CompileOptions(estimator="min-max")
    host = load_device_class("host")
    result = compile_model(model, host, name="golden", version="v1", calibration=folder / "c.npz", options=options)
    image = read_image(result.image)
    codes = rng.integers(-128, 128, size=(4, 8, 6, 2)).astype(np.int8)
    return {
        "image_sha256": result.report["image_sha256"],
        "image_bytes": len(result.image),
        "arena_bytes": image.arena_bytes,
        "golden": {"seeds": list(image.golden.seeds), "crc32": image.golden.crc32},
        "outputs": simulate(image, codes)["y"].tolist(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(describe(Path(name)), indent=1) + "\n")
