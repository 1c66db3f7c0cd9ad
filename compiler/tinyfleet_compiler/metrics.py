"""Evaluation metrics over the first output (N, ...) in the model file's own order; fractions for accuracies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.dataset import Dataset
from tinyfleet_compiler.errors import DatasetError

Array = npt.NDArray[Any]
CLOSE = 0.1
"""Regression outputs agree where they differ by at most this share of their size (root mean square)."""


LOSSES = ("mse", "reconstruction")
"""Metrics that are better when they are smaller."""


@dataclass(frozen=True)
class CustomMetric:
    """A user's own function: `function(outputs, inputs, y)` gives one number, the larger the better.

    outputs (N, ...) float32, the first output; inputs: input name -> (N, ...) float32; y (N, ...) or None.
    """

    name: str
    function: Callable[[Array, dict[str, Array], Array | None], float]


Metric = str | CustomMetric


def metric_name(metric: Metric | None) -> str | None:
    """What a report calls a metric."""
    return metric.name if isinstance(metric, CustomMetric) else metric


def choose_metric(metric: Metric | None, data: Dataset) -> Metric:
    """The metric asked for, else top1 for integer y, mse for float y, agreement without y. Raises `DatasetError`."""
    if metric is None:
        return "agreement" if data.y is None else "top1" if data.y.dtype.kind in "iu" else "mse"
    if isinstance(metric, CustomMetric):
        return metric
    if ".py:" in metric:
        raise DatasetError(f"'{metric}' names a Python file; that works on the command line only, use one of {_NAMES}")
    if metric not in (*METRICS, "agreement"):
        raise DatasetError(f"unknown metric '{metric}'; use {_NAMES}, or on the command line FILE.py:function")
    if data.y is None and metric in ("top1", "mse", "auc"):
        raise DatasetError(f"metric '{metric}' needs an array 'y' in the evaluation data; add it or use agreement")
    return metric


def evaluate(metric: Metric, output: Array, data: Dataset) -> float:
    """Value of a metric for a real-valued first output (N, ...). Raises `DatasetError`."""
    if isinstance(metric, CustomMetric):
        return _custom(metric, output, data)
    return float(METRICS[metric](output.reshape(len(output), -1), data))


def better_by(metric: Metric, value: float, than: float) -> float:
    """How much better `value` is, in points: hundredths of an accuracy, per cent of a loss; below 0 for worse."""
    if metric in LOSSES:
        return 100.0 * (than - value) / max(abs(than), 1e-12)
    return 100.0 * (value - than)


def _custom(metric: CustomMetric, output: Array, data: Dataset) -> float:
    try:
        value = float(metric.function(output.copy(), dict(data.inputs), data.y))
    except Exception as error:
        raise DatasetError(
            f"metric {metric.name} failed: {type(error).__name__}: {error}; it is called as "
            "function(outputs, inputs, y) and must return one number"
        ) from error
    if not np.isfinite(value):
        raise DatasetError(f"metric {metric.name} gave {value}; it must return a finite number")
    return value


def agreement(metric: Metric, float_output: Array, quantized_output: Array) -> float:
    """Share of samples where both give the same answer: the same class, or for regression nearly the same vector."""
    a = float_output.reshape(len(float_output), -1).astype(np.float64)
    b = quantized_output.reshape(len(quantized_output), -1).astype(np.float64)
    if metric not in _NUMERIC and a.shape[1] > 1:
        return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    size = np.sqrt(np.square(a).mean(axis=1))
    return float((np.sqrt(np.square(a - b).mean(axis=1)) <= CLOSE * np.maximum(size, 1e-9)).mean())


def _labels(data: Dataset) -> Array:
    assert data.y is not None
    return data.y.reshape(len(data.y), -1)


def _classes(data: Dataset, count: int, metric: str) -> npt.NDArray[np.int64]:
    labels = _labels(data)
    whole = labels.astype(np.int64)
    if labels.shape[1] != 1 or (labels != whole).any():
        raise DatasetError(f"{metric} needs one class index per sample, y holds rows {labels.shape} of {labels.dtype}")
    if whole.min() < 0 or whole.max() >= count:
        raise DatasetError(
            f"{metric}: y holds classes {whole.min()} to {whole.max()}, the model has {count}: 0 to {count - 1}"
        )
    return whole[:, 0]


def _top1(output: Array, data: Dataset) -> float:
    if output.shape[1] == 1:
        return float(((output[:, 0] > 0.5) == _classes(data, 2, "top1").astype(bool)).mean())
    return float((output.argmax(axis=1) == _classes(data, output.shape[1], "top1")).mean())


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
    positive = _classes(data, 1 << 31, "auc") > 0
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
_NAMES = ", ".join((*METRICS, "agreement"))
_NUMERIC = (*LOSSES, "auc")
"""Metrics of models whose output is no list of classes."""
