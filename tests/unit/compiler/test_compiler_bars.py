"""Arena and image size of the study models on every Cortex-M class, met by one default compile."""

import os
from pathlib import Path

import numpy as np
import pytest

from tinyfleet_compiler import load_device_class
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.quantize.calibrate import Observed

MODELS = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "models"
CLASSES = ("cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
ARENAS = {
    "kws_dscnn": 9_000,
    "ic_resnet8": 35_000,
    "vww_mobilenetv1_025_96": 38_000,
    "sww_dscnn1d": 4_400,
    "ad_autoencoder": 768,
}
pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="TINYFLEET_SHARED names no folder with models")


def image_bar(compiled: Compiled, kernels: str) -> int:
    """Weights, biases, 5 bytes a channel, 64 bytes an op and 1 KB; 5 % more where kernels may ask for packing."""
    blocks = [op.weights for op in compiled.ops if op.weights is not None]
    channels = sum(block.biases.size for block in blocks)
    weights = sum(block.rows.size for block in blocks)
    bar = weights + 4 * channels + 5 * channels + 64 * len(compiled.ops) + 1024
    return bar if kernels == "portable" else bar * 105 // 100


@pytest.mark.parametrize("device_class", CLASSES)
@pytest.mark.parametrize("name", sorted(ARENAS))
def test_arena_and_image_stay_below_their_bars(name: str, device_class: str) -> None:
    kernels = load_device_class(device_class).kernels
    graph = load_graph(MODELS / "mlperf_tiny" / f"{name}_int8.tflite")
    compiled = compile_graph(graph, {}, "as-imported", Identity("m", "v1", device_class, kernels=kernels))
    assert compiled.plan.arena_bytes <= ARENAS[name]
    golden = compiled.image.header["golden_bytes"]
    assert len(compiled.data) - golden <= image_bar(compiled, kernels)


@pytest.mark.parametrize("device_class", CLASSES)
def test_the_keyword_model_stays_below_its_bar(device_class: str) -> None:
    """Sizes do not depend on ranges: made-up ones will do."""
    kernels = load_device_class(device_class).kernels
    graph = load_graph(MODELS / "kws_digits" / "kws_v1.onnx")
    seen = Observed(-1.0, 1.0, np.linspace(-1, 1, 64, dtype=np.float32))
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    identity = Identity("m", "v1", device_class, kernels=kernels)
    compiled = compile_graph(graph, dict.fromkeys(names, seen), "min-max", identity)
    golden = compiled.image.header["golden_bytes"]
    assert len(compiled.data) - golden <= image_bar(compiled, kernels)
