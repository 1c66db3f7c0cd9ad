"""One small net at every opset from 11 to 22: the same numbers, wherever attributes have become inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tinyfleet_compiler import check_model, load_device_class
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.importers.onnx_graph import import_onnx
from tinyfleet_compiler.load_model import load_graph
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_import import floats, same_as_onnxruntime

M4 = load_device_class("cortex-m4")
OPSETS = range(11, 26)
WEIGHTS = {"w": floats(4, 3, 3, 3), "g": floats(4), "v": np.abs(floats(4)) + 0.5}
INTS = {
    "axis1": np.array([1]),
    "axes23": np.array([2, 3]),
    "axis0": np.array([2]),
    "starts": np.array([0, 1]),
    "ends": np.array([4, 6]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "parts": np.array([1, 3]),
}


class Net:
    """The net as exporters of one opset write it."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = dict(WEIGHTS)

    def add(
        self, operator: str, inputs: list[str], output: str, since: int, values: dict[str, str], **more: Any
    ) -> None:
        """`values` (attribute -> constant) are inputs from opset `since` on and attributes before it."""
        if self.opset >= since:
            inputs = [*inputs, *values.values()]
            self.constants |= {name: INTS[name] for name in values.values()}
        else:
            more |= {attribute: INTS[name].tolist() for attribute, name in values.items()}
        self.nodes.append(node(operator, inputs, output, **more))

    def save(self, path: Path) -> Path:
        self.add("Pad", ["x"], "p", 11, {"pads": "pads"})
        self.add("Conv", ["p", "w"], "c", 1, {}, pads=[0, 0, 0, 0])
        self.add("BatchNormalization", ["c", "g", "g", "g", "v"], "n", 1, {})
        self.nodes.append(node("Clip", ["n", "low", "high"], "r"))
        self.constants |= {"low": np.float32(0), "high": np.float32(6)}
        self.add("Slice", ["r"], "s", 10, {"starts": "starts", "ends": "ends", "axes": "axes23"})
        self.nodes.append(self.split())
        self.add("ReduceSum", ["s1"], "t", 13, {"axes": "axes23"}, keepdims=0)
        self.add("ReduceMean", ["s2"], "u", 18, {"axes": "axes23"}, keepdims=1)
        self.add("Squeeze", ["u"], "q", 13, {"axes": "axes23"})
        self.nodes.append(node("Concat", ["t", "q"], "k", axis=1))
        self.add("Unsqueeze", ["k"], "z", 13, {"axes": "axis1"})
        self.nodes.append(node("Softmax", ["z"], "f", axis=2))
        self.nodes.append(node("Flatten", ["f"]))
        return save_model(path, self.nodes, [1, 3, 6, 7], self.constants, opset=self.opset)

    def split(self) -> Any:
        inputs, more = (["s"], {"split": [1, 3]}) if self.opset < 13 else (["s", "parts"], {})
        if self.opset >= 13:
            self.constants["parts"] = INTS["parts"]
        return helper.make_node("Split", inputs, ["s1", "s2"], name="split", axis=1, **more)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_same_numbers(tmp_path: Path, opset: int) -> None:
    path = Net(opset).save(tmp_path / "m.onnx")
    same_as_onnxruntime(path, (3, 6, 7))
    assert check_model(path, M4).fits
    x = {"x": floats(2, 6, 7, 3)}
    first, this = (run_float(load_graph(p), x)["y"] for p in (Net(17).save(tmp_path / "17.onnx"), path))
    np.testing.assert_allclose(this, first, rtol=1e-6, atol=1e-6)


def two_inputs(path: Path, shape: list[Any], other: list[Any]) -> Path:
    nodes = [node("Add", ["x", "z"]), node("Relu", ["x"], "r"), node("Concat", ["y", "r"], "c", axis=1)]
    return save_model(path, nodes, [], inputs={"x": shape, "z": other}, outputs=("y", "c"))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    path = two_inputs(tmp_path / "m.onnx", [1, 2, 3, 4], [1, 2, 3, 4])
    graph = load_graph(path)
    assert (graph.inputs, graph.output_names) == (("x", "z"), ("y", "c"))
    assert check_model(path, M4).fits


def test_symbolic_dimensions_are_asked_for_by_name(tmp_path: Path) -> None:
    path = two_inputs(tmp_path / "m.onnx", ["batch", "channels", "time", 4], ["batch", "channels", "time", 4])
    problems = check_model(path, M4).problems
    assert [p.node for p in problems] == ["x", "z"]
    assert all("channels, time" in p.reason for p in problems)
    assert "--dim channels=SIZE --dim time=SIZE" in problems[0].help
    report = check_model(path, M4, dims={"channels": 2, "time": 9, "batch": 1})
    assert report.fits
    graph = import_onnx(path, {"channels": 2, "time": 9}).graph
    assert graph is not None
    assert graph.shapes["x"] == (2, 9, 4)


@pytest.mark.parametrize(
    ("dims", "word"),
    [
        ({"channels": 2}, "symbolic dimensions time"),
        ({"channels": 2, "time": 9, "tmie": 9}, "tmie"),
        ({"channels": 2, "time": 9, "batch": 4}, "batch of 4"),
        ({"channels": 2, "time": 0}, "positive"),
        ({"channels": 2, "time": 1 << 40}, "elements"),
    ],
)
def test_sizes_that_do_not_help(tmp_path: Path, dims: dict[str, int], word: str) -> None:
    path = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], ["batch", "channels", "time"])
    found = " ".join(str(p) for p in check_model(path, M4, dims=dims).problems)
    assert word in found


def test_a_dimension_without_a_name_is_called_by_its_place(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], [1, 3, "t"])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    path.write_bytes(model.SerializeToString())
    assert "x:2" in check_model(path, M4).problems[0].reason
    assert check_model(path, M4, dims={"x:2": 5}).fits
