"""What every importer hands on."""

from dataclasses import dataclass

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import Graph


@dataclass(frozen=True)
class Imported:
    """A graph, or None with the problems that stand in the way."""

    graph: Graph | None
    problems: tuple[Problem, ...]
    lowered: bool = False
    """The graph is channels-last and fused already."""
