"""`--search`: rounding optimisation, equalisation, and per layer int8 or int16 activations, int8 or int4 weights.

Judged on calibration samples held out from fitting; the evaluation file is never looked at.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.float_run import Floats, run_float
from tinyfleet_compiler.graph import Conv, ConvTranspose, Gemm, Graph
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.passes.equalize_layers import equalize_layers
from tinyfleet_compiler.passes.mix_types import can_be_wide, mix_types
from tinyfleet_compiler.quantize.budgets import Budgets, SearchLog, SearchStep
from tinyfleet_compiler.quantize.calibrate import Observed, calibrate
from tinyfleet_compiler.quantize.fake import Fitter, LayerView, walk_quantized
from tinyfleet_compiler.quantize.fit import fixed, nearest, with_bias_correction
from tinyfleet_compiler.quantize.fit_rounding import with_best_rounding
from tinyfleet_compiler.quantize.parameters import Quantization, choose_parameters
from tinyfleet_compiler.quantize.search import SEARCH_SAMPLES, Base, Choice, Trial, held_out, judge
from tinyfleet_compiler.quantize.weights import IntegerWeights
from tinyfleet_compiler.search_metric import Judged

Sizes = tuple[int, int]
"""Bytes of image and arena."""
Measure = Callable[[Graph, dict[str, Observed], Choice], Sizes]


@dataclass(frozen=True, eq=False)
class Plan:
    """A way to quantise a model, fitted and judged."""

    graph: Graph
    observed: dict[str, Observed]
    choice: Choice
    step: SearchStep
    wide: frozenset[str] = frozenset()
    halves: frozenset[str] = frozenset()


@dataclass(eq=False)
class TypeSearch:
    """The search in progress."""

    graph: Graph
    observed: dict[str, Observed]
    samples: dict[str, Floats]
    first: Choice
    judged: Judged
    budgets: Budgets
    measure: Measure
    base: Base | None = None
    """Compiled against: its scales stay where ranges allow; weights of `first` were rounded towards its."""
    steps: list[SearchStep] = field(default_factory=list)
    started: float = field(default_factory=time.process_time)

    def run(self) -> tuple[Plan, SearchLog]:
        """The plan to build, and what was tried."""
        best = self.plan("int8, as without a search", self.graph, self.observed, fitter=fixed(self.first.weights))
        assert best is not None, "the default compile has been built before"
        for change, graph in self.better_fits():
            best = self.better(best, self.plan(change, graph, self.observe(graph), self.fitter(best.halves)))
        best = self.shrink(best)
        best = self.widen(best)
        self.steps = [replace(s, kept=s is best.step) for s in self.steps]
        return best, self.log(best)

    def __post_init__(self) -> None:
        fits, judges = held_out(len(next(iter(self.samples.values()))))
        few = {name: x[:SEARCH_SAMPLES] for name, x in self.samples.items()}
        self.fitting = {name: x[fits] for name, x in few.items()}
        self.judging = {name: x[judges] for name, x in few.items()}
        self.float_outputs = tuple(run_float(self.graph, self.judging).values())

    def wanted(self, graph: Graph) -> dict[str, Floats]:
        """Float outputs of the judging samples, under a graph's names for them."""
        return dict(zip(graph.outputs, self.float_outputs, strict=True))

    def outputs(self, graph: Graph, parameters: dict[str, Quantization], fitter: Fitter) -> dict[str, Floats]:
        """Quantised outputs of the judging samples."""
        return walk_quantized(graph, self.judging, parameters, fitter, with_float=False)[0]

    def out_of_time(self) -> bool:
        """Whether the CPU budget is spent."""
        return time.process_time() - self.started > self.budgets.seconds

    def parameters(self, graph: Graph, observed: dict[str, Observed]) -> dict[str, Quantization]:
        """Scales of a graph, the base's where ranges allow."""
        lent = self.base.parameters if self.base is not None else None
        return choose_parameters(graph, observed, self.first.trial.estimator, lent)

    def better_fits(self) -> Iterator[tuple[str, Graph]]:
        """Changes that cost no bytes of the image; against a base none, as every weight they move has to be sent."""
        if self.base is not None:
            return
        yield "best rounding, bias correction", self.graph
        equal = equalize_layers(self.graph, self.samples)
        if any(a is not b for a, b in zip(equal.nodes, self.graph.nodes, strict=True)):
            yield "equalised layers, best rounding, bias correction", equal

    def observe(self, graph: Graph) -> dict[str, Observed]:
        """Ranges of a graph; those of the model's own are known."""
        return self.observed if graph is self.graph else calibrate(graph, self.samples)

    def fitter(self, halves: frozenset[str]) -> Fitter:
        """Best rounding and bias correction, int4 weights where `halves` says; against a base others stay as found."""

        def rounded(view: LayerView) -> IntegerWeights:
            return nearest(element=Element.INT4 if view.node.output in halves else Element.INT8)(view)

        best = with_bias_correction(with_best_rounding(rounded))
        known = self.first.weights
        if self.base is None:
            return best
        return lambda view: best(view) if view.node.output in halves else known[view.node.output]

    def plan(
        self,
        change: str,
        graph: Graph,
        observed: dict[str, Observed],
        fitter: Fitter,
        wide: frozenset[str] = frozenset(),
        halves: frozenset[str] = frozenset(),
    ) -> Plan | None:
        """Fit, judge and size one way to quantise; None where it cannot be built or time is out."""
        if self.steps and self.out_of_time():
            return None
        typed, seen = self.typed(graph, observed, wide)
        parameters = self.parameters(typed, seen)
        _, weights = walk_quantized(typed, self.fitting, parameters, fitter)
        outputs = self.outputs(typed, parameters, fixed(weights))
        trial = judge(typed, Trial(self.first.trial.estimator, True, 0.5, 0.0, 0.0), outputs, self.wanted(typed))
        choice = Choice(replace(trial, chosen=True), weights, self.first.tried)
        try:
            image_bytes, arena_bytes = self.measure(typed, seen, choice)
        except ModelError:
            return None
        value = self.judged.value(outputs[typed.outputs[self.judged.output]])
        step = SearchStep(
            change, image_bytes, arena_bytes, trial.error, trial.agreement, value, self.judged.lost(value), kept=False
        )
        self.steps.append(step)
        return Plan(typed, seen, choice, step, wide, halves)

    def typed(
        self, graph: Graph, observed: dict[str, Observed], wide: frozenset[str]
    ) -> tuple[Graph, dict[str, Observed]]:
        """The graph with its changes of type, and ranges for the tensors they made."""
        if not wide:
            return graph, observed
        mixed, copies = mix_types(graph, wide)
        return mixed, observed | {new: observed[old] for new, old in copies.items()}

    def better(self, best: Plan, other: Plan | None) -> Plan:
        """The nearer to float of two plans of one size."""
        return other if other is not None and other.step.error < best.step.error else best

    def fits(self, plan: Plan) -> bool:
        """Whether a plan keeps the byte budgets."""
        flash, arena = self.budgets.flash_bytes, self.budgets.arena_bytes
        return (flash is None or plan.step.image_bytes <= flash) and (arena is None or plan.step.arena_bytes <= arena)

    def shrink(self, best: Plan) -> Plan:
        """Int4 weights, the layers that cost least error a byte first, until the image fits."""
        flash = self.budgets.flash_bytes
        if flash is None or best.step.image_bytes <= flash:
            return best
        for output in self.cheapest_first(best):
            halves = best.halves | {output}
            change = f"int4 weights in {output}"
            found = self.plan(change, best.graph, best.observed, self.fitter(halves), halves=halves)
            best = found or best
            if best.step.image_bytes <= flash or self.out_of_time():
                break
        return best

    def cheapest_first(self, plan: Plan) -> list[str]:
        """Layers by the error their int4 weights add, a byte saved; as many as time allows, the others by size."""
        parameters = self.parameters(plan.graph, plan.observed)
        cost: dict[str, tuple[float, float]] = {}
        for node in plan.graph.nodes:
            if not isinstance(node, (Conv, Gemm)) or isinstance(node, ConvTranspose):
                continue
            cost[node.output] = (np.inf, -float(node.weights.size))
            if not self.out_of_time():
                outputs = self.outputs(plan.graph, parameters, only_int4(node.output, plan.choice.weights))
                error = judge(plan.graph, plan.choice.trial, outputs, self.wanted(plan.graph)).error
                cost[node.output] = (max(error - plan.step.error, 0.0) / node.weights.size, -float(node.weights.size))
        return sorted(cost, key=lambda output: cost[output])

    def widen(self, best: Plan) -> Plan:
        """Int16 activations, the noisiest layers first, until the accuracy budget is kept."""
        allowed = self.budgets.accuracy_points
        if allowed is None or best.step.lost_points <= allowed:
            return best
        graph, observed = best.graph, best.observed
        # What the device keeps goes back into an input, and inputs stay int8.
        kept = {graph.root(state.kept) for state in graph.states}
        for output in noisiest_first(graph, self.parameters(graph, observed), self.judging, best):
            around = surroundings(graph, output)
            if around <= best.wide or around & (best.halves | kept):
                continue
            wide = best.wide | around
            found = self.plan(f"int16 at {output}", graph, observed, self.fitter(best.halves), wide, best.halves)
            if found is not None and self.fits(found) and found.step.error < best.step.error:
                best = found
            if best.step.lost_points <= allowed or self.out_of_time():
                break
        return best

    def log(self, best: Plan) -> SearchLog:
        """What the report says of this search."""
        b, step = self.budgets, best.step
        met = {
            name: limit is None or reached <= limit
            for name, limit, reached in (
                ("flash", b.flash_bytes, step.image_bytes),
                ("arena", b.arena_bytes, step.arena_bytes),
                ("accuracy", b.accuracy_points, step.lost_points),
            )
        }
        return SearchLog(
            tuple(self.steps),
            self.judged.metric,
            self.judged.float_value,
            self.judged.data,
            b,
            met,
            tuple(sorted(best.wide)),
            tuple(sorted(best.halves)),
            round(time.process_time() - self.started, 2),
            self.out_of_time(),
        )


