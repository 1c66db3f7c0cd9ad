"""Transposed convolutions: imported against ONNX Runtime, simulated within a step of real arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler.graph import ConvTranspose, Pad
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime
from unit.compiler.test_compiler_simulate import build, steps_apart

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHW = (3, 4, 5)


def check(path: Path, shape: tuple[int, ...]) -> None:
    graph = same_as_onnxruntime(path, shape)
    assert [type(n) for n in graph.nodes] == [ConvTranspose]
    device = (*shape[1:], shape[0])
    rng = np.random.default_rng(6)
    compiled = build(path, rng.normal(1.0, 2.0, size=(20, *device)).astype(np.float32))
    assert steps_apart(compiled, rng.integers(-128, 128, size=(5, *device)).astype(np.int8)) <= 1


@relaxed
@given(st.data())
def test_attributes(tmp_path: Path, data: Any) -> None:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides, dilations = data.draw(pair), data.draw(pair), data.draw(pair)
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    pads = [data.draw(st.integers(0, 1)) for _ in range(4)]
    conv = node("ConvTranspose", ["x", "w", "b"], strides=strides, dilations=dilations, pads=pads, output_padding=extra)
    constants = {"w": floats(3, 2, *kernel), "b": floats(2)}
    check(save_model(tmp_path / "m.onnx", [conv], [1, *CHW], constants), CHW)


@pytest.mark.parametrize(
    "attributes",
    [
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID", "strides": [3, 1]},
        {"output_shape": [7, 9], "strides": [2, 2]},
    ],
)
def test_pads_from_elsewhere(tmp_path: Path, attributes: dict[str, Any]) -> None:
    conv = node("ConvTranspose", ["x", "w"], **attributes)
    check(save_model(tmp_path / "m.onnx", [conv], [1, *CHW], {"w": floats(3, 2, 3, 3)}), CHW)


def test_sequence(tmp_path: Path) -> None:
    conv = node("ConvTranspose", ["x", "w"], strides=[2], pads=[1, 0], output_padding=[1])
    check(save_model(tmp_path / "m.onnx", [conv], [1, 3, 7], {"w": floats(3, 2, 3)}), (3, 7))


def test_activation_and_normalisation_go_into_it(tmp_path: Path) -> None:
    nodes = [
        node("ConvTranspose", ["x", "w"], "c", strides=[2, 2]),
        node("BatchNormalization", ["c", "g", "g", "g", "v"], "n"),
        node("Relu", ["n"]),
    ]
    constants = {"w": floats(3, 2, 2, 2), "g": floats(2), "v": np.abs(floats(2)) + 0.1}
    check(save_model(tmp_path / "m.onnx", nodes, [1, *CHW], constants), CHW)


def test_padding_before_it_stays(tmp_path: Path) -> None:
    """Its pads cut; zeros around its input are something else."""
    nodes = [node("Pad", ["x", "p"], "q"), node("ConvTranspose", ["q", "w"], strides=[2, 2])]
    constants = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": floats(3, 2, 2, 2)}
    graph = same_as_onnxruntime(save_model(tmp_path / "m.onnx", nodes, [1, *CHW], constants), CHW)
    assert [type(n) for n in graph.nodes] == [Pad, ConvTranspose]


@pytest.mark.parametrize(
    ("weights", "attributes", "reason"),
    [
        ((3, 2, 2, 2), {"group": 2}, "group 2"),
        ((2, 2, 2, 2), {}, "do not fit"),
        ((3, 2, 2), {}, "4 dimensions"),
        ((3, 2, 2, 2), {"pads": [9, 9, 9, 9]}, "makes"),
        ((3, 2, 2, 2), {"output_shape": [99, 99]}, "output_padding"),
        ((3, 2, 2, 2), {"strides": [0, 1]}, "out of range"),
        ((3, 2, 2, 2), {"auto_pad": "OTHER"}, "OTHER"),
    ],
)
def test_what_cannot_be_taken_is_named(
    tmp_path: Path, weights: tuple[int, ...], attributes: dict[str, Any], reason: str
) -> None:
    conv = node("ConvTranspose", ["x", "w"], **attributes)
    (problem,) = import_onnx(save_model(tmp_path / "m.onnx", [conv], [1, *CHW], {"w": floats(*weights)})).problems
    assert reason in f"{problem.reason} {problem.help}"
