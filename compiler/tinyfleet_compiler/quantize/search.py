"""Picks range estimator, bias correction and rounding by what stays nearest to float on calibration samples held out.

Three of four samples fit, the fourth judges; evaluation data is never looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats, run_float
from tinyfleet_compiler.graph import Graph, Softmax
from tinyfleet_compiler.quantize.base_grid import on_base_grid
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.fake import Fitter, float_layers, walk_quantized
from tinyfleet_compiler.quantize.fit import change_bits, fixed, nearest, towards_base, with_bias_correction
from tinyfleet_compiler.quantize.fit_changes import with_cheap_changes
from tinyfleet_compiler.quantize.parameters import Quantization, choose_parameters
from tinyfleet_compiler.quantize.weights import BaseWeights, IntegerWeights

SEARCH_SAMPLES = 200
MIN_SPLIT = 8
KEPT_ELEMENTS = 1 << 25
"""Float outputs of layers kept for all trials: 128 MB."""
CORRECTED = 2
"""Estimators that bias correction is tried with."""
BASE_BOUNDS_LSB = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
"""Rounding errors allowed for the base's sake, tried one after the other."""
BASE_REFUSALS = 4
"""Points do not fall evenly, a sample more or less decides: the walk ends at so many bounds in a row that lose some."""
SPARED_TRIALS, SPARED_LAYERS = 2, 6
"""So many of the trials that lose points are made again, each with so many of its layers spared in turn."""
OWN_SCALE_BYTES = 2.5
"""What a channel's multiplier and bias take when both change for scales of the new model's own."""
KEEP_SHARE = 0.9
"""Rounding towards a base goes at least this share as far from the base to the new float model."""
KEEP_POINTS_SHARE = 0.95
"""And at least this share of the points that plain rounding gains on labelled data, where there are any."""
WORTH_SHARE = 0.98
"""A delta that is hardly smaller is not worth any error."""
_FLOOR = 1.0 / 512.0
_OldOutputs = Callable[[dict[str, Floats]], tuple[npt.NDArray[Any], ...] | None]


@dataclass(frozen=True)
class Trial:
    """One choice and how far from float it stays."""

    estimator: str
    bias_correction: bool
    rounding_lsb: float
    """Largest rounding error allowed for the base's sake; 0.5: each weight to its nearest integer."""
    error: float
    """Softmax outputs: Kullback-Leibler divergence; others: squared error over the signal's square."""
    agreement: float
    """Share of judging samples with the same largest output."""
    delta_bytes: int | None = None
    """With a base: order-0 entropy of the weight changes."""
    kept: float | None = None
    """With a base: share of the way from the base's outputs to the new float model's."""
    own_scales: bool = False
    """With a base: scales chosen as without one."""
    gain_points: float | None = None
    """With a base and labelled evaluation data: points of the metric better than the base."""
    weighed: bool = False
    """With a base: each change weighed, error against bits."""
    spared: str = ""
    """With a base: output of the layer that is rounded as without it."""
    chosen: bool = False


@dataclass(frozen=True, eq=False)
class Base:
    """What a search may know of the image compiled against."""

    parameters: dict[str, Quantization]
    weights: dict[str, BaseWeights]
    outputs: _OldOutputs
    """Its dequantised outputs for inputs (N, ...) in device order, None where its inputs or outputs are others."""


@dataclass(frozen=True, eq=False)
class Gate:
    """Labelled data that a choice against a base has to answer for."""

    inputs: dict[str, Floats]
    """(N, ...) in device order."""
    gain_points: Callable[[dict[str, Floats]], float]
    """Outputs by tensor name -> points of the metric better than the base's."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The trial taken, its weights by node output, and everything tried."""

    trial: Trial
    weights: dict[str, IntegerWeights]
    tried: tuple[Trial, ...]


