"""`--prune-channels`, `--prune-weights`, `--accuracy-budget`: from text to options, and the curves as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinyfleet_compiler import PruneOptions
from tinyfleet_service.cli.model_options import amount
from tinyfleet_service.cli.output import percent
from tinyfleet_service.errors import InvalidInputError


def read_prune(channels: str | None, weights: str | None, budget: float | None) -> PruneOptions:
    """Options from what was typed. Raises InvalidInputError."""
    options = {"--prune-channels": channels, "--prune-weights": weights}
    amounts = {name: amount(name, text) for name, text in options.items()}
    if budget is not None and not any(options.values()):
        raise InvalidInputError("--accuracy-budget alone does nothing", next="add --prune-channels auto")
    try:
        return PruneOptions(amounts["--prune-channels"], amounts["--prune-weights"], budget)
    except ValueError as error:
        raise InvalidInputError(str(error), next="e.g. --prune-channels 0.3 --accuracy-budget 0.5") from error


def pruning_rows(pruning: dict[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """(titles, rows) of each curve of a report's `pruning`."""
    metric = pruning["metric"]
    for what, kind in (("channels", "of MACs gone"), ("weights", "of weights zero")):
        curve = pruning[what]
        if curve:
            titles = ["", kind, "MACs", f"{metric}, cut", f"{metric}, repaired", "error, cut", "error, repaired"]
            titles.append("repair taken")
            yield titles, [_row(step) for step in curve]


def _row(step: dict[str, Any]) -> list[str]:
    pair = step["without_repair"], step["with_repair"]
    return [
        "taken" if step["chosen"] else "",
        percent(step["share"]),
        f"{step['macs']:,}",
        *(f"{quality['value']:.4g}" for quality in pair),
        *(f"{quality['error']:.4f}" for quality in pair),
        percent(step["repair_strength"]),
    ]
