"""`check_model`: everything that stands between a model file and a device class, in one pass.

What only a compile needs (search, pruning, report) is not imported here, so that a check answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.compile_graph import FLOAT32, Compiled, Identity, compile_graph
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.fit_class import fit
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.importers.states import Pairs
from tinyfleet_compiler.load_model import check_islands, load_graph, require_float
from tinyfleet_compiler.quantize.bound_masks import bound_masks
from tinyfleet_compiler.quantize.calibrate import Observed


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
            require_float(Path(model), device_class)
        graph = load_graph(Path(model), front_end, dims, states, type)
        check_islands(graph, Path(model), device_class)
        compiled = trial_compile(graph, device_class, type)
    except ModelError as error:
        return CheckReport(device_class.name, error.problems)
    sizes = len(compiled.data), compiled.plan.arena_bytes, sum(op.macs for op in compiled.ops)
    reasons = fit(compiled, device_class)["reasons"]
    help = "compile with --optimize ram, use a smaller model or another device class"
    problems = tuple(Problem(Path(model).name, "model", reason, help) for reason in reasons)
    return CheckReport(device_class.name, problems, *sizes)


def identity_of(device_class: DeviceClass, name: str, version: str, labels: tuple[str, ...]) -> Identity:
    """What an image for a class says of itself."""
    helium = "mve" in device_class.features
    return Identity(
        name, version, device_class.name, labels, device_class.kernels, helium, arena_bytes=device_class.arena_bytes
    )


def trial_compile(graph: Graph, device_class: DeviceClass, type: str) -> Compiled:
    """A compile with made-up ranges: sizes and plan are those of the real one."""
    seen = Observed(-1.0, 1.0, np.linspace(-1.0, 1.0, 256, dtype=np.float32))
    names = [*graph.inputs, *(node.output for node in graph.nodes)]
    identity = identity_of(device_class, "check", "0", ())
    observed = dict.fromkeys(names, seen)
    if type == FLOAT32:
        return compile_graph(graph, observed, FLOAT32, identity, golden_vectors=1)
    return compile_graph(bound_masks(graph, observed), observed, "min-max", identity, golden_vectors=1)
