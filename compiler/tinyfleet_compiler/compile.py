"""The compiler's public functions: `compile_model` and `check_model`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.base_gate import base_gate
from tinyfleet_compiler.build_float import has_float_kernel
from tinyfleet_compiler.compile_graph import FLOAT32, Compiled, Identity, compile_graph, lend_base
from tinyfleet_compiler.dataset import Codes, Dataset, InputSpec, holds_shape, load_dataset
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.emit.c_source import emit_c
from tinyfleet_compiler.errors import DatasetError, ModelError, Problem
from tinyfleet_compiler.float_run import with_states
from tinyfleet_compiler.front_end_file import read_front_end
from tinyfleet_compiler.graph import Features, Graph
from tinyfleet_compiler.image import Image, Section, read_image
from tinyfleet_compiler.importers import Imported, import_model
from tinyfleet_compiler.importers.states import Pairs
from tinyfleet_compiler.metrics import Metric, choose_metric
from tinyfleet_compiler.operators import SourceLayout
from tinyfleet_compiler.options import CompileOptions
from tinyfleet_compiler.passes import finish_lowered, simplify, simplify_float, simplify_quantized
from tinyfleet_compiler.passes.attach_front_end import (
    FEATURES,
    INPUT,
    attach_front_end,
    behind_front_end,
    full_scale,
)
from tinyfleet_compiler.prune.prune_graph import Pruning, prune_graph
from tinyfleet_compiler.quantize.calibrate import Observed, calibrate
from tinyfleet_compiler.quantize.ranges import ESTIMATORS
from tinyfleet_compiler.quantize.search import Choice, Gate, search
from tinyfleet_compiler.quantize.take import barriers, take_quantized
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.report import build_report, fit
from tinyfleet_compiler.report_base import base_report
from tinyfleet_compiler.report_html import render_report
from tinyfleet_compiler.report_pruning import pruning_report
from tinyfleet_compiler.search_metric import judge_by
from tinyfleet_compiler.search_types import TypeSearch
from tinyfleet_compiler.verify_graph import verify_lowered

CALIBRATION_SAMPLES = 500
MOST_NODES = 1_000
"""Once simplified: more than any microcontroller runs. What planning costs grows with the square."""
AS_IMPORTED = "as-imported"
"""What the report calls the estimator of a model that came quantised."""


@dataclass(frozen=True, eq=False)
class CompileResult:
    """Image bytes, report (DESIGN section 2 keys), its HTML page, the sections, and C sources when asked for."""

    image: bytes
    report: dict[str, Any]
    report_html: str
    sections: tuple[Section, ...]
    c_sources: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write model.tfm, report.json, report.html and any C sources into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.tfm").write_bytes(self.image)
        (folder / "report.json").write_text(json.dumps(self.report, indent=2) + "\n")
        (folder / "report.html").write_text(self.report_html)
        for name, text in self.c_sources.items():
            (folder / name).write_text(text)


@dataclass(frozen=True)
class CheckReport:
    """Whether a model fits a device class, and everything that stands in the way."""

    device_class: str
    problems: tuple[Problem, ...]
    image_bytes: int | None = None
    arena_bytes: int | None = None
    macs: int | None = None

    @property
    def fits(self) -> bool:
        """No problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain data: device_class, fits, problems[], image_bytes, arena_bytes, macs."""
        return {
            "device_class": self.device_class,
            "fits": self.fits,
            "image_bytes": self.image_bytes,
            "arena_bytes": self.arena_bytes,
            "macs": self.macs,
            "problems": [p.to_json() for p in self.problems],
        }


def check_model(
    model: Path,
    device_class: DeviceClass,
    front_end: str = "",
    dims: Mapping[str, int] | None = None,
    states: Pairs = (),
    type: str = "int8",
) -> CheckReport:
    """Every unsupported node and misfit of a model file, in one pass, for any file; never raises for bad models.

    `dims` gives sizes of symbolic dimensions by name, `states` as `CompileOptions.states`.
    """
    try:
        if type == FLOAT32:
            _require_float(Path(model), device_class)
        graph = load_graph(Path(model), front_end, dims, states, type)
        _check_islands(graph, Path(model), device_class)
        compiled = _trial(graph, device_class, type)
    except ModelError as error:
        return CheckReport(device_class.name, error.problems)
    sizes = len(compiled.data), compiled.plan.arena_bytes, sum(op.macs for op in compiled.ops)
    reasons = fit(compiled, device_class)["reasons"]
    help = "compile with --optimize ram, use a smaller model or another device class"
    problems = tuple(Problem(Path(model).name, "model", reason, help) for reason in reasons)
    return CheckReport(device_class.name, problems, *sizes)


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
        _require_float(Path(model), device_class)
    graph = load_graph(Path(model), chosen.front_end, chosen.dims, chosen.states, chosen.type)
    _check_islands(graph, Path(model), device_class)
    specs = input_specs(graph)
    if calibration is None and chosen.type != FLOAT32 and needs_calibration(graph):
        help = "give an NPZ with some typical inputs (--calibration), or --type float32 for a class with an FPU"
        raise DatasetError(f"a float model needs calibration data; {help}")
    samples = _load_samples(Path(calibration), graph, specs) if calibration is not None else None
    data = load_dataset(Path(evaluation), specs) if evaluation is not None else None
    if data is not None:
        choose_metric(metric, data)  # a wrong one is named before any work
    identity = _identity(device_class, name, version, chosen.labels or _labels(graph))
    base = read_image(chosen.base) if chosen.base is not None else None
    pruning = _prune(graph, chosen, samples, data, metric)
    graph = graph if pruning is None else pruning.graph
    golden, optimize = chosen.golden_vectors, chosen.optimize
    if chosen.type == FLOAT32:
        compiled = compile_graph(graph, {}, FLOAT32, identity, golden_vectors=golden)
    elif samples is None or isinstance(graph, QuantizedGraph):
        if chosen.search is not None:
            raise DatasetError(
                "a search needs a float model and calibration data; a model that came quantised is taken as it is"
            )
        compiled = compile_graph(graph, {}, AS_IMPORTED, identity, golden_vectors=golden, optimize=optimize)
    elif chosen.search is not None:
        compiled = _search_types(graph, samples, identity, chosen, metric)
    else:
        gate = base_gate(graph, base, data, metric) if FEATURES not in samples.inputs else None
        compiled = _search(graph, _first(samples, CALIBRATION_SAMPLES), identity, chosen, base, gate)
    report = build_report(
        compiled, device_class, Path(model), samples, data, metric, pruning.original if pruning else None
    )
    if base is not None:
        report["base"] = base_report(compiled, base, chosen.measure_delta)
    if pruning is not None:
        report["pruning"] = pruning_report(pruning, _trial(pruning.original, device_class, chosen.type), compiled, base)
    sources = emit_c(compiled.image) if chosen.emit_c else {}
    return CompileResult(compiled.data, report, render_report(report), compiled.image.sections, sources)


def _load_samples(path: Path, graph: Graph, specs: tuple[InputSpec, ...]) -> Dataset:
    """Calibration data: what the model takes, or behind a front end features as well as recordings."""
    front = next((node for node in graph.nodes if isinstance(node, Features) and node.output == FEATURES), None)
    view = next((name for name, base in graph.views.items() if base in (FEATURES, f"{INPUT}/turned")), "")
    if front is None or not holds_shape(path, _source_shape(graph, view)):
        return load_dataset(path, specs)
    found = load_dataset(path, (InputSpec(view, _source_shape(graph, view), graph.source_layouts[view]),))
    # A device hears silence too, which recordings seldom hold: its features belong to the range.
    silence = front.front.features(np.zeros((1, graph.shapes[INPUT][0])))
    turned = graph.views[view] != FEATURES
    made = found.inputs[view].reshape(len(found), *(front.front.shape[::-1] if turned else front.front.shape))
    made = made.transpose(0, 2, 1) if turned else made
    return Dataset({FEATURES: np.concatenate([made, silence])}, None)


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
    front = [node for node in graph.nodes if isinstance(node, Features)]
    whole = found.graph.with_nodes((*front, *found.graph.nodes), inputs=graph.inputs)
    return replace(found, original=graph, graph=whole)


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """Model inputs in the model file's layout."""

    codes = _input_codes(graph)
    return tuple(
        InputSpec(name, _source_shape(graph, name), graph.source_layouts[name], codes.get(name, Codes()))
        for name in graph.live_inputs
    )


