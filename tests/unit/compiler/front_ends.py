"""Random audio front ends, signals for them, and images of nothing else."""

from typing import Any

import numpy as np

from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.front_end import FrontEnd, count_frames
from tinyfleet_compiler.graph import Features
from tinyfleet_compiler.mel import dct_matrix, make_window, mel_filters
from tinyfleet_compiler.operators import Element, SourceLayout
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.taken import QuantizedGraph


def random_front_end(rng: Any) -> tuple[FrontEnd, int]:
    fft = int(2 ** rng.integers(5, 11))
    length, mels = int(rng.integers(fft // 2 + 1, fft + 1)), int(rng.integers(4, 41))
    hop, samples = int(rng.integers(1, fft)), int(rng.integers(fft, 4 * fft))
    count = int(rng.integers(1, mels + 1))
    dct, magnitude = rng.random() < 0.6, bool(rng.random() < 0.5)
    wide = bool(rng.random() < 0.3)
    width = count if dct else mels
    matrix = dct_matrix(count, mels) if dct else np.eye(mels)
    front = FrontEnd(
        window=make_window(str(rng.choice(["hann", "hamming-periodic", "rectangular"])), length),
        hop=hop,
        fft=fft,
        frames=count_frames(samples, length, hop),
        pad=0,
        mel=mel_filters(mels, fft, 8000, 0, 4000, "htk", bool(rng.random() < 0.5)),
        # No more than 100 dB below the loudest bin: NUMERICS.md section 6.
        floor=float(10.0 ** rng.uniform(-2.5, -1) if magnitude else 10.0 ** rng.uniform(-5, -2)),
        floor_adds=bool(rng.random() < 0.5),
        magnitude=magnitude,
        wide=wide,
        matrix=matrix / rng.uniform(0.5, 5.0, (width, 1)),
        offset=rng.normal(size=width),
    )
    return front, samples


def signals(rng: Any, samples: int, *, wide: bool) -> np.ndarray:
    """Noise loud and quiet, a tone, silence, a full-scale square, a click, half silence: (N, samples)."""
    t = np.arange(samples)
    click = np.zeros(samples)
    click[samples // 3] = 32767
    rows = [
        rng.normal(0, 8000, samples),
        rng.normal(0, 3, samples),
        20000 * np.sin(0.2 * t),
        np.zeros(samples),
        np.where(t // 20 % 2, 32767, -32768),
        click,
        rng.normal(0, 2000, samples) * (t > samples // 2),
    ]
    if wide:
        return np.clip(np.round(np.array(rows) * 65536.0), -(2**31), 2**31 - 1).astype(np.int32)
    return np.clip(np.round(rows), -32768, 32767).astype(np.int16)


def full_scale(front: FrontEnd) -> float:
    """Real value of one step of a sample."""
    return 2.0**-31 if front.wide else 2.0**-15


def features_image(front: FrontEnd, samples: int, result: Quantization) -> bytes:
    """An image that is a front end: input `x` (samples,) in [-1, 1), output `y`."""
    taken = Quantization(2.0**-31, 0, Element.INT32) if front.wide else Quantization(2.0**-15, 0, Element.INT16)
    graph = QuantizedGraph(
        (Features("front", ("x",), "y", front=front),),
        ("x",),
        ("y",),
        {"x": (samples,), "y": front.shape},
        {"x": SourceLayout.SAME, "y": SourceLayout.SAME},
        parameters={"x": taken, "y": result},
    )
    return compile_graph(graph, {}, "taken", Identity("front", "1", "host"), golden_vectors=1).data
