"""Evaluation metrics over outputs (N, ...) in device order; fractions for accuracies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.dataset import Dataset
from tinyfleet_compiler.errors import DatasetError

Array = npt.NDArray[Any]
CLOSE = 0.1
"""Regression outputs agree where they differ by at most this share of their size (root mean square)."""


def choose_metric(metric: str | None, data: Dataset) -> str:
    """The metric asked for, else top1 for integer y, mse for float y, agreement without y. Raises `DatasetError`."""
    if metric is None:
        return "agreement" if data.y is None else "top1" if data.y.dtype.kind in "iu" else "mse"
    if metric not in (*METRICS, "agreement"):
        raise DatasetError(f"unknown metric '{metric}'; use {', '.join(METRICS)} or agreement")
    if data.y is None and metric in ("top1", "mse", "auc"):
        raise DatasetError(f"metric '{metric}' needs an array 'y' in the evaluation data")
    return metric


def evaluate(metric: str, output: Array, data: Dataset) -> float:
    """Value of a metric for a real-valued first output (N, ...)."""
    return float(METRICS[metric](output.reshape(len(output), -1), data))


def agreement(metric: str, float_output: Array, quantized_output: Array) -> float:
    """Share of samples where both give the same answer: the same class, or for regression nearly the same vector."""
    a = float_output.reshape(len(float_output), -1).astype(np.float64)
    b = quantized_output.reshape(len(quantized_output), -1).astype(np.float64)
    if metric in ("top1", "agreement") and a.shape[1] > 1:
        return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    size = np.sqrt(np.square(a).mean(axis=1))
    return float((np.sqrt(np.square(a - b).mean(axis=1)) <= CLOSE * np.maximum(size, 1e-9)).mean())


def _labels(data: Dataset) -> Array:
    assert data.y is not None
    return data.y.reshape(len(data.y), -1)


def _top1(output: Array, data: Dataset) -> float:
    labels = _labels(data)
    if labels.shape[1] != 1:
        raise DatasetError(f"top1 needs one class index per sample, y has shape {labels.shape}")
    if output.shape[1] == 1:
        return float(((output[:, 0] > 0.5) == labels[:, 0].astype(bool)).mean())
    return float((output.argmax(axis=1) == labels[:, 0].astype(np.int64)).mean())


def _mse(output: Array, data: Dataset) -> float:
    labels = _labels(data)
    if labels.shape != output.shape:
        raise DatasetError(f"mse needs y shaped like the output {output.shape}, it is {labels.shape}")
    return float(np.square(output.astype(np.float64) - labels).mean())


def _errors(output: Array, data: Dataset) -> Array:
    x = next(iter(data.inputs.values())).reshape(len(output), -1)
    if x.shape != output.shape:
        raise DatasetError(f"reconstruction needs an output like the input {x.shape}, it is {output.shape}")
    return np.asarray(np.square(output.astype(np.float64) - x).mean(axis=1))


def _reconstruction(output: Array, data: Dataset) -> float:
    return float(_errors(output, data).mean())


def _auc(output: Array, data: Dataset) -> float:
    """Area under the ROC curve (Mann-Whitney); the score is the last output, or the reconstruction error."""
    positive = _labels(data)[:, 0].astype(np.int64) > 0
    x = next(iter(data.inputs.values())).reshape(len(output), -1)
    score = _errors(output, data) if x.shape == output.shape else output[:, -1].astype(np.float64)
    if positive.all() or not positive.any():
        raise DatasetError("auc needs samples of both classes in y")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    hits = int(positive.sum())
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(score) - hits)))


METRICS: dict[str, Callable[[Array, Dataset], float]] = {
    "top1": _top1,
    "mse": _mse,
    "reconstruction": _reconstruction,
    "auc": _auc,
}