def only_int4(output: str, known: dict[str, IntegerWeights]) -> Fitter:
    """One layer's weights in int4, the others as they are known."""

    def fit(view: LayerView) -> IntegerWeights:
        here = view.node.output
        return nearest(element=Element.INT4)(view) if here == output else known[here]

    return fit


def surroundings(graph: Graph, output: str) -> frozenset[str]:
    """A tensor's producer and readers: it stays int16 only between nodes that work on int16."""
    readers = (n for n in graph.nodes if any(graph.root(name) == output for name in n.inputs))
    return frozenset({output} | {n.output for n in readers if can_be_wide(n)})


def noisiest_first(
    graph: Graph, parameters: dict[str, Quantization], samples: dict[str, Floats], plan: Plan
) -> list[str]:
    """Nodes with an int16 kernel, those that add most noise to their signal first."""
    share: dict[str, float] = {}

    def watch(output: str, exact: Floats, coded: Floats) -> None:
        signal = float(np.square(exact, dtype=np.float64).mean())
        share[output] = float(np.square(exact - coded, dtype=np.float64).mean()) / max(signal, 1e-12)

    walk_quantized(graph, samples, parameters, fixed(plan.choice.weights), watch=watch)
    added: dict[str, float] = {}
    for node in graph.nodes:
        if can_be_wide(node):
            before = max((share.get(graph.root(name), 0.0) for name in node.inputs), default=0.0)
            added[node.output] = share[node.output] - before
    return sorted(added, key=lambda output: -added[output])
