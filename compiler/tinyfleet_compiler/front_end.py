"""Audio front end: samples in, log spectral features out, in real numbers; NUMERICS.md section 6 has the integers.

A frame of `window` samples every `hop`, real FFT, power or magnitude, mel filter bank, floor, natural logarithm, then
an affine map (DCT, per-channel normalisation, both or neither).
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
MOST_MELS, MOST_FFT = 256, 4096


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """features = matrix @ ln(floor(mel @ |FFT(window * frame)|^power)) + offset, frame by frame."""

    window: Reals
    """(L,), L at most `fft`."""
    hop: int
    fft: int
    """Points of the FFT, a power of two; frames are padded with zeros to it."""
    frames: int
    pad: int
    """Zeros before the first sample."""
    mel: Reals
    """(M, fft / 2 + 1), none negative."""
    floor: float
    """Added to every energy, or the least energy; above 0."""
    floor_adds: bool
    magnitude: bool
    """Filters weigh |FFT| instead of its square."""
    matrix: Reals
    """(C, M)"""
    offset: Reals
    """(C,)"""
    wide: bool = False
    """Samples are int32 of 31 bits instead of int16 of 15: for recordings that were scaled after the converter."""

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, features)"""
        return self.frames, len(self.offset)

    def then(self, matrix: Reals, offset: Reals) -> "FrontEnd":
        """The same with another affine map, (C', C) and (C',), behind it."""
        return replace(self, matrix=matrix @ self.matrix, offset=matrix @ self.offset + offset)

    def features(self, samples: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """(N, samples) real to (N, frames, C), in float64 arithmetic."""
        cut = frame_samples(samples.reshape(len(samples), -1).astype(np.float64), self)
        spectrum = np.abs(np.fft.rfft(cut * self.window, self.fft))
        energy = (spectrum if self.magnitude else spectrum**2) @ self.mel.T
        energy = energy + self.floor if self.floor_adds else np.maximum(energy, self.floor)
        return np.asarray(np.log(energy) @ self.matrix.T + self.offset, dtype=np.float32)


def frame_samples(samples: Reals, front: FrontEnd) -> Reals:
    """(N, samples) to (N, frames, L); what lies outside is zero."""
    length = len(front.window)
    behind = max(0, (front.frames - 1) * front.hop + length - front.pad - samples.shape[1])
    wide = np.pad(samples, ((0, 0), (front.pad, behind)))
    return wide[:, np.arange(front.frames)[:, None] * front.hop + np.arange(length)]


def count_frames(samples: int, length: int, hop: int) -> int:
    """Whole frames in so many samples."""
    return (samples - length) // hop + 1 if samples >= length else 0
