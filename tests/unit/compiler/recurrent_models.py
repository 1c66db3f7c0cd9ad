"""ONNX LSTM and GRU as exporters write them, with what they begin with, and ONNX Runtime's float beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from tinyfleet_compiler import CompileOptions, compile_model, load_device_class, read_image
from tinyfleet_compiler.image import Image
from unit.compiler.onnx_models import node, save_model

HOST = load_device_class("host")
STEPS, FEATURES, UNITS = 12, 6, 8
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def layer(operator: str, outputs: tuple[str, ...], inputs: str = "t w r b", **attributes: Any) -> onnx.NodeProto:
    """One layer; names of its inputs apart by spaces, none between two."""
    attributes = {"hidden_size": UNITS} | attributes
    if operator == "GRU":
        attributes = {"linear_before_reset": 1} | attributes
    return helper.make_node(
        operator, inputs.split(" "), list(outputs), name=f"{operator.lower()}_{outputs}", **attributes
    )


def constants(operator: str, seed: int, features: int = FEATURES, ways: int = 1) -> dict[str, np.ndarray]:
    """w, r, b of one layer, or of one for each way."""
    rng, gates = np.random.default_rng(seed), 4 if operator == "LSTM" else 3
    return {
        "w": rng.normal(0.0, 0.5, (ways, gates * UNITS, features)).astype(np.float32),
        "r": rng.normal(0.0, 0.3, (ways, gates * UNITS, UNITS)).astype(np.float32),
        "b": rng.normal(0.0, 0.3, (ways, 2 * gates * UNITS)).astype(np.float32),
    }


def starting(path: Path, operator: str, *, steps: int = STEPS, seed: int = 0, **attributes: Any) -> Path:
    """x (steps, 1, F), h and (LSTM) c (D, 1, U) -> y (steps, D, 1, U), h_next, c_next; D = 2 for both directions."""
    ways = WAYS[attributes.get("direction", "forward")]
    given, ends = ("h c", ("h_next", "c_next")) if operator == "LSTM" else ("h", ("h_next",))
    made = layer(operator, ("y", *ends), f"x w r b  {given}", **attributes)
    inputs: dict[str, Any] = {"x": (steps, "batch", FEATURES)}
    inputs |= dict.fromkeys(given.split(), (ways, "batch", UNITS))
    return save_model(path, [made], (), constants(operator, seed, ways=ways), inputs=inputs, outputs=("y", *ends))


def constant_start(path: Path, operator: str, **attributes: Any) -> Path:
    """x (STEPS, 1, F) -> y, h_next of a layer that begins with constants."""
    ways = WAYS[attributes.get("direction", "forward")]
    begin = {name: x.reshape(ways, 1, UNITS) for name, x in given(operator, 1, ways=ways).items() if name != "x"}
    made = layer(operator, ("y", "h_next"), f"x w r b  {' '.join(begin)}", **attributes)
    numbers = constants(operator, 0, ways=ways) | begin
    return save_model(path, [made], (STEPS, 1, FEATURES), numbers, outputs=("y", "h_next"))


def compiled(tmp_path: Path, model: Path, samples: dict[str, np.ndarray], **options: Any) -> Image:
    """The image of a model, calibrated on `samples` by input."""
    arrays = {f"x_{name}": x for name, x in samples.items()} if len(samples) > 1 else samples
    np.savez(tmp_path / "c.npz", **arrays)
    chosen = CompileOptions(estimator="min-max", **options)
    made = compile_model(model, HOST, name="m", version="v1", calibration=tmp_path / "c.npz", options=chosen)
    return read_image(made.image)


def given(operator: str, count: int = 24, steps: int = STEPS, ways: int = 1) -> dict[str, np.ndarray]:
    """Samples of `starting` by input."""
    rng = np.random.default_rng(3)
    found = {"x": rng.normal(0.0, 1.0, (count, steps, FEATURES)), "h": rng.uniform(-0.8, 0.8, (count, ways, UNITS))}
    found |= {"c": rng.normal(0.0, 0.7, (count, ways, UNITS))} if operator == "LSTM" else {}
    return {name: x.astype(np.float32) for name, x in found.items()}


def in_onnxruntime(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every output, (N, ...), sample by sample; inputs (N, ...) have their batch as second axis in the file."""
    session = onnxruntime.InferenceSession(path)
    runs = [session.run(None, {name: x[i][:, None] for name, x in inputs.items()}) for i in range(len(inputs["x"]))]
    return [np.stack(parts) for parts in zip(*runs, strict=True)]


