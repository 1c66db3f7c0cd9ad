"""Models of one family and many sizes: what a compile costs as they grow (part of `make bench-compiler`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, SAMPLES = 12, 64
LAYERS = (5, 10, 20, 40, 80)
"""Of 24 channels: 1.2 to 20 KB of weights."""
WIDTHS = (32, 64, 128, 320)
"""Of 10 layers: 10 KB to about 1 MB of weights."""


def growing_models(folder: Path) -> Iterator[tuple[str, Path, np.ndarray]]:
    """(name, ONNX file, calibration samples): first more layers, then wider ones."""
    rng = np.random.default_rng(7)
    samples = rng.normal(size=(SAMPLES, 1, SIDE, SIDE)).astype(np.float32)
    for layers, width in (*((n, 24) for n in LAYERS), *((10, n) for n in WIDTHS)):
        name = f"layers_{layers}" if width == 24 else f"channels_{width}"
        yield name, _chain(folder / f"{name}.onnx", layers, width, rng), samples


def _chain(path: Path, layers: int, width: int, rng: np.random.Generator) -> Path:
    """A stem, then depthwise and pointwise layers in turn with a sum over every second pair, pooling, classifier."""
    nodes, weights, last = [], [], "x"

    def layer(output: str, source: str, shape: tuple[int, ...], **attributes: object) -> str:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        weights.append(numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), f"{output}/w"))
        nodes.append(helper.make_node("Conv", [source, f"{output}/w"], [f"{output}/c"], name=output, **attributes))
        nodes.append(helper.make_node("Relu", [f"{output}/c"], [output]))
        return output

    last = skip = layer("stem", last, (width, 1, 3, 3), pads=[1, 1, 1, 1])
    for at in range((layers - 1) // 2):
        last = layer(f"dw{at}", last, (width, 1, 3, 3), pads=[1, 1, 1, 1], group=width)
        last = layer(f"pw{at}", last, (width, width, 1, 1))
        if at % 2:
            nodes.append(helper.make_node("Add", [last, skip], [f"sum{at}"], name=f"sum{at}"))
            last = skip = f"sum{at}"
    weights.append(numpy_helper.from_array(rng.normal(size=(width, 10)).astype(np.float32), "fc/w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["gap"], name="gap"),
        helper.make_node("Flatten", ["gap"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc/w"], ["y"], name="fc"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, SIDE, SIDE]), ("y", [1, 10]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def exponent(sizes: list[float], seconds: list[float]) -> float:
    """k of the best fit seconds ~ size^k."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(seconds, 1e-3)), 1)[0])
