"""Structured pruning: channels leave the graph, and with them flash, MACs and arena."""

import numpy as np

from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.prune.couple_channels import couple_channels
from tinyfleet_compiler.prune.curve import AUTO_SHARES, Amount, Curve, Cutter, draw_curve
from tinyfleet_compiler.prune.cut_channels import cut_channels
from tinyfleet_compiler.prune.judge import Judge
from tinyfleet_compiler.prune.repair import repair
from tinyfleet_compiler.prune.score_channels import count_macs, order_channels


def prune_channels(
    graph: Graph, amount: Amount, judge: Judge, inputs: dict[str, Floats], budget: float | None
) -> Curve:
    """Take channels away until `amount` of the MACs is gone, or as much as the budget allows.

    `graph` is channels-last; `inputs` (N, ...) are samples to fit to; `budget` in points, None for no limit.
    """
    most = max(AUTO_SHARES) if amount == "auto" else float(amount)
    return draw_curve(graph, channel_cutter(graph, most, inputs), count_macs, judge, amount, budget)


def channel_cutter(graph: Graph, most: float, inputs: dict[str, Floats]) -> Cutter:
    """What takes channels away until a share of the MACs is gone, up to `most`; repaired on `inputs` (N, ...)."""
    coupling = couple_channels(graph)
    order = order_channels(graph, coupling, inputs, most)

    def cut(share: float) -> tuple[Graph, Graph]:
        kept = np.ones(coupling.count, bool)
        for group, left in order:
            kept[group] = False
            if left <= 1.0 - share:
                break
        plain = cut_channels(graph, coupling, kept)
        masks = {name: kept[row] for name, row in coupling.groups.items()}
        return plain, repair(graph, plain, masks, inputs)

    return cut