def torch_stack(path: Path, operator: str, *, shown: bool = False, sized_by: tuple[str, str] = ("x", "i0")) -> Path:
    """Two layers with batch_first as PyTorch exports them: states of zeros made at run time, cut layer by layer; how
    many is read from `sized_by`, a tensor and the axis of its batch: the turned one where the file's batch is fixed.

    With `shown` the states are inputs h, c (2, N, U) and the joined last ones outputs h_next, c_next.
    """
    names, end = ("h", "c") if operator == "LSTM" else ("h",), np.iinfo(np.int64).max
    numbers = {
        f"{name}{i}": array for i in (0, 1) for name, array in constants(operator, i, (FEATURES, UNITS)[i]).items()
    }
    numbers |= {f"i{v}": np.array([v]) for v in (0, 1, 2, UNITS, end)} | {"axis1": np.array(1)}
    nodes = [node("Transpose", ["x"], "t0", perm=[1, 0, 2])]
    if not shown:
        nodes += [node("Shape", [sized_by[0]], "shape"), node("Gather", ["shape", sized_by[1]], "n")]
        nodes += [node("Concat", ["i2", "n", f"i{UNITS}"], "size", axis=0)]
        nodes += [node("ConstantOfShape", ["size"], "zeros"), node("Expand", ["zeros", "size"], "h")]
        nodes += [node("Identity", ["h"], "c")] if operator == "LSTM" else []
    for i in (0, 1):
        for name in names:
            nodes.append(node("Slice", [name, f"i{i}", f"i{(1, end)[i]}", "i0"], f"{name}_{i}"))
        ends = tuple(f"{name}_end{i}" for name in names)
        given = " ".join(f"{name}_{i}" for name in names)
        nodes.append(layer(operator, (f"y{i}", *ends), f"t{i} w{i} r{i} b{i}  {given}"))
        nodes.append(node("Squeeze", [f"y{i}", "i1"], f"t{i + 1}"))
    nodes.append(node("Transpose", ["t2"], "y", perm=[1, 0, 2]))
    outputs = ["y"]
    for name in names if shown else ():
        nodes.append(node("Concat", [f"{name}_end0", f"{name}_end1"], f"{name}_next", axis=0))
        outputs.append(f"{name}_next")
    inputs: dict[str, Any] = {"x": ("batch", STEPS, FEATURES)}
    inputs |= dict.fromkeys(names if shown else (), (2, "batch", UNITS))
    return save_model(path, nodes, (), numbers, inputs=inputs, outputs=outputs)


def torch_both_ways(path: Path, operator: str, outputs: tuple[str, ...] = ("y", "z")) -> Path:
    """Two bidirectional layers with batch_first as PyTorch exports them, and a dense layer over the last layer's ends
    of both directions: y (N, STEPS, 2 U), z (N, 3)."""
    numbers = {"rows": np.array([0, 0, -1]), "i0": np.array(0), "i1": np.array(1)}
    numbers["g"] = np.random.default_rng(7).normal(0.0, 0.4, (2 * UNITS, 3)).astype(np.float32)
    nodes = [node("Transpose", ["x"], "t0", perm=[1, 0, 2])]
    for i, features in enumerate((FEATURES, 2 * UNITS)):
        numbers |= {f"{name}{i}": array for name, array in constants(operator, i, features, 2).items()}
        nodes.append(layer(operator, (f"y{i}", f"h{i}"), f"t{i} w{i} r{i} b{i}", direction="bidirectional"))
        nodes.append(node("Transpose", [f"y{i}"], f"s{i}", perm=[0, 2, 1, 3]))
        nodes.append(node("Reshape", [f"s{i}", "rows"], f"t{i + 1}"))
    nodes.append(node("Transpose", ["t2"], "y", perm=[1, 0, 2]))
    nodes += [node("Gather", ["h1", f"i{i}"], f"end{i}", axis=0) for i in (0, 1)]
    nodes += [node("Concat", ["end0", "end1"], "ends", axis=1), node("MatMul", ["ends", "g"], "z")]
    return save_model(path, nodes, ("N", STEPS, FEATURES), numbers, outputs=outputs)
