"""Windows, mel filter banks and the DCT that audio front ends are made of, in float64."""

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
_COSINES = {"hann": (0.5, 0.5), "hamming": (0.54, 0.46), "blackman": (0.42, 0.5, 0.08)}
WINDOWS = ("rectangular", *_COSINES, *(f"{name}-periodic" for name in _COSINES))
_COSINES["onnx-hamming"] = (25.0 / 46.0, 21.0 / 46.0)  # what HammingWindow-17 gives, and no audio library
SCALES = ("htk", "slaney")


def make_window(name: str, size: int) -> Reals:
    """(size,): one of `WINDOWS`, or ONNX's Hamming; symmetric, or periodic as ONNX HannWindow makes them by default."""
    if name == "rectangular":
        return np.ones(size)
    base = name.removesuffix("-periodic")
    turn = 2.0 * np.pi * np.arange(size) / max(size if base != name else size - 1, 1)
    return np.asarray(sum((-1) ** k * a * np.cos(k * turn) for k, a in enumerate(_COSINES[base])))


def mel_filters(filters: int, fft: int, rate_hz: float, low_hz: float, high_hz: float, scale: str, norm: bool) -> Reals:
    """(filters, fft / 2 + 1) triangles whose corners are even on the mel scale; `norm`: of area 1 (Slaney)."""
    corners = _to_hertz(np.linspace(_to_mel(low_hz, scale), _to_mel(high_hz, scale), filters + 2), scale)
    bins = np.arange(fft // 2 + 1) * (rate_hz / fft)
    rising = (bins - corners[:-2, None]) / np.diff(corners[:-1])[:, None]
    falling = (corners[2:, None] - bins) / np.diff(corners[1:])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return triangles * (2.0 / (corners[2:] - corners[:-2]))[:, None] if norm else triangles


def onnx_mel_weights(filters: int, fft: int, rate_hz: float, low_hz: float, high_hz: float) -> Reals:
    """(fft / 2 + 1, filters): ONNX MelWeightMatrix-17, whose corners are whole bins."""
    corners = _to_hertz(np.linspace(_to_mel(low_hz, "htk"), _to_mel(high_hz, "htk"), filters + 3)[:-1], "htk")
    at = np.floor((fft + 1) * corners / rate_hz).astype(np.int64)
    out = np.zeros((fft // 2 + 1, filters))
    for mel, (low, center, high) in enumerate(zip(at[:-2], at[1:-1], at[2:], strict=True)):
        for k in range(max(low, 0), min(center + 1, len(out))):
            out[k, mel] = (k - low) / (center - low) if center > low else 1.0
        for k in range(max(center, 0), min(high, len(out))):
            out[k, mel] = (high - k) / (high - center)
    return out


def dct_matrix(coefficients: int, size: int) -> Reals:
    """(coefficients, size): the first rows of the orthonormal DCT-II."""
    k, n = np.arange(coefficients)[:, None], np.arange(size)[None, :]
    scale = np.where(k == 0, np.sqrt(1.0 / size), np.sqrt(2.0 / size))
    return np.asarray(scale * np.cos(np.pi * k * (2 * n + 1) / (2 * size)))


def _to_mel(hertz: float, scale: str) -> float:
    if scale == "htk":
        return float(2595.0 * np.log10(1.0 + hertz / 700.0))
    return hertz * 3.0 / 200.0 if hertz < 1000.0 else float(15.0 + 27.0 * np.log(hertz / 1000.0) / np.log(6.4))


def _to_hertz(mel: Reals, scale: str) -> Reals:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))