def _source_shape(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.shapes[name]
    first = graph.source_layouts[name] is SourceLayout.CHANNELS_FIRST
    return (shape[-1], *shape[:-1]) if first else shape


def _input_codes(graph: Graph) -> dict[str, Codes]:
    """What integer arrays mean for the inputs of a quantised model."""
    if not isinstance(graph, QuantizedGraph):
        if INPUT not in graph.inputs or FEATURES not in graph.shapes:
            return {}
        full = full_scale(graph)
        return {INPUT: Codes(full.element.name.lower(), full.scale, 0)}
    found = {}
    for name, kind in graph.input_types.items():
        q = graph.parameters[name]
        found[name] = Codes(kind, q.scale, q.zero_point + (128 if kind == "uint8" else 0))
    return found


def load_graph(
    model: Path,
    front_end: str = "",
    dims: Mapping[str, int] | None = None,
    states: Pairs = (),
    type: str = "int8",
) -> Graph:
    """Import and simplify a model file for tensors of `type`, behind a front end (TOML text).

    `dims`, `states` as `CompileOptions`. Raises `ModelError` with every problem at once.
    """
    graph = _load_model(model, dims, states, type)
    text = front_end or graph.metadata.get("front_end", "")
    if text and type == FLOAT32:
        help = "compile it for int8, or leave the front end out"
        problem = Problem(model.name, "front end", "writes int8 features", help)
        raise ModelError(f"{model.name} cannot be compiled:", [problem])
    return attach_front_end(graph, *read_front_end(text)) if text else graph


def _load_model(model: Path, dims: Mapping[str, int] | None, states: Pairs, type: str) -> Graph:
    imported = import_model(model, dims, states)
    if imported.graph is None:
        raise ModelError(f"{model.name} cannot be compiled:", imported.problems)
    graph = _float_graph(model, imported) if type == FLOAT32 else _simplified(imported.graph, imported)
    if len(graph.nodes) > MOST_NODES:
        raise ModelError(f"{model.name} has {len(graph.nodes)} operators, at most {MOST_NODES} are planned; split it")
    if not graph.nodes:
        raise ModelError(
            f"{model.name} computes nothing: it only gives its input another shape; deploy a model that does"
        )
    return graph


def _simplified(graph: Graph, imported: Imported) -> Graph:
    if imported.lowered:
        return finish_lowered(graph)
    if not imported.taken.parameters:
        return simplify(graph)
    return take_quantized(simplify_quantized(graph, barriers(graph, imported.taken)), imported.taken)


def _float_graph(model: Path, imported: Imported) -> Graph:
    assert imported.graph is not None
    graph = imported.graph
    if isinstance(graph, QuantizedGraph) or imported.taken.parameters:
        help = "leave out --type float32, or give the float model"
        raise ModelError(f"{model.name} is quantised:", [Problem(model.name, "model", "holds integers already", help)])
    lowered = verify_lowered(graph, "import") if imported.lowered else simplify_float(graph)
    if missing := [node for node in lowered.nodes if not has_float_kernel(node)]:
        help = "compile it for int8, with calibration data"
        problems = [Problem(n.name, type(n).__name__, "has no float32 kernel", help) for n in missing]
        raise ModelError(f"{model.name} cannot be compiled:", problems)
    return lowered


def _require_float(model: Path, device_class: DeviceClass) -> None:
    """Raises `ModelError` for a class whose core would compute floats in software."""
    if "fpu" not in device_class.features:
        help = "use a class with feature fpu, or quantise to int8 with calibration data (--calibration)"
        reason = f"needs an FPU as float32, {device_class.name} has none"
        raise ModelError(f"{model.name} cannot be compiled:", [Problem(model.name, "model", reason, help)])


def _check_islands(graph: Graph, model: Path, device_class: DeviceClass) -> None:
    """Raises `ModelError` where a quantised model computes real numbers in between and the class has no FPU."""
    if isinstance(graph, QuantizedGraph) and graph.islands and "fpu" not in device_class.features:
        text = f"{model.name} computes real numbers between quantised tensors, {device_class.name} has no FPU:"
        raise ModelError(text, graph.islands)


def needs_calibration(graph: Graph) -> bool:
    """Whether scales have to be found from samples: not for a model that comes quantised."""
    return not isinstance(graph, QuantizedGraph)


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
    image: Image | None,
    gate: Gate | None,
) -> Compiled:
    """Compile with the estimator asked for and plain rounding, or with what a search finds nearest to float."""
    heard = behind_front_end(graph) if FEATURES in samples else graph
    samples = with_states(heard, samples)
    observed = _seen(heard, samples)
    base = lend_base(graph, observed, image) if image is not None else None
    compile_as = partial(
        compile_graph, graph, observed, golden_vectors=options.golden_vectors, optimize=options.optimize
    )
    if options.estimator != "auto":
        return compile_as(options.estimator, identity, base=base)
    choice = search(heard, observed, samples, tuple(ESTIMATORS), base, gate)
    return compile_as(choice.trial.estimator, identity, base=None if choice.trial.own_scales else base, choice=choice)


