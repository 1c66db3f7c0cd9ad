"""Accuracy over MACs of channel and weight pruning, cut only and repaired (part of `make bench-compiler`).

The samples whose labels choose anything (how much of the repair is taken) are every second of the test set; `unseen` is
measured on the others, which nothing has looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyfleet_compiler.dataset import Dataset, load_dataset
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.model_inputs import input_specs
from tinyfleet_compiler.prune.curve import AUTO_SHARES, take_step
from tinyfleet_compiler.prune.judge import make_judge
from tinyfleet_compiler.prune.prune_channels import channel_cutter
from tinyfleet_compiler.prune.prune_weights import weight_cutter
from tinyfleet_compiler.prune.score_channels import count_macs

COLUMNS = ("what", "share", "macs", "cut", "repaired", "taken", "error_cut", "error_repaired", "unseen_cut", "unseen")
SHARES = (0.05, *AUTO_SHARES)
"""Of the MACs by channels, of the weights by zeros."""


def pruning_curves(model: Path, calibration: Path, evaluation: Path) -> list[dict[str, Any]]:
    """A row per point of both curves of a labelled model."""
    graph = load_graph(model)
    samples, data = (load_dataset(path, input_specs(graph)) for path in (calibration, evaluation))
    seen, unseen = (_every_second(data, first) for first in (0, 1))
    judge, inputs = make_judge(graph, samples, seen, "top1")
    outside, _ = make_judge(graph, samples, unseen, "top1")
    cutters = {"channels": channel_cutter(graph, max(SHARES), inputs), "weights": weight_cutter(graph, inputs)}
    rows = []
    for what, cut in cutters.items():
        for share in SHARES:
            step, plain, repaired = take_step(share, cut, count_macs, judge)
            rows.append(
                {
                    "what": what,
                    "share": share,
                    "macs": step.macs,
                    "cut": step.without_repair.value,
                    "repaired": step.with_repair.value,
                    "taken": step.repair_strength,
                    "error_cut": step.without_repair.error,
                    "error_repaired": step.with_repair.error,
                    "unseen_cut": outside.quality(plain).value,
                    "unseen": outside.quality(repaired).value,
                }
            )
    return rows


def show_curve(row: dict[str, Any]) -> str:
    """One line of the table."""
    cells = (f"{row[name]:.4f}" if isinstance(row[name], float) else row[name] for name in COLUMNS)
    return " ".join(f"{cell!s:>15}" for cell in cells)


def _every_second(data: Dataset, first: int) -> Dataset:
    assert data.y is not None
    return Dataset({name: x[first::2] for name, x in data.inputs.items()}, data.y[first::2])
