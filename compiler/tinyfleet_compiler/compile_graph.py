"""The back half of a compile: simplified graph + parameters -> planned operators and image bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinyfleet_compiler.base import base_outputs, base_quantization, base_weights
from tinyfleet_compiler.build_ops import Op, build_ops
from tinyfleet_compiler.fit_cmsis_nn import fit_cmsis_nn
from tinyfleet_compiler.graph import Graph, elements
from tinyfleet_compiler.image import Golden, Image, read_image
from tinyfleet_compiler.kernel_scratch import give_scratch
from tinyfleet_compiler.model_gates import kept_inside
from tinyfleet_compiler.model_state import settle_states, with_state_ops, written_tensors
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.plan_cascades import plan_cascades
from tinyfleet_compiler.plan_memory import Plan, choose_order, plan_memory
from tinyfleet_compiler.quantize.budgets import SearchLog
from tinyfleet_compiler.quantize.calibrate import Observed
from tinyfleet_compiler.quantize.parameters import FLOAT, Quantization, choose_parameters
from tinyfleet_compiler.quantize.search import Base, Choice, Trial
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.schedule import schedule
from tinyfleet_compiler.search_order import has_choice, search_order, smallest_unit
from tinyfleet_compiler.simulate import golden_crc
from tinyfleet_compiler.turn_sequences import turn_sequences, upright_ops, upright_shapes
from tinyfleet_compiler.verify_plan import verify_plan
from tinyfleet_compiler.write_image import ImageSpec, TensorSpec, write_image

GOLDEN_SEEDS = (0x2545F491, 0x9E3779B9, 0x6A09E667, 0xBB67AE85)
"""The same for every image, so that golden seeds cost a delta nothing."""


FLOAT32 = "float32"
"""In place of a range estimator: nothing is quantised, every tensor holds real numbers."""
TYPES = ("int8", FLOAT32)
"""Element types that can be asked for."""


@dataclass(frozen=True)
class Identity:
    """What an image says of itself."""

    name: str
    version: str
    device_class: str
    labels: tuple[str, ...] = ()
    kernels: str = "portable"
    """`DeviceClass.kernels`."""
    helium: bool = False
    """The core has Helium: CMSIS-NN wants other scratch there."""
    arena_bytes: int | None = None
    """RAM of the class: `--optimize ram` computes borders twice (patches) only where it would need more."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A verified image with what it was made from."""

    graph: Graph
    parameters: dict[str, Quantization]
    ops: tuple[Op, ...]
    plan: Plan
    data: bytes
    image: Image
    estimator: str
    tried: tuple[Trial, ...] = ()
    """Quantisation choices a search compared."""
    optimize: str = "balanced"
    """`CompileOptions.optimize`."""
    search: SearchLog | None = None
    """Of a search over types."""


def lend_base(graph: Graph, observed: dict[str, Observed], image: Image) -> Base:
    """What a search may use of a base image: nothing of layers that the models do not share."""
    ops = _scheduled(graph, choose_parameters(graph, observed, "min-max"))
    inputs = graph.live_inputs
    return Base(
        base_quantization(image, ops, inputs), base_weights(image, ops, inputs), lambda x: base_outputs(image, x)
    )


def _scheduled(graph: Graph, parameters: dict[str, Quantization]) -> tuple[Op, ...]:
    graph, parameters = settle_states(graph, parameters)
    outputs = tuple(graph.root(name) for name in graph.live_outputs)
    built = with_state_ops(build_ops(graph, parameters), graph, parameters)
    return schedule(built, _sizes(graph, parameters, built), graph.live_inputs, outputs)


def _sizes(graph: Graph, parameters: dict[str, Quantization], ops: Sequence[Op]) -> dict[str, int]:
    sizes = {name: elements(graph.shapes[name]) * parameters[name].bytes for name in _stored(graph)}
    return sizes | dict.fromkeys(written_tensors(ops), 0)