@dataclass(frozen=True, eq=False)
class _Bench:
    graph: Graph
    observed: dict[str, Observed]
    fit: dict[str, Floats]
    judge: dict[str, Floats]
    wanted: dict[str, Floats]
    base: Base | None
    old_error: float | None
    layers: dict[str, Floats] | None
    """Float outputs of weighted layers for `fit`, where they are few enough to keep."""
    _chosen: dict[str, dict[str, Quantization]] = field(default_factory=dict, init=False)

    def parameters(self, estimator: str) -> dict[str, Quantization]:
        if estimator not in self._chosen:
            lent = self.base.parameters if self.base else None
            self._chosen[estimator] = choose_parameters(self.graph, self.observed, estimator, lent)
        return self._chosen[estimator]


def search(
    graph: Graph,
    observed: dict[str, Observed],
    samples: dict[str, Floats],
    estimators: tuple[str, ...],
    base: Base | None = None,
    gate: Gate | None = None,
    *,
    rounding: bool = True,
) -> Choice:
    """The choice nearest to float; with a base the smallest delta among those that keep the improvement.

    The improvement is kept where outputs come nearly as far from the base's to the new float model's as without
    rounding towards the base, and where the gate's metric gains nearly as many points over the base.
    """
    bench = _bench(graph, observed, samples, base)
    found = [_plain(bench, estimator, 0.5) for estimator in estimators]
    # Bias correction is the dear part: only where plain rounding did best.
    nearest_to_float = sorted(found, key=lambda pair: pair[0].error)[:CORRECTED]
    found += [_corrected(bench, trial.estimator, 0.5) for trial, _ in nearest_to_float]
    best = min(found, key=lambda pair: pair[0].error)
    if base is not None and rounding:
        plain = _gauged(bench, best, gate)
        rows = [_own_scales(bench, plain[0], gate), *_towards_base(bench, plain[0], gate)]
        rows += _sparing(bench, rows, plain, gate)
        found = [pair for pair in found if pair is not best] + [plain, *rows]
        best = min(
            (p for p in (plain, *rows) if _keeps(p[0], plain[0])), key=lambda p: (p[0].delta_bytes or 0, p[0].error)
        )
    tried = tuple(replace(trial, chosen=trial is best[0]) for trial, _ in found)
    return Choice(replace(best[0], chosen=True), best[1], tried)


def _bench(graph: Graph, observed: dict[str, Observed], samples: dict[str, Floats], base: Base | None) -> _Bench:
    fitting, judging = held_out(len(next(iter(samples.values()))))
    few = {name: x[:SEARCH_SAMPLES] for name, x in samples.items()}
    judged = {name: x[judging] for name, x in few.items()}
    wanted = run_float(graph, judged)
    old = base.outputs(judged) if base is not None else None
    old_error = None if old is None else _old_error(graph, old, wanted)
    fit = {n: x[fitting] for n, x in few.items()}
    return _Bench(graph, observed, fit, judged, wanted, base, old_error, float_layers(graph, fit, KEPT_ELEMENTS))


