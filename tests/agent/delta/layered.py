"""Small images with multipliers, shifts, weights and biases, as a compiler would write them."""

from typing import Any

import numpy as np

LENGTH = 24


def layered_image(
    seed: int, *, range_step: float = 0.0, weight_step: float = 0.0, rows: tuple[int, ...] = (64, 48)
) -> tuple[bytes, list[dict[str, Any]]]:
    """An image of dense layers and its sections: one seed is one model, with scales moved by `range_step`.

    `weight_step` is the deviation of a fine-tune, in quantisation steps.
    """
    rng, tune = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    parts: dict[int, list[bytes]] = {1: [], 2: [], 3: [], 4: []}
    for layer, count in enumerate(rows):
        weights = rng.normal(0, 0.3, (96, LENGTH)).astype(np.float32)[:count]
        bias = rng.normal(0, 1.0, 96)[:count]
        weights = (weights + tune.normal(0, 0.01 * weight_step, weights.shape)).astype(np.float32)
        source, result = 0.05 * (1 + range_step * (layer + 1)), 0.07 * (1 - range_step)
        scales = np.abs(weights.astype(np.float64)).max(axis=1) / 127
        codes = np.rint(weights / scales[:, None]).astype(np.int64)
        biases = np.rint(bias / (source * scales)) + 128 * codes.sum(axis=1)
        fraction, shift = np.frexp(source * scales / result)
        parts[1].append(np.rint(fraction * 2**31).astype("<i4").tobytes())
        parts[2].append(shift.astype(np.int8).tobytes())
        parts[3].append(codes.astype(np.int8).tobytes())
        parts[4].append(biases.astype("<i4").tobytes())
    return _written(parts, rows)


def _written(parts: dict[int, list[bytes]], rows: tuple[int, ...]) -> tuple[bytes, list[dict[str, Any]]]:
    image, sections = b"front " * 4, []
    channels = sum(rows)
    for kind, (element, width) in {1: (2, 4), 2: (1, 1)}.items():
        sections.append(_section(kind, len(image), element, 1, channels, width))
        image += b"".join(parts[kind])
    for count, codes in zip(rows, parts[3], strict=True):
        sections.append(_section(3, len(image), 1, count, LENGTH, 1))
        image += codes
    sections.append(_section(4, len(image), 2, 1, channels, 4))
    return image + b"".join(parts[4]), sections


def _section(kind: int, offset: int, element: int, rows: int, length: int, width: int) -> dict[str, Any]:
    fields = {"kind": kind, "offset": offset, "size": rows * length * width, "element": element}
    return fields | {"rows": rows, "row_length": length, "packing": 0}