def _search_types(
    graph: Graph, samples: Dataset, identity: Identity, options: CompileOptions, metric: Metric | None
) -> Compiled:
    """Compile with what a search over rounding, equalisation and types finds within its budgets."""
    assert options.search is not None
    if graph.states:
        raise DatasetError("a search does not take models that keep state yet; compile it without one")
    inputs = _first(samples, CALIBRATION_SAMPLES)
    observed = calibrate(graph, inputs)
    first = search(graph, observed, inputs, tuple(ESTIMATORS))

    def build(typed: Graph, seen: dict[str, Observed], choice: Choice) -> Compiled:
        compile_as = partial(compile_graph, golden_vectors=options.golden_vectors, optimize=options.optimize)
        return compile_as(typed, seen, choice.trial.estimator, identity, choice=choice)

    def measure(typed: Graph, seen: dict[str, Observed], choice: Choice) -> tuple[int, int]:
        built = build(typed, seen, choice)
        return len(built.data), built.plan.arena_bytes

    judged = judge_by(graph, metric, inputs, samples.y)
    best, log = TypeSearch(graph, observed, inputs, first, judged, options.search, measure).run()
    return replace(build(best.graph, best.observed, best.choice), search=log)


def _identity(device_class: DeviceClass, name: str, version: str, labels: tuple[str, ...]) -> Identity:
    return Identity(name, version, device_class.name, labels, device_class.kernels, "mve" in device_class.features)


def _trial(graph: Graph, device_class: DeviceClass, type: str) -> Compiled:
    """A compile with made-up ranges: sizes and plan are those of the real one."""
    seen = Observed(-1.0, 1.0, np.linspace(-1.0, 1.0, 256, dtype=np.float32))
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    identity = _identity(device_class, "check", "0", ())
    estimator = FLOAT32 if type == FLOAT32 else "min-max"
    return compile_graph(graph, dict.fromkeys(names, seen), estimator, identity, golden_vectors=1)
