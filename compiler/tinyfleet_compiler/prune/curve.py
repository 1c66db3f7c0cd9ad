"""The curve of a pruning: how much is gone against what is left of the quality, with and without repair."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.prune.judge import Judge, Quality
from tinyfleet_compiler.prune.repair import repair_in_part

AUTO_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
HALVINGS = 2
"""How often `auto` halves the gap between the largest share within the budget and the next one tried."""
DEFAULT_BUDGET_POINTS = 1.0
PARTS = (0.75, 0.5, 0.25, 0.0)
"""Strengths of repair tried where the cut alone does better by the metric than all of it: a model cut a little may, by
its nature or by chance, answer better than the original, which repair is faithful to."""

Amount = float | str
"""A share between 0 and 1, or "auto": as much as the accuracy budget allows."""
Cutter = Callable[[float], tuple[Graph, Graph]]
"""Share -> the graph cut only, and the graph cut and repaired."""


@dataclass(frozen=True)
class Step:
    """One point of the curve; `share` is what was asked for there, of MACs or of weights."""

    share: float
    macs: int
    without_repair: Quality
    with_repair: Quality
    repair_strength: float = 1.0
    """Share of the repair's change that was taken, by the judge's samples; less than all where the cut alone wins."""
    chosen: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Curve:
    """The steps by share, and the repaired graph of the chosen one (the original where none held the budget)."""

    steps: tuple[Step, ...]
    graph: Graph


def draw_curve(
    original: Graph, cut: Cutter, macs: Callable[[Graph], int], judge: Judge, amount: Amount, budget: float | None
) -> Curve:
    """Steps up to `amount`; the largest that loses at most `budget` points is taken (None: `amount` as asked)."""
    found: dict[float, tuple[Step, Graph]] = {}

    def take(share: float) -> bool:
        step, _, graph = take_step(share, cut, macs, judge)
        found[share] = step, graph
        return budget is None or step.with_repair.lost_points <= budget

    shares = AUTO_SHARES if amount == "auto" else tuple(float(amount) * part / 4 for part in (1, 2, 3, 4))
    good = [share for share in shares if take(share)]
    best = max(good, default=0.0)
    above = min((share for share in shares if share > best), default=best)
    for _ in range(HALVINGS if above > best else 0):
        middle = (best + above) / 2
        best, above = (middle, above) if take(middle) else (best, middle)
    steps = tuple(replace(step, chosen=share == best) for share, (step, _) in sorted(found.items()))
    return Curve(steps, found[best][1] if best in found else original)


def take_step(share: float, cut: Cutter, macs: Callable[[Graph], int], judge: Judge) -> tuple[Step, Graph, Graph]:
    """One point of a curve, with the graph cut only and the one that is repaired as far as the judge likes it."""
    plain, repaired = cut(share)
    before = judge.quality(plain)
    strength, graph, after = _best_strength(plain, repaired, before, judge)
    return Step(share, macs(graph), before, after, strength), plain, graph


def _best_strength(plain: Graph, repaired: Graph, before: Quality, judge: Judge) -> tuple[float, Graph, Quality]:
    """All of the repair, or the part of it that loses fewest points; of equal ones what is nearest to the original."""
    whole = 1.0, repaired, judge.quality(repaired)
    if whole[2].lost_points <= before.lost_points:
        return whole
    graphs = {part: repair_in_part(plain, repaired, part) for part in PARTS}
    tried = [whole, *((part, graph, judge.quality(graph)) for part, graph in graphs.items())]
    return min(tried, key=lambda found: (found[2].lost_points, found[2].error))
