"""From samples to energies: STFT, or framing by Gather and DFT, then the squares of both parts joined."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.front_end import MOST_FFT, MOST_MELS, count_frames
from tinyfleet_compiler.importers.audio import Audio, Stage, Step, constant_operand
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.mel import make_window, onnx_mel_weights

_MOST_HOP = 65_535
_WINDOWS = {"HannWindow": "hann", "HammingWindow": "onnx-hamming", "BlackmanWindow": "blackman"}


def fold_window(node: OnnxNode) -> np.ndarray:
    """HannWindow, HammingWindow, BlackmanWindow-17 of a constant size."""
    size = _whole(node.constant(0, "size"), 1, MOST_FFT, "size")
    suffix = "-periodic" if node.integer("periodic", 1) else ""
    return make_window(_WINDOWS[node.operator] + suffix, size).astype(np.float32)


def fold_mel_weights(node: OnnxNode) -> np.ndarray:
    """MelWeightMatrix-17 of constant inputs."""
    filters = _whole(node.constant(0, "num_mel_bins"), 1, MOST_MELS, "num_mel_bins")
    fft = _whole(node.constant(1, "dft_length"), 2, MOST_FFT, "dft_length")
    rate, low, high = (float(node.constant(i, "a frequency").reshape(-1)[0]) for i in (2, 3, 4))
    if not 0 <= low < high <= rate / 2:
        raise UnsupportedError(f"spans {low} to {high} Hz at {rate} Hz", "use edges below half the sample rate")
    return onnx_mel_weights(filters, fft, rate, low, high).astype(np.float32)


WINDOW_FOLDERS = dict.fromkeys(_WINDOWS, fold_window) | {"MelWeightMatrix": fold_mel_weights}


def begin_audio(node: OnnxNode) -> bool:
    """Whether an operator is the first on the way from samples to features."""
    if node.operator == "STFT":
        import_stft(node)
        return True
    return node.operator == "Gather" and import_framing(node)


def import_stft(node: OnnxNode) -> None:
    """STFT-17 of a model input (N, samples) or (N, samples, 1): one-sided, constant window and sizes."""
    samples = _recording(node, node.data(0))
    hop = _whole(node.constant(1, "frame_step"), 1, _MOST_HOP, "frame_step")
    given = node.floats(2, "the window").astype(np.float64) if node.has_input(2) else None
    size = 1 if given is None else len(given)
    length = _whole(node.constant(3, "frame_length"), 1, MOST_FFT, "frame_length") if node.has_input(3) else size
    window = np.ones(length) if given is None else given
    frames = count_frames(samples, length, hop)
    if not node.integer("onesided", 1) or window.shape != (length,):
        raise UnsupportedError("is two-sided or has a window of another length", "export a one-sided STFT")
    if not frames:
        raise UnsupportedError(f"cuts {samples} samples into frames of {length}", "give an inference a whole frame")
    shape = (frames, length // 2 + 1, 2)
    made = Audio(node.data(0), Stage.COMPLEX, shape, frames, hop, _trimmed(window), fft=_points(length))
    node.context.audio[node.output] = made


def import_framing(node: OnnxNode) -> bool:
    """Gather of (frames, L) evenly spaced runs of a recording (N, samples): whether it is that."""
    context = node.context
    indices = context.constants.get(node.inputs[1]) if node.has_input(1) else None
    if indices is None or indices.ndim != 2 or node.integer("axis", 0) not in (1, -1) or len(node.shape()) != 1:
        return False
    frames, length = indices.shape
    hop = int(indices[1, 0] - indices[0, 0]) if frames > 1 else length
    wanted = np.arange(frames)[:, None] * hop + np.arange(length)
    if (
        not 1 <= hop <= _MOST_HOP
        or not np.array_equal(indices, wanted)
        or indices[-1, -1] >= _recording(node, node.data(0))
    ):
        return False
    context.audio[node.output] = Audio(node.data(0), Stage.FRAMES, (frames, length), frames, hop, np.ones(length))
    return True


def _scale_frames(node: OnnxNode, audio: Audio) -> Audio | None:
    factor = constant_operand(node)
    if factor is None or factor.size not in (1, len(audio.window)):
        return None
    return replace(audio, window=audio.window * factor.reshape(-1))


def _reshape_frames(node: OnnxNode, audio: Audio) -> Audio:
    whole = (audio.frames, len(audio.window))
    return replace(audio, shape=(*whole, 1) if len(audio.shape) == 2 else whole)


def _dft(node: OnnxNode, audio: Audio) -> Audio:
    """DFT-17/20 along the samples of frames (N, frames, L, 1)."""
    given = node.context.opset >= 20 and node.has_input(2)
    axis = _whole(node.constant(2, "axis"), -4, 4, "axis") if given else node.integer("axis", 1)
    length = len(audio.window)
    if node.has_input(1):
        length = _whole(node.constant(1, "dft_length"), 1, MOST_FFT, "dft_length")
    if node.integer("inverse", 0) or not node.integer("onesided", 0) or axis not in (2, -2) or len(audio.shape) != 3:
        raise UnsupportedError(
            "is no one-sided DFT of frames (N, frames, L, 1)", "export it along axis 2, onesided = 1"
        )
    window = _trimmed(audio.window[:length])
    shape = (audio.frames, length // 2 + 1, 2)
    return replace(audio, stage=Stage.COMPLEX, shape=shape, window=window, fft=_points(length))


def _pick_part(node: OnnxNode, audio: Audio) -> Audio | None:
    index = node.context.constants.get(node.inputs[1]) if node.has_input(1) else None
    if index is None or index.ndim != 0 or node.integer("axis", 0) not in (3, -1):
        return None
    return replace(audio, stage=Stage.PART, part=int(index) % 2, shape=audio.shape[:2])


def _square(node: OnnxNode, audio: Audio) -> Audio | None:
    exponent = constant_operand(node) if node.operator == "Pow" else None
    squares = exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0
    if not squares and not (node.operator == "Mul" and node.inputs[0] == node.inputs[1]):
        return None
    return replace(audio, stage=Stage.SQUARES if audio.stage is Stage.COMPLEX else Stage.SQUARED_PART)


def _join_parts(node: OnnxNode, audio: Audio) -> Audio | None:
    both = [node.context.audio.get(name) for name in node.inputs]
    parts = {a.part for a in both if a is not None and a.stage is Stage.SQUARED_PART and a.source == audio.source}
    return replace(audio, stage=Stage.ENERGY) if parts == {0, 1} else None


def _sum_parts(node: OnnxNode, audio: Audio) -> Audio | None:
    axes = node.ints("axes", ())
    if node.has_input(1):
        axes = tuple(int(a) for a in np.ravel(node.constant(1, "axes")))
    if axes not in ((3,), (-1,)) or node.integer("keepdims", 1):
        return None
    return replace(audio, stage=Stage.ENERGY, magnitude=node.operator == "ReduceL2", shape=audio.shape[:2])


def _root(node: OnnxNode, audio: Audio) -> Audio | None:
    return None if audio.filters is not None or audio.magnitude else replace(audio, magnitude=True)


def _recording(node: OnnxNode, source: str) -> int:
    shape = node.context.shapes[source]
    if any(n.output == source for n in node.context.nodes) or not (len(shape) == 1 or shape[1:] == (1,)):
        raise UnsupportedError("does not hear a model input of shape (N, samples)", "give it the recording itself")
    return shape[0]


def _points(length: int) -> int:
    if length & (length - 1) or not 16 <= length <= MOST_FFT:
        help = "use a power of two from 16 to 4096, and a window padded with zeros to it"
        raise UnsupportedError(f"transforms {length} points", help)
    return length


def _trimmed(window: np.ndarray) -> np.ndarray:
    """Without the zeros at its end, which the FFT pads anyway."""
    used = np.flatnonzero(window)
    if not used.size or not np.isfinite(window).all():
        raise UnsupportedError("has a window of zeros or of no numbers", "export the model again")
    return window[: used[-1] + 1]


def _whole(value: np.ndarray, low: int, high: int, what: str) -> int:
    numbers = np.asarray(value).reshape(-1)
    if numbers.size != 1 or not low <= float(numbers[0]) <= high or float(numbers[0]) != int(numbers[0]):
        raise UnsupportedError(f"{what} is {numbers.tolist()[:4]}", f"use one whole number from {low} to {high}")
    return int(numbers[0])


SPECTRUM_STEPS: dict[tuple[Stage, str], Step] = {
    (Stage.FRAMES, "Mul"): _scale_frames,
    (Stage.FRAMES, "Unsqueeze"): _reshape_frames,
    (Stage.FRAMES, "DFT"): _dft,
    (Stage.COMPLEX, "Gather"): _pick_part,
    (Stage.COMPLEX, "Mul"): _square,
    (Stage.COMPLEX, "Pow"): _square,
    (Stage.COMPLEX, "ReduceSumSquare"): _sum_parts,
    (Stage.COMPLEX, "ReduceL2"): _sum_parts,
    (Stage.PART, "Mul"): _square,
    (Stage.PART, "Pow"): _square,
    (Stage.SQUARED_PART, "Add"): _join_parts,
    (Stage.SQUARES, "ReduceSum"): _sum_parts,
    (Stage.ENERGY, "Sqrt"): _root,
}
