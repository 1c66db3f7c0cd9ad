"""The demo's world: scikit-learn's handwritten digits in three disjoint splits, clean or as a crooked camera sees them.

All arrays are NCHW float32 in [0, 1], `(N, 1, 8, 8)`, with int64 labels `(N,)`.
Source: scikit-learn `load_digits` (UCI optical recognition of handwritten digits, 1,797 images).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

SPLIT_SEED = 20261122
TRAIN, EVALUATION = 1000, 397  # the remaining 400 images are what devices in the field see


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Splits `train`, `evaluation` and `field` as `(x, y)`; the same on every machine."""
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    train, evaluation, field = np.split(order, [TRAIN, TRAIN + EVALUATION])
    return {name: (x[part], y[part]) for name, part in [("train", train), ("evaluation", evaluation), ("field", field)]}


def tilt(x: np.ndarray, rng: np.random.Generator, degrees: float = 35.0, noise: float = 0.12) -> np.ndarray:
    """Rotate each image by up to `degrees` to either side and add Gaussian noise of `noise`: a crooked, dim camera."""
    angles = rng.uniform(-degrees, degrees, len(x))
    turned = np.stack(
        [ndimage.rotate(image[0], angle, reshape=False, order=1) for image, angle in zip(x, angles, strict=True)]
    )
    noisy = turned + rng.normal(0.0, noise, turned.shape)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)[:, None]
