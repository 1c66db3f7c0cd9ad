"""Fits the compiler's instruction estimates to counts on emulated cores: writes its counts.json.

Counted are the five MLPerf Tiny models (TINYFLEET_SHARED) and two sizes of a model that has one of every common
operator. Per core, operator and way through its kernel, non-negative least squares over what the cost is linear in
(`estimate.terms`). Prints the estimate of each model against its count. Run it when kernels have changed:
`make fit-estimates`; with `--check` nothing is written and a model that is off by more than 5 % fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import bench_kernels
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import nnls

from tinyfleet_compiler import compile_model, load_device_class, read_image
from tinyfleet_compiler.describe_op import op_macs
from tinyfleet_compiler.estimate import COUNTS, kind_of, terms
from tinyfleet_compiler.image import Image
from tinyfleet_service.cli.engines import cortex_m

Sample = tuple[tuple[float, ...], int]


def zoo(folder: Path, side: int, channels: int) -> Path:
    """An ONNX model with one of every common operator on (channels, side, side)."""
    rng = np.random.default_rng(side)

    def real(*dims: int) -> np.ndarray:
        return rng.normal(size=dims).astype(np.float32)

    constants = {
        "w": real(channels, channels, 3, 3) / 9,
        "wt": real(channels, channels, 2, 2) / 4,
        "row": real(1, channels, 1, 1),
        "slopes": np.abs(real(channels, 1, 1)),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "starts": np.array([1, 1]),
        "ends": np.array([side + 1, side + 1]),
        "axes": np.array([2, 3]),
        "flat": np.array([0, -1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "places": rng.permutation(channels),
    }
    steps = [
        ("Conv", ["x", "w"], "c", {"pads": [1, 1, 1, 1]}),
        ("Sigmoid", ["c"], "s", {}),
        ("Mul", ["c", "s"], "m", {}),
        ("Add", ["m", "c"], "a", {}),
        ("Sub", ["a", "row"], "d", {}),
        ("Div", ["d", "s"], "q", {}),
        ("PRelu", ["q", "slopes"], "p", {}),
        ("Min", ["p", "m"], "n", {}),
        ("Max", ["n", "row"], "o", {}),
        ("Pad", ["o", "pads"], "pd", {}),
        ("Slice", ["pd", "starts", "ends", "axes"], "sl", {}),
        ("Concat", ["sl", "c"], "cc", {"axis": 1}),
        ("AveragePool", ["cc"], "ap", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", ["ap"], "mp", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Resize", ["mp", "", "scales"], "rs", {"mode": "linear"}),
        ("Gather", ["rs", "places"], "g", {"axis": 1}),
        ("ConvTranspose", ["g", "wt"], "t", {"strides": [1, 1]}),
        ("ReduceMax", ["t"], "rm", {"axes": [1], "keepdims": 1}),
        ("Softmax", ["t"], "sm", {"axis": 1}),
        ("Mul", ["sm", "rm"], "z", {}),
        ("ReduceMean", ["z"], "me", {"axes": [2, 3], "keepdims": 0}),
        ("LogSoftmax", ["me"], "y", {"axis": -1}),
    ]
    nodes = [helper.make_node(op, names, [out], name=out, **more) for op, names, out, more in steps]
    graph = helper.make_graph(
        nodes,
        "zoo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / f"zoo_{side}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.savez(folder / f"zoo_{side}.npz", x=rng.normal(size=(8, channels, side, side)).astype(np.float32))
    return path


def images(target: cortex_m.Target, folder: Path) -> dict[str, Image]:
    """What is counted, by name."""
    found = {key: bench_kernels.build(key, target)[0] for key in bench_kernels.FILES}
    device = load_device_class(target.name)
    for side, channels in ((8, 8), (12, 16)):
        model = zoo(folder, side, channels)
        made = compile_model(model, device, name="zoo", version="1", calibration=model.with_suffix(".npz"))
        found[f"zoo{side}"] = read_image(made.image)
    return found


def count(image: Image, target: cortex_m.Target) -> tuple[int, ...]:
    """Instructions of every op."""
    size = sum(tensor.size_bytes for tensor in image.inputs)
    inputs = np.random.default_rng(0).integers(-128, 128, (1, size)).astype(np.int8)
    layers = cortex_m.run(image, inputs, target=target).layer_instructions
    assert layers is not None
    return layers


def outputs_of(op: Any) -> int:
    """Elements an op writes, from its record."""
    f = op.fields
    if "out_h" in f:
        return int(f["out_h"] * f["out_w"] * (f["out_c"] if "out_c" in f else f["in_c"]))
    if "in_features" in f:
        return int(f["rows"] * f["out_features"])
    if "columns" in f:
        return int(f["rows"] * f["columns"])
    if "outer" in f and "inner" in f:
        return int(f["outer"] * f["inner"])
    if "lengths" in f:
        return int(f["outer"] * sum(f["lengths"]))
    if "before" in f:
        return int(np.prod([b + d + a for b, d, a in zip(f["before"], f["dims"], f["after"], strict=True)]))
    return int(f["size"]) if "size" in f else int(np.prod(f["dims"]))


def fit(samples: list[Sample]) -> list[float]:
    """Non-negative costs of the terms; errors weigh as the square root of what an op costs."""
    weight = np.array([1.0 / np.sqrt(max(cost, 1)) for _, cost in samples])
    matrix = np.array([values for values, _ in samples]) * weight[:, None]
    found, _ = nnls(matrix, np.array([cost for _, cost in samples]) * weight)
    return [round(float(v), 4) for v in found]


def measure(target: cortex_m.Target, folder: Path) -> tuple[dict[str, list[float]], dict[str, tuple[int, float]]]:
    """Costs by operator, and (count, estimate) of every model."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    models: dict[str, list[tuple[str, Sample]]] = {}
    for name, image in images(target, folder).items():
        rows = [
            (kind_of(op.code, op.fields), (terms(op.code, op.fields, outputs_of(op), op_macs(op)), cost))
            for op, cost in zip(image.ops, count(image, target), strict=True)
        ]
        models[name] = rows
        for kind, sample in rows:
            samples[kind].append(sample)
    costs = {kind: fit(found) for kind, found in sorted(samples.items())}
    totals = {
        name: (sum(s[1] for _, s in rows), sum(float(np.dot(costs[kind], s[0])) for kind, s in rows))
        for name, rows in models.items()
    }
    return costs, totals


def main(arguments: list[str]) -> int:
    if not bench_kernels.MODELS.is_dir():
        print("mlperf_tiny is not there: set TINYFLEET_SHARED to the folder that holds models/", file=sys.stderr)
        return 1
    cores, worst = {}, 0.0
    with tempfile.TemporaryDirectory() as name:
        for target in bench_kernels.TARGETS:
            key = target.name if target.kernels != "portable" else f"{target.name}-portable"
            cores[key], totals = measure(target, Path(name))
            for model, (counted, estimated) in totals.items():
                error = estimated / counted - 1
                worst = max(worst, abs(error) if model in bench_kernels.FILES else 0.0)
                print(
                    f"{key:22} {model:6} counted {counted:>11,} estimated {estimated:>13,.0f} {error:+7.2%}", flush=True
                )
    print(f"worst of the five models: {worst:.2%}")
    if "--check" not in arguments:
        COUNTS.write_text(json.dumps({"made_by": "benchmarks/fit_estimates.py", "cores": cores}, indent=1) + "\n")
    return int("--check" in arguments and worst > 0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
