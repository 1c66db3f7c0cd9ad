"""SVDF in C: the simulator's bytes over streams, hostile records."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES
from agent.runtime.test_runtime_state import entry
from tinyfleet_compiler import simulate
from tinyfleet_compiler.operators import Element, OpCode
from unit.compiler.test_tflite_svdf import svdf
from unit.compiler.tflite_models import compiled_image


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_gives_the_simulators_bytes(tmp_path: Path, seed: int) -> None:
    data, x = svdf(seed, bool(seed % 2))
    image = compiled_image(tmp_path, data)
    model = Model(image.data)
    assert model.golden() == "OK"
    got = np.stack([model.run(row) for row in x])
    np.testing.assert_array_equal(got, simulate(image, x)[image.outputs[0].name].reshape(len(x), -1))


def image(element: Element = Element.INT8) -> ImageBuilder:
    width = 2 if element is Element.INT16 else 1
    fields = {"features": 4, "filters": 6, "rank": 2, "memory": 3, "state": 0, "state_element": element}
    fields |= {"state_zero_point": 0, "multiplier": 2**30, "shift": -4, "output_multiplier": 2**30, "output_shift": -6}
    table = np.arange(12 + 18 * width + 24, dtype=np.int8)
    op = Op(OpCode.SVDF, fields | {"input": 0, "output": 4}, constant=table)
    return ImageBuilder(8, [Io(0, (4,))], [Io(4, (3,))], [op], states=(entry(0, 18 * width, element),))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("features", "filters", "rank", "memory") for value in (0, 0xFFFFFFFF)],
        ("features", 1000),
        ("filters", 8),
        ("filters", 7),
        ("rank", 4),
        ("memory", 4),
        ("state", 2),
        ("state", 4),
        ("state", 0xFFFFFFFC),
        ("table", 8),
        ("table", 0xFFFFFFF0),
        ("state_element", 2),
        ("multiplier", -1),
        ("output_multiplier", -1),
        ("output", 2),
        ("output", 6),
    ],
)
def test_a_bent_record_is_refused(name: str, value: int) -> None:
    assert Model(image().build()).status == "OK"
    assert_refused(image(), name, value)


def test_halfwords_have_no_zero_point() -> None:
    assert Model(image(Element.INT16).build()).status == "OK"
    assert_refused(image(Element.INT16), "state_zero_point", 1)


@EXAMPLES
@given(st.sampled_from([Element.INT8, Element.INT16]), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(element: Element, changes: list[tuple[int, int]]) -> None:
    assert_safe(image(element).build(), changes)
