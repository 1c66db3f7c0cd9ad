"""What every importer hands on."""

from dataclasses import dataclass, field

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import Graph
from tinyfleet_compiler.quantize.taken import Taken


@dataclass(frozen=True)
class Imported:
    """A graph, or None with the problems that stand in the way."""

    graph: Graph | None
    problems: tuple[Problem, ...]
    lowered: bool = False
    """The graph is channels-last and fused already."""
    taken: Taken = field(default_factory=Taken)
    """What an ONNX file that comes quantised says about its numbers; empty for float ones."""