def held_out(count: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of the first SEARCH_SAMPLES of `count` samples fit and which judge: every fourth, or all of few."""
    used = min(count, SEARCH_SAMPLES)
    judging = np.arange(used) % 4 == 3 if used >= MIN_SPLIT else np.ones(used, bool)
    return (~judging if used >= MIN_SPLIT else judging), judging


def _old_error(graph: Graph, old: tuple[npt.NDArray[Any], ...], wanted: dict[str, Floats]) -> float | None:
    if [o.shape for o in old] != [w.shape for w in wanted.values()]:
        return None
    return _distance(graph, dict(zip(wanted, old, strict=True)), wanted)


_Found = tuple[Trial, dict[str, IntegerWeights]]


def _rounding(bench: _Bench, bound_lsb: float, *, weighed: bool = False) -> Fitter:
    lent = bench.base.weights if bench.base is not None else {}
    if bound_lsb <= 0.5:
        return nearest(lent.get)
    bounded = towards_base(lent.get, bound_lsb)
    return with_cheap_changes(bounded, lent.get, bound_lsb) if weighed else bounded


def _settled(bench: _Bench, estimator: str, fitter: Fitter) -> Fitter:
    """Against a base, biases go to a grid around the base's."""
    return fitter if bench.base is None else on_base_grid(fitter, bench.base.weights.get, bench.parameters(estimator))


def _plain(bench: _Bench, estimator: str, bound_lsb: float) -> _Found:
    """Nothing is fitted: the judging samples alone tell."""
    parameters, fitter = bench.parameters(estimator), _settled(bench, estimator, _rounding(bench, bound_lsb))
    outputs, weights = walk_quantized(bench.graph, bench.judge, parameters, fitter, with_float=False)
    return _judge(bench, Trial(estimator, False, bound_lsb, 0.0, 0.0), outputs, weights), weights


def _corrected(bench: _Bench, estimator: str, bound_lsb: float, *, weighed: bool = False) -> _Found:
    parameters = bench.parameters(estimator)
    fitter = _settled(bench, estimator, with_bias_correction(_rounding(bench, bound_lsb, weighed=weighed)))
    _, weights = walk_quantized(bench.graph, bench.fit, parameters, fitter, layers=bench.layers)
    outputs, _ = walk_quantized(bench.graph, bench.judge, parameters, fixed(weights), with_float=False)
    trial = Trial(estimator, True, bound_lsb, 0.0, 0.0, weighed=weighed)
    return _judge(bench, trial, outputs, weights), weights


def _own_scales(bench: _Bench, plain: Trial, gate: Gate | None) -> _Found:
    """As if there were no base."""
    assert bench.base is not None
    alone = replace(bench, base=replace(bench.base, parameters={}, weights={}))
    trial, weights = _corrected(alone, plain.estimator, 0.5)
    channels = sum(len(chosen.scales) for chosen in weights.values())
    size = delta_bytes(weights, bench.base.weights) + round(OWN_SCALE_BYTES * channels)
    return _gauged(bench, (replace(trial, own_scales=True, delta_bytes=size), weights), gate)


def _towards_base(bench: _Bench, plain: Trial, gate: Gate | None) -> list[_Found]:
    """The base's scales, rounded towards its weights: up to the largest error that keeps the improvement."""
    found: list[_Found] = []
    refused, fewest = 0, np.inf
    for bound in BASE_BOUNDS_LSB:
        tried = _at_bound(bench, plain, bound, gate)
        found += tried
        trial, before = tried[0][0], fewest
        fewest = float(trial.delta_bytes or 0)
        refused = 0 if _improves(tried[-1][0], plain) else refused + 1
        # No points bring back outputs that are far from float, nor bytes where nothing is left to round.
        if fewest >= before or not _comes_as_far(trial, plain) or refused == BASE_REFUSALS:
            break
    return found


def _at_bound(bench: _Bench, plain: Trial, bound: float, gate: Gate | None) -> list[_Found]:
    """Changes that are weighed, and where those lose points such as are only bounded: another draw."""
    found: list[_Found] = []
    for weighed in (True, False):
        found.append(_gauged(bench, _corrected(bench, plain.estimator, bound, weighed=weighed), gate))
        if _improves(found[-1][0], plain):
            break
    return found


def _sparing(bench: _Bench, tried: list[_Found], plain: _Found, gate: Gate | None) -> list[_Found]:
    """The smallest that come as far but lose points, with one layer as plain rounding has it, the layers that save
    least first: a sample or two have lost them, and mostly not by every layer.
    """
    assert bench.base is not None
    best = min(trial.delta_bytes or 0 for trial, _ in [plain, *(p for p in tried if _improves(p[0], plain[0]))])
    losing = [p for p in tried if _comes_as_far(p[0], plain[0]) and not (p[0].own_scales or _improves(p[0], plain[0]))]
    found: list[_Found] = []
    for trial, weights in sorted(losing, key=lambda pair: pair[0].delta_bytes or 0)[:SPARED_TRIALS]:
        spared = [(name, {**weights, name: plain[1][name]}) for name in weights]
        sized = [(delta_bytes(one, bench.base.weights), name, one) for name, one in spared]
        for size, name, one in sorted(sized, key=lambda row: row[0])[:SPARED_LAYERS]:
            if size > WORTH_SHARE * best:
                break
            found.append(_gauged(bench, _again(bench, replace(trial, spared=name), one), gate))
            if _improves(found[-1][0], plain[0]):
                return found
    return found


def _again(bench: _Bench, trial: Trial, weights: dict[str, IntegerWeights]) -> _Found:
    """A trial's judgement with other weights."""
    parameters = bench.parameters(trial.estimator)
    outputs, _ = walk_quantized(bench.graph, bench.judge, parameters, fixed(weights), with_float=False)
    return _judge(bench, trial, outputs, weights), weights


def _gauged(bench: _Bench, pair: _Found, gate: Gate | None) -> _Found:
    """With the points that the gate's data gives it."""
    trial, weights = pair
    if gate is None:
        return pair
    lone = bench if not trial.own_scales else replace(bench, base=None)
    parameters = lone.parameters(trial.estimator)
    outputs, _ = walk_quantized(bench.graph, gate.inputs, parameters, fixed(weights), with_float=False)
    return replace(trial, gain_points=gate.gain_points(outputs)), weights


def judge(graph: Graph, trial: Trial, outputs: dict[str, Floats], wanted: dict[str, Floats]) -> Trial:
    """A trial with its distance from float and its agreement with it."""
    flat = [(outputs[n].reshape(len(w), -1), w.reshape(len(w), -1)) for n, w in wanted.items()]
    same = float(np.mean([(got.argmax(axis=1) == real.argmax(axis=1)).mean() for got, real in flat]))
    return replace(trial, error=_distance(graph, outputs, wanted), agreement=same)


def _judge(bench: _Bench, trial: Trial, outputs: dict[str, Floats], weights: dict[str, IntegerWeights]) -> Trial:
    judged = judge(bench.graph, trial, outputs, bench.wanted)
    if bench.base is None:
        return judged
    kept = None if not bench.old_error else 1.0 - judged.error / bench.old_error
    return replace(judged, kept=kept, delta_bytes=delta_bytes(weights, bench.base.weights))


def _keeps(trial: Trial, plain: Trial) -> bool:
    """Whether a trial is as good as plain rounding, or saves bytes and gives up little of the improvement."""
    if trial.error <= plain.error:
        return True
    if trial.delta_bytes is None or plain.delta_bytes is None:
        return False
    return trial.delta_bytes <= WORTH_SHARE * plain.delta_bytes and _improves(trial, plain)


def _improves(trial: Trial, plain: Trial) -> bool:
    """Whether a trial gives up little of the improvement."""
    return _comes_as_far(trial, plain) and _gains(trial.gain_points, plain.gain_points)


def _comes_as_far(trial: Trial, plain: Trial) -> bool:
    """Whether a trial's outputs go nearly as far from the base's to the new float model's as plain rounding's."""
    return trial.kept is not None and plain.kept is not None and trial.kept >= KEEP_SHARE * plain.kept > 0.0


def _gains(points: float | None, plain: float | None) -> bool:
    """Whether the metric's gain over the base is nearly that of plain rounding; what gains nothing may lose nothing."""
    if points is None or plain is None:
        return True
    return points >= (KEEP_POINTS_SHARE * plain if plain > 0.0 else plain)


def _distance(graph: Graph, outputs: dict[str, Floats], wanted: dict[str, Floats]) -> float:
    total = 0.0
    for name, reference in wanted.items():
        real, got = reference.astype(np.float64), outputs[name].astype(np.float64)
        if isinstance(graph.producer(graph.root(name)), Softmax):
            total += _divergence(real, got)
        else:
            total += float(np.square(got - real).mean() / max(float(np.square(real).mean()), 1e-12))
    return total


def _divergence(real: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> float:
    """Mean over samples; probabilities below half an output step say nothing."""
    p, q = (np.maximum(x, _FLOOR) / np.maximum(x, _FLOOR).sum(axis=-1, keepdims=True) for x in (real, got))
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def delta_bytes(weights: dict[str, IntegerWeights], base: dict[str, BaseWeights]) -> int:
    """Order-0 entropy of new minus old weights (of the new ones where the base has none of that shape), bytes."""
    bits = 0.0
    for name, chosen in weights.items():
        bits += change_bits(chosen.rows - (base[name].block.rows if name in base else 0))
    return int(np.ceil(bits / 8.0))
