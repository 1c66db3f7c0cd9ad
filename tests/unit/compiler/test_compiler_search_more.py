"""A search together with a front end, with kept state and against a base."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tinyfleet_compiler import Budgets, CompileOptions, CompileResult, compile_model, load_device_class, read_image
from tinyfleet_compiler.operators import Element, OpCode
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn
from unit.compiler.streaming_models import stream, streaming_cnn
from unit.compiler.test_compiler_features import FILE

HOST = load_device_class("host")
NARROW = {OpCode.CONV_2D_INT4, OpCode.DEPTHWISE_CONV_2D_INT4, OpCode.FULLY_CONNECTED_INT4}


def made(model: Path, calibration: Path, budgets: Budgets | None, **options: Any) -> CompileResult:
    chosen = CompileOptions(search=budgets, **options)
    return compile_model(model, HOST, name="m", version="v", calibration=calibration, options=chosen)


def shrunk(model: Path, calibration: Path, **options: Any) -> CompileResult:
    """With a flash budget that int4 weights of one layer or more keep."""
    limit = made(model, calibration, None, **options).report["image_bytes"] - 20
    result = made(model, calibration, Budgets(flash_bytes=limit), **options)
    assert result.report["quantization"]["search"]["met"]["flash"]
    assert {op.code for op in read_image(result.image).ops} & NARROW
    return result


def test_what_the_device_keeps_stays_int8(tmp_path: Path) -> None:
    model = streaming_cnn(tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=stream(48, 5))
    plain = read_image(made(model, tmp_path / "c.npz", None).image)
    for budgets in (Budgets(flash_bytes=1), Budgets(accuracy_points=0.0)):
        result = made(model, tmp_path / "c.npz", budgets)
        image, found = read_image(result.image), result.report["quantization"]["search"]
        assert [(s.name, s.size_bytes) for s in image.states] == [(s.name, s.size_bytes) for s in plain.states]
        assert image.state_bytes == plain.state_bytes
        assert len(found["steps"]) > 1
        assert found["steps"][0]["agreement"] > 0.9
        assert [t.element for t in (*image.inputs, *image.outputs)] == [Element.INT8] * 2


def behind_audio(folder: Path) -> Path:
    weights = {
        "w": np.random.default_rng(1).normal(size=(6, 1, 3, 3)).astype(np.float32),
        "v": np.random.default_rng(2).normal(size=(6, 40)).astype(np.float32).T[:6],
    }
    nodes = [node("Conv", ["x", "w"], "c", strides=[2, 2]), node("GlobalAveragePool", ["c"], "g"),
             node("Flatten", ["g"], "f"), node("MatMul", ["f", "v"])]  # fmt: skip
    return save_model(folder / "m.onnx", nodes, ["N", 1, 18, 20], weights)


@pytest.mark.parametrize("kind", ["features", "recordings"])
def test_the_network_behind_a_front_end_is_searched(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 1, 18, 20)) * 2 - 8 if kind == "features" else rng.uniform(-0.5, 0.5, (24, 1600))
    np.savez(tmp_path / "c.npz", x=x.astype(np.float32))
    result = shrunk(behind_audio(tmp_path), tmp_path / "c.npz", front_end=FILE)
    image = read_image(result.image)
    assert image.ops[0].code is OpCode.FEATURES
    assert image.inputs[0].element is Element.INT16


def fine_tuned(source: Path, out: Path) -> Path:
    model, rng = onnx.load(source), np.random.default_rng(4)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        changed = (value * (1 + 0.02 * rng.normal(size=value.shape))).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, out)
    return out


def test_against_a_base_only_what_a_budget_asks_for_changes(tmp_path: Path) -> None:
    first, data = small_cnn(tmp_path / "a.onnx"), save_samples(tmp_path / "c.npz", (2, 8, 6), 64)
    base = made(first, data, None).image
    second = fine_tuned(first, tmp_path / "b.onnx")
    plain, searched = made(second, data, None, base=base), made(second, data, Budgets(), base=base)
    assert searched.image == plain.image  # nothing to gain within the budgets: not one byte more to send
    small = shrunk(second, data, base=base)
    assert small.report["base"]["layers_lent"]
    old, new = read_image(plain.image), read_image(small.image)
    same = [(a, b) for a, b in zip(old.ops, new.ops, strict=True) if a.code is b.code and a.code is OpCode.CONV_2D]
    assert same
    weights = [[image.section_array(next(s for s in image.sections if s.offset == op.weights)) for image, op in
                ((old, a), (new, b))] for a, b in same]  # fmt: skip
    assert all(np.array_equal(before, after) for before, after in weights)
    assert list(old.scales) == list(new.scales)