def compile_graph(
    graph: Graph,
    observed: dict[str, Observed],
    estimator: str,
    identity: Identity,
    *,
    base: Base | None = None,
    choice: Choice | None = None,
    golden_vectors: int = len(GOLDEN_SEEDS),
    optimize: str = "balanced",
) -> Compiled:
    """Quantise, schedule, plan, write and verify; weights of `choice` are taken as they are. Raises `ModelError`."""
    graph, parameters = settle_states(graph, _parameters(graph, observed, estimator, base))
    inputs, outputs = graph.live_inputs, tuple(graph.root(name) for name in graph.live_outputs)
    built = build_ops(graph, parameters, base.weights if base else None, choice.weights if choice else None)
    built = with_state_ops(built, graph, parameters)
    sizes = _sizes(graph, parameters, built)
    ops = schedule(built, sizes, inputs, outputs)
    ops = fit_cmsis_nn(ops, identity.helium) if identity.kernels == "cmsis-nn" else give_scratch(ops, identity.kernels)
    ops, plan = _plan(graph, ops, sizes, outputs, optimize, identity.arena_bytes)
    ops = choose_order(turn_sequences(ops, plan), plan)
    spec = ImageSpec(
        ops,
        plan,
        [_tensor(graph, parameters, name, name) for name in inputs],
        [
            _tensor(graph, parameters, name, shown)
            for name, shown in zip(graph.live_outputs, _output_names(graph), strict=True)
        ],
        [] if optimize == "flash" else [parameters[_scaled(op)].scale for op in ops],
        identity.device_class,
        identity.name,
        identity.version,
        identity.labels,
        Golden(GOLDEN_SEEDS[: 1 if optimize == "flash" else golden_vectors], 0),
        share_constants=optimize == "flash",
    )
    data, image = _with_golden(spec)
    verify_plan(image, ops, sizes, inputs, outputs)
    return Compiled(graph, parameters, ops, plan, data, image, estimator, choice.tried if choice else (), optimize)


def _plan(
    graph: Graph, ops: tuple[Op, ...], sizes: dict[str, int], outputs: Sequence[str], optimize: str, budget: int | None
) -> tuple[tuple[Op, ...], Plan]:
    """The order and plan with the smallest arena; an order that was searched for only where it really needs less."""
    inside = kept_inside(graph)
    inputs = [name for name in graph.inputs if name not in inside]

    def plan(order: Sequence[Op]) -> Plan:
        if optimize == "ram":
            return plan_cascades(upright_ops(order), sizes, upright_shapes(graph.shapes), inputs, outputs, budget)
        return plan_memory(order, sizes, inputs, outputs)

    best = plan(ops)
    if has_choice(ops) and (optimize == "ram" or best.arena_bytes > smallest_unit(ops, sizes)):
        order, least = search_order(ops, sizes, inputs, outputs)
        # Cascades may need less than `least`, which is of whole tensors: there only trying tells.
        other = plan(order) if order != ops and (optimize == "ram" or least < best.arena_bytes) else best
        if other.arena_bytes < best.arena_bytes:
            return order, other
    return ops, best


def _parameters(
    graph: Graph, observed: dict[str, Observed], estimator: str, base: Base | None
) -> dict[str, Quantization]:
    if isinstance(graph, QuantizedGraph):
        return dict(graph.parameters)
    if estimator == FLOAT32:
        return dict.fromkeys(_stored(graph), FLOAT)
    return choose_parameters(graph, observed, estimator, base.parameters if base else None)


def _with_golden(spec: ImageSpec) -> tuple[bytes, Image]:
    draft = read_image(write_image(spec))
    golden = replace(spec.golden, crc32=golden_crc(draft, spec.golden.seeds))
    data = write_image(replace(spec, golden=golden))
    return data, read_image(data)


def _stored(graph: Graph) -> Sequence[str]:
    return [*graph.inputs, *(node.output for node in graph.nodes)]


def _output_names(graph: Graph) -> tuple[str, ...]:
    return graph.output_names or graph.live_outputs


def _scaled(op: Op) -> str:
    """The tensor whose scale an op's output has; a STATE_WRITE gives none of its own."""
    return op.inputs[0] if op.code is OpCode.STATE_WRITE else op.output


def _tensor(graph: Graph, parameters: dict[str, Quantization], tensor: str, name: str) -> TensorSpec:
    root = graph.root(tensor)
    return TensorSpec(name, root, graph.shapes[tensor], parameters[root], graph.source_layouts[tensor])
