"""`compile_model`: a model file and its data in, image, report and C source out."""

import json
import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.base_gate import base_gate
from tinyfleet_compiler.check import identity_of, trial_compile
from tinyfleet_compiler.compile_graph import FLOAT32, Compiled, Identity, compile_graph, lend_base
from tinyfleet_compiler.dataset import Dataset, InputSpec, holds_shape, load_dataset
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.errors import DatasetError, ModelError
from tinyfleet_compiler.float_run import with_states
from tinyfleet_compiler.graph import Features, Graph
from tinyfleet_compiler.image import Image, Section, read_image
from tinyfleet_compiler.load_model import check_islands, load_graph, needs_calibration, require_float
from tinyfleet_compiler.metrics import Metric, choose_metric
from tinyfleet_compiler.model_inputs import input_specs, source_shape
from tinyfleet_compiler.options import CompileOptions
from tinyfleet_compiler.passes.attach_front_end import FEATURES, INPUT, behind_front_end
from tinyfleet_compiler.prune.prune_graph import Pruning, prune_graph
from tinyfleet_compiler.quantize.bound_masks import bound_masks
from tinyfleet_compiler.quantize.calibrate import Observed, calibrate
from tinyfleet_compiler.quantize.ranges import ESTIMATORS
from tinyfleet_compiler.quantize.search import Choice, Gate, search
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.report import build_report
from tinyfleet_compiler.report_base import base_report
from tinyfleet_compiler.report_html import render_report
from tinyfleet_compiler.report_pruning import pruning_report
from tinyfleet_compiler.search_metric import judge_by
from tinyfleet_compiler.search_types import TypeSearch

_log = logging.getLogger(__name__)
CALIBRATION_SAMPLES = 500
AS_IMPORTED = "as-imported"
"""What the report calls the estimator of a model that came quantised."""


