"""Images that open, each made to take one kernel out of defined behaviour: they run, and sanitizers see nothing."""

from collections.abc import Callable

import pytest

from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from tinyfleet_compiler.operators import Element, OpCode

ANYWHERE = -(2**31)
"""An overlap rule that allows every distance."""


def one(arena: int, source: Io, target: Io, op: Op) -> ImageBuilder:
    return ImageBuilder(arena, [source], [target], [op])


def row_that_changes() -> ImageBuilder:
    """The largest value is written over the only one smaller than it: none is left to come second."""
    op = {"rows": 1, "columns": 2, "k": 2, "smallest": 0, "input": 0, "output": 0, "overlap_bytes": ANYWHERE}
    return one(2, Io(0, (2,)), Io(0, (2,)), Op(OpCode.TOP_K, op))


def real_row_that_changes() -> ImageBuilder:
    op = {"rows": 1, "columns": 2, "k": 2, "smallest": 0, "input": 0, "output": 0, "overlap_bytes": ANYWHERE}
    io = Io(0, (2,), element=Element.FLOAT32)
    return one(8, io, io, Op(OpCode.TOP_K_F32, op))


CASES: dict[str, Callable[[], ImageBuilder]] = {
    "top_k": row_that_changes,
    "top_k_f32": real_row_that_changes,
}


@pytest.mark.parametrize("name", CASES)
def test_what_opens_is_defined(name: str) -> None:
    model = Model(CASES[name]().build())
    assert (model.status, model.golden()) == ("OK", "GOLDEN")
