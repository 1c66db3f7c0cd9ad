"""Masks of attention as constants: int8 keeps its steps for the scores beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from tinyfleet_compiler import CompileOptions, check_model, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.dataset import to_device_order, to_source_order
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.operators import Element
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_products import attention

HOST = load_device_class("host")


def in_float(path: Path, x: dict[str, np.ndarray], *, runtime: bool = True) -> np.ndarray:
    """Of ONNX Runtime, or of ONNX's own evaluator."""
    session = onnxruntime.InferenceSession(path) if runtime else ReferenceEvaluator(str(path))
    rows = [{name: a[i : i + 1] for name, a in x.items()} for i in range(len(next(iter(x.values()))))]
    return np.concatenate([session.run(None, row)[0] for row in rows])


def real(image: Image, x: dict[str, np.ndarray]) -> np.ndarray:
    """What an image gives, in the file's order."""
    out = image.outputs[0]
    codes = simulate(image, {t.name: to_device_order(x[t.name], t.source_layout) for t in image.inputs})[out.name]
    values = codes if out.element is Element.FLOAT32 else (codes.astype(np.float64) - out.zero_point) * out.scale
    return to_source_order(values, out.source_layout)


def compiled(tmp_path: Path, path: Path, x: dict[str, np.ndarray], **options: Any) -> Image:
    np.savez(tmp_path / "c.npz", **({f"x_{n}": a for n, a in x.items()} if len(x) > 1 else x))
    calibration = None if options.get("type") else tmp_path / "c.npz"
    chosen = CompileOptions(**options)
    return read_image(compile_model(path, HOST, name="m", version="1", calibration=calibration, options=chosen).image)


def snr_db(made: np.ndarray, wanted: np.ndarray) -> float:
    error = made.reshape(-1) - wanted.reshape(-1).astype(np.float64)
    return float(10.0 * np.log10((wanted.astype(np.float64) ** 2).sum() / (error**2).sum()))


@pytest.mark.parametrize("estimator", ["auto", "min-max"])
@pytest.mark.parametrize("lowest", [-1e4, -1e9, float(np.finfo(np.float32).min)])
def test_a_mask_that_an_exporter_wrote_out(tmp_path: Path, lowest: float, estimator: str) -> None:
    """PyTorch's products and sums: the mask takes none of the scores' steps."""
    nodes, constants = attention()
    at = next(i for i, made in enumerate(nodes) if made.op_type == "Softmax")
    nodes[at].input[0] = "counted"
    nodes.insert(at, node("Add", ["d", "mask"], "counted"))
    ahead = np.triu(np.ones((6, 6), np.bool_), 1)
    constants |= {"mask": np.where(ahead, lowest, 0.0).astype(np.float32)[None, None]}
    path = save_model(tmp_path / "m.onnx", nodes, [1, 6, 8], constants)
    x = {"x": np.random.default_rng(1).normal(size=(32, 6, 8)).astype(np.float32)}
    assert check_model(path, HOST).fits
    image = compiled(tmp_path, path, x, estimator=estimator)
    assert snr_db(real(image, x), in_float(path, x)) >= 28.0


def test_what_others_read_stays_as_it_is(tmp_path: Path) -> None:
    """The sum is given out, too: nobody may bound it."""
    nodes = [node("Sigmoid", ["x"], "s"), node("Add", ["s", "mask"], "m"), node("Softmax", ["m"], axis=-1)]
    mask = np.where(np.arange(4) > 1, -1e5, 0.0).astype(np.float32)
    path = save_model(tmp_path / "m.onnx", nodes, [1, 3, 4], {"mask": mask}, outputs=("y", "m"))
    x = {"x": np.random.default_rng(1).normal(size=(8, 3, 4)).astype(np.float32)}
    shown = next(out for out in compiled(tmp_path, path, x, estimator="min-max").outputs if out.name == "m")
    assert shown.scale > 300.0
