"""Metrics: defaults by the type of y, values, the user's own function, and data that cannot give them."""

from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler.dataset import Dataset
from tinyfleet_compiler.errors import DatasetError
from tinyfleet_compiler.metrics import CustomMetric, agreement, better_by, choose_metric, evaluate

RNG = np.random.default_rng(4)
SCORES = RNG.random((6, 3)).astype(np.float32)


def data(y: Any = None, width: int = 3) -> Dataset:
    x = np.arange(6 * width, dtype=np.float32).reshape(6, width)
    return Dataset({"x": x}, None if y is None else np.asarray(y))


@pytest.mark.parametrize(
    ("y", "expected"),
    [(None, "agreement"), (np.zeros(6, np.int8), "top1"), (np.zeros(6, np.uint32), "top1"), (np.zeros((6, 3)), "mse")],
)
def test_the_default_follows_the_type_of_y(y: Any, expected: str) -> None:
    assert choose_metric(None, data(y)) == expected


def test_values_on_data_worked_out_by_hand() -> None:
    classes = SCORES.argmax(axis=1)
    assert evaluate("top1", SCORES, data(classes)) == 1.0
    assert evaluate("top1", SCORES, data((classes + 1) % 3)) == 0.0
    assert evaluate("top1", np.array([[0.2], [0.7], [0.9], [0.1], [0.6], [0.4]]), data([0, 1, 1, 0, 0, 1])) == 4 / 6
    assert evaluate("mse", SCORES, data(SCORES + 0.5)) == pytest.approx(0.25, rel=1e-5)
    assert evaluate("reconstruction", data().inputs["x"] + 2.0, data()) == pytest.approx(4.0)
    ranked = np.array([[0.1], [0.4], [0.35], [0.8], [0.8], [0.2]])
    # Of 9 pairs (positive, negative) 4 are in order and one is a tie.
    assert evaluate("auc", ranked, data([0, 0, 1, 1, 0, 1])) == pytest.approx(4.5 / 9)


def test_agreement_is_of_classes_or_of_nearly_equal_vectors() -> None:
    turned = SCORES[:, ::-1]
    assert agreement("top1", SCORES, SCORES * 3) == 1.0
    assert agreement("top1", SCORES, turned) == float((SCORES.argmax(1) == turned.argmax(1)).mean())
    assert agreement("mse", SCORES, SCORES * 1.05) == 1.0
    assert agreement("mse", SCORES, SCORES * 1.2) == 0.0


def test_points_count_accuracies_up_and_losses_down() -> None:
    assert better_by("top1", 0.97, 0.95) == pytest.approx(2.0)
    assert better_by("mse", 0.9, 1.0) == pytest.approx(10.0)
    assert better_by("reconstruction", 1.1, 1.0) == pytest.approx(-10.0)


@pytest.mark.parametrize(
    ("metric", "y", "message"),
    [
        ("f2", None, "unknown metric 'f2'; use top1, mse"),
        ("m.py:score", None, "on the command line only"),
        ("top1", None, "needs an array 'y'"),
        ("auc", None, "needs an array 'y'"),
        ("top1", np.zeros((6, 2), np.int64), "one class index"),
        ("top1", np.full(6, 0.5), "one class index"),
        ("top1", np.array([0, 1, 2, 3, 0, 0]), "classes 0 to 3, the model has 3"),
        ("top1", np.array([0, 1, -1, 2, 0, 0]), "classes -1 to 2"),
        ("mse", np.zeros(6), "y shaped like the output"),
        ("auc", np.zeros(6, np.int64), "both classes"),
    ],
)
def test_what_the_data_cannot_give_is_said(metric: str, y: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        evaluate(choose_metric(metric, data(y)), SCORES, data(y))


def test_reconstruction_wants_an_output_like_the_input() -> None:
    with pytest.raises(DatasetError, match="output like the input"):
        evaluate("reconstruction", SCORES, data(width=4))


def test_a_function_of_ones_own_sees_outputs_inputs_and_labels() -> None:
    def score(outputs: np.ndarray, inputs: dict[str, np.ndarray], y: np.ndarray) -> float:
        outputs[:] = 0  # its own copy
        return float(inputs["x"].sum() + y.sum())

    assert evaluate(CustomMetric("f", score), SCORES, data([1, 0, 0, 0, 0, 1])) == 155.0
    assert SCORES.any()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *_: float("nan"), "finite"),
        (lambda *_: "good", "metric f failed: ValueError"),
        (lambda *_: 1 / 0, "metric f failed: ZeroDivisionError"),
        (lambda outputs: 1.0, "function\\(outputs, inputs, y\\)"),
    ],
)
def test_a_function_that_fails_is_named(function: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        evaluate(CustomMetric("f", function), SCORES, data())
