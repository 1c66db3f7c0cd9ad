"""How the model's answers changed on the way to the device: accuracy, per class, and the outputs' error."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.dataset import Dataset, in_source_order, to_source_order
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.image import ImageTensor
from tinyfleet_compiler.metrics import Metric, agreement, choose_metric, evaluate, metric_name
from tinyfleet_compiler.numerics import dequantize
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.simulate import simulate

Reals = npt.NDArray[Any]
MOST_CLASSES = 32
"""With more the report holds no table per class: 1,000 classes make a million counts."""
MOST_STEPS = 6
"""Output errors of more quantisation steps are counted as this many."""


def accuracy_report(
    compiled: Compiled, data: Dataset | None, metric: Metric | None, reference: Graph
) -> dict[str, Any]:
    """`report["accuracy"]`: metric, float, quantized, agreement, samples; `classes`, `confusion` and `error` or None.

    Raises `DatasetError` for a metric the data cannot give.
    """
    found = _nothing(metric_name(metric))
    if data is None:
        return found
    chosen = choose_metric(metric, data)
    tensor = compiled.image.outputs[0]
    coded = _device_output(compiled, tensor, data)
    given = in_source_order(data, {t.name: t.source_layout for t in compiled.image.inputs})
    found |= {"metric": metric_name(chosen), "samples": len(data)}
    if isinstance(compiled.graph, QuantizedGraph):
        found["quantized"] = None if chosen == "agreement" else evaluate(chosen, coded, given)
        return found | _by_class(compiled, chosen, data, {"quantized": coded})
    real = to_source_order(next(iter(run_float(reference, data.inputs).values())), tensor.source_layout)
    same = agreement(chosen, real, coded)
    both = [1.0, same] if chosen == "agreement" else [evaluate(chosen, output, given) for output in (real, coded)]
    found |= {"float": both[0], "quantized": both[1], "agreement": same, "error": output_error(tensor, real, coded)}
    return found | _by_class(compiled, chosen, data, {"float": real, "quantized": coded})


def output_error(tensor: ImageTensor, real: Reals, coded: Reals) -> dict[str, Any] | None:
    """Share of the first output's values that are so many steps away from float; None for a float32 output.

    `steps[i]` of `shares[i]`; the first and last stand for all beyond.
    """
    if tensor.element is Element.FLOAT32:
        return None
    steps = (coded.astype(np.float64) - real) / float(tensor.scale)
    nearest = np.clip(np.rint(steps), -MOST_STEPS, MOST_STEPS).astype(np.int64) + MOST_STEPS
    counts = np.bincount(nearest.reshape(-1), minlength=2 * MOST_STEPS + 1)
    return {
        "step": float(tensor.scale),
        "steps": list(range(-MOST_STEPS, MOST_STEPS + 1)),
        "shares": [float(count) / nearest.size for count in counts],
        "rms_steps": float(np.sqrt(np.square(steps).mean())),
        "largest_steps": float(np.abs(steps).max()),
    }


def _nothing(metric: str | None) -> dict[str, Any]:
    empty = dict.fromkeys(("float", "quantized", "agreement"))
    return {"metric": metric, **empty, "samples": 0, "classes": None, "confusion": None, "error": None}


def _device_output(compiled: Compiled, tensor: ImageTensor, data: Dataset) -> Reals:
    codes = simulate(compiled.image, dict(data.inputs))[tensor.name]
    # Labels and inputs to reconstruct are compared in the order the model file has them.
    return to_source_order(dequantize(codes, tensor.scale, tensor.zero_point), tensor.source_layout)


def _by_class(compiled: Compiled, metric: Metric, data: Dataset, outputs: dict[str, Reals]) -> dict[str, Any]:
    """`classes`: label, samples and share right of each; `confusion`: rows true, columns answered, counts."""
    answers = {name: _answers(output) for name, output in outputs.items()}
    width = max(output.reshape(len(output), -1).shape[1] for output in outputs.values())
    count = max(width, 2)
    if metric != "top1" or data.y is None or count > MOST_CLASSES:
        return {}
    truth = data.y.reshape(-1).astype(np.int64)
    tables = {name: _confusion(truth, answer, count) for name, answer in answers.items()}
    return {
        "classes": [_class_row(compiled.image.labels, index, tables) for index in range(count)],
        "confusion": {name: table.tolist() for name, table in tables.items()},
    }


def _answers(output: Reals) -> npt.NDArray[np.int64]:
    flat = output.reshape(len(output), -1)
    answers = flat[:, 0] > 0.5 if flat.shape[1] == 1 else flat.argmax(axis=1)
    return np.asarray(answers, dtype=np.int64)


def _confusion(truth: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    return np.bincount(truth * count + answer, minlength=count * count).reshape(count, count)


def _class_row(labels: tuple[str, ...], index: int, tables: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
    samples = int(next(iter(tables.values()))[index].sum())
    right = {name: float(table[index, index]) / samples if samples else None for name, table in tables.items()}
    return {
        "label": labels[index] if index < len(labels) else str(index),
        "samples": samples,
        "float": right.get("float"),
        "quantized": right["quantized"],
    }