@dataclass(frozen=True, eq=False)
class CompileResult:
    """Image bytes, report (DESIGN section 2 keys), its HTML page and the sections."""

    image: bytes
    report: dict[str, Any]
    report_html: str
    sections: tuple[Section, ...]

    def write(self, folder: Path) -> None:
        """Write model.tfm, report.json and report.html into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.tfm").write_bytes(self.image)
        (folder / "report.json").write_text(json.dumps(self.report, indent=2) + "\n")
        (folder / "report.html").write_text(self.report_html)


def compile_model(
    model: Path,
    device_class: DeviceClass,
    *,
    name: str,
    version: str,
    calibration: Path | None,
    evaluation: Path | None = None,
    metric: Metric | None = None,
    options: CompileOptions | None = None,
) -> CompileResult:
    """Compile a model file for one device class. A misfit is reported in `report["fits"]`, not raised.

    A quantised model is taken as it is: it needs no calibration and the report has no float side.

    Raises `ModelError` with every problem at once, `DatasetError`, `ImageError` (base).
    """
    chosen = options or CompileOptions()
    if chosen.type == FLOAT32:
        require_float(Path(model), device_class)
    graph = load_graph(Path(model), chosen.front_end, chosen.dims, chosen.states, chosen.type)
    check_islands(graph, Path(model), device_class)
    specs = input_specs(graph)
    _log.info("imported %s: %d operators", Path(model).name, len(graph.nodes))
    if calibration is None and chosen.type != FLOAT32 and needs_calibration(graph):
        help = "give an NPZ with some typical inputs (--calibration), or --type float32 for a class with an FPU"
        raise DatasetError(f"a float model needs calibration data; {help}")
    samples = load_samples(Path(calibration), graph, specs) if calibration is not None else None
    data = load_dataset(Path(evaluation), specs) if evaluation is not None else None
    if data is not None:
        choose_metric(metric, data)  # a wrong one is named before any work
    identity = identity_of(device_class, name, version, chosen.labels or _labels(graph))
    base = read_image(chosen.base) if chosen.base is not None else None
    pruning = _prune(graph, chosen, samples, data, metric)
    graph = graph if pruning is None else pruning.graph
    if pruning is not None:
        _log.info("pruned: %d operators left", len(graph.nodes))
    _log.info("quantising" if chosen.type != FLOAT32 and needs_calibration(graph) else "taking the model's own types")
    golden, optimize = chosen.golden_vectors, chosen.optimize
    if chosen.type == FLOAT32:
        compiled = compile_graph(graph, {}, FLOAT32, identity, golden_vectors=golden)
    elif samples is None or isinstance(graph, QuantizedGraph):
        if chosen.search is not None:
            raise DatasetError(
                "a search needs a float model and calibration data; a model that came quantised is taken as it is"
            )
        compiled = compile_graph(graph, {}, AS_IMPORTED, identity, golden_vectors=golden, optimize=optimize)
    else:
        gate = base_gate(graph, base, data, metric) if FEATURES not in samples.inputs else None
        against = _Against(base, gate)
        if chosen.search is not None:
            compiled = _search_types(graph, samples, identity, chosen, metric, against)
        else:
            compiled = _search(graph, _first(samples, CALIBRATION_SAMPLES), identity, chosen, against)
    _log.info("laid out: %d bytes of image, %d of arena; now measured", len(compiled.data), compiled.plan.arena_bytes)
    report = build_report(
        compiled, device_class, Path(model), samples, data, metric, pruning.original if pruning else None
    )
    if base is not None:
        report["base"] = base_report(compiled, base, chosen.measure_delta)
    if pruning is not None:
        report["pruning"] = pruning_report(
            pruning, trial_compile(pruning.original, device_class, chosen.type), compiled, base
        )
    return CompileResult(compiled.data, report, render_report(report), compiled.image.sections)


def load_samples(path: Path, graph: Graph, specs: tuple[InputSpec, ...]) -> Dataset:
    """Calibration data: what the model takes, or behind a front end features as well as recordings."""
    front = next((node for node in graph.nodes if isinstance(node, Features) and node.output == FEATURES), None)
    view = next((name for name, base in graph.views.items() if base in (FEATURES, f"{INPUT}/turned")), "")
    if front is None or not holds_shape(path, source_shape(graph, view)):
        return load_dataset(path, specs)
    found = load_dataset(path, (InputSpec(view, source_shape(graph, view), graph.source_layouts[view]),))
    # A device hears silence too, which recordings seldom hold: its features belong to the range.
    silence = front.front.features(np.zeros((1, graph.shapes[INPUT][0])))
    turned = graph.views[view] != FEATURES
    made = found.inputs[view].reshape(len(found), *(front.front.shape[::-1] if turned else front.front.shape))
    made = made.transpose(0, 2, 1) if turned else made
    return Dataset({FEATURES: np.concatenate([made, silence])}, None)


def _observe(graph: Graph, samples: dict[str, Any]) -> tuple[Graph, Graph, dict[str, Observed]]:
    """The graph and its part that samples are given to, masks bounded by what calibration saw of every tensor."""
    heard = behind_front_end(graph) if FEATURES in samples else graph
    observed = _seen(heard, samples)
    bounded = bound_masks(heard, observed)
    if bounded is heard:
        return graph, heard, observed
    return _with_front_end(graph, bounded), bounded, _seen(bounded, samples)


def _seen(graph: Graph, samples: dict[str, Any]) -> dict[str, Observed]:
    """What calibration saw of every tensor; of audio that calibration never heard its full scale."""
    observed = calibrate(graph, samples)
    return {INPUT: Observed(-1.0, 1.0, np.zeros(1, np.float32))} | observed


def _prune(
    graph: Graph, options: CompileOptions, samples: Dataset | None, data: Dataset | None, metric: Metric | None
) -> Pruning | None:
    if not options.prune.wanted:
        return None
    if isinstance(graph, QuantizedGraph):
        raise ModelError("a model that comes quantised cannot be pruned; give the float model it was made from")
    if samples is None:
        raise DatasetError("pruning is repaired with calibration data; give an NPZ with typical inputs (--calibration)")
    if FEATURES not in samples.inputs:
        return prune_graph(graph, options.prune, samples, data, metric)
    # Calibrated on features: the part behind the front end is pruned, and judged by features too.
    found = prune_graph(behind_front_end(graph), options.prune, samples, None, None)
    return replace(found, original=graph, graph=_with_front_end(graph, found.graph))


def _labels(graph: Graph) -> tuple[str, ...]:
    text = graph.metadata.get("labels", "")
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _first(data: Dataset, count: int) -> dict[str, Any]:
    return {name: x[:count] for name, x in data.inputs.items()}


def _search(
    graph: Graph,
    samples: dict[str, Any],
    identity: Identity,
    options: CompileOptions,
    against: "_Against",
) -> Compiled:
    """Compile with the estimator asked for and plain rounding, or with what a search finds nearest to float."""
    samples = with_states(behind_front_end(graph) if FEATURES in samples else graph, samples)
    graph, heard, observed = _observe(graph, samples)
    base = lend_base(graph, observed, against.image) if against.image is not None else None
    compile_as = partial(
        compile_graph, graph, observed, golden_vectors=options.golden_vectors, optimize=options.optimize
    )
    if options.estimator != "auto":
        return compile_as(options.estimator, identity, base=base)
    choice = search(heard, observed, samples, tuple(ESTIMATORS), base, against.gate, rounding=options.base_rounding)
    return compile_as(choice.trial.estimator, identity, base=None if choice.trial.own_scales else base, choice=choice)


def _search_types(
    graph: Graph,
    samples: Dataset,
    identity: Identity,
    options: CompileOptions,
    metric: Metric | None,
    against: "_Against",
) -> Compiled:
    """Compile with what a search over rounding, equalisation and types finds within its budgets."""
    assert options.search is not None
    inputs = _first(samples, CALIBRATION_SAMPLES)
    inputs = with_states(behind_front_end(graph) if FEATURES in inputs else graph, inputs)
    graph, heard, observed = _observe(graph, inputs)
    base = lend_base(graph, observed, against.image) if against.image is not None else None
    first = search(heard, observed, inputs, tuple(ESTIMATORS), base, against.gate, rounding=options.base_rounding)
    base = None if first.trial.own_scales else base

    def build(typed: Graph, seen: dict[str, Observed], choice: Choice) -> Compiled:
        compile_as = partial(compile_graph, golden_vectors=options.golden_vectors, optimize=options.optimize)
        whole, ranges = _with_front_end(graph, typed), observed | seen
        return compile_as(whole, ranges, choice.trial.estimator, identity, base=base, choice=choice)

    def measure(typed: Graph, seen: dict[str, Observed], choice: Choice) -> tuple[int, int]:
        built = build(typed, seen, choice)
        return len(built.data), built.plan.arena_bytes

    judged = judge_by(heard, metric, inputs, samples.y)
    best, log = TypeSearch(heard, observed, inputs, first, judged, options.search, measure, base).run()
    return replace(build(best.graph, best.observed, best.choice), search=log)


def _with_front_end(graph: Graph, part: Graph) -> Graph:
    """`part`, what is behind the front end of `graph` (or all of it), with the front end before it again."""
    if part.inputs == graph.inputs:
        return part
    front = [node for node in graph.nodes if isinstance(node, Features)]
    return part.with_nodes((*front, *part.nodes), inputs=graph.inputs)


@dataclass(frozen=True, eq=False)
class _Against:
    """The image compiled against, and the labelled data that choices answer for; None where there is none."""

    image: Image | None
    gate: Gate | None
