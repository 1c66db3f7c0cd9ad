"""Bad models and bad data: every problem named at once, what to do next, no crash, no hang, nothing read outside."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tinyfleet_compiler import (
    CompileOptions,
    DatasetError,
    DeviceClass,
    ImageError,
    ModelError,
    check_model,
    compile_model,
    load_device_class,
)
from tinyfleet_compiler.importers import onnx_graph, tflite_graph
from tinyfleet_compiler.importers.untaken import ONNX_HELP
from unit.compiler.onnx_models import node, save_model, save_samples, small_cnn

M4 = load_device_class("cortex-m4")


def reasons(path: Path) -> list[str]:
    return [str(p) for p in check_model(path, M4).problems]


def compile_with(model: Path, calibration: Path | None, **more: Any) -> Any:
    return compile_model(model, M4, name="m", version="v1", calibration=calibration, **more)


def test_check_lists_every_unsupported_node_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Einsum", ["x"], "a"),
        node("Relu", ["x"], "b"),
        node("LSTM", ["x"], "c"),
        node("Conv", ["x", "x"], "d"),
        node("Add", ["a", "b"], "e"),
        node("Hardmax", ["e"]),
    ]
    report = check_model(save_model(tmp_path / "m.onnx", nodes, [1, 2, 4, 4]), M4)
    assert not report.fits
    assert [(p.node, p.operator) for p in report.problems] == [
        ("einsum_a", "Einsum"),
        ("lstm_c", "LSTM"),
        ("conv_d", "Conv"),
        ("hardmax_y", "Hardmax"),
    ]
    assert all(p.reason and p.help for p in report.problems)
    with pytest.raises(ModelError) as caught:
        compile_with(tmp_path / "m.onnx", None)
    assert caught.value.problems == report.problems
    assert "hardmax_y" in str(caught.value)


def test_an_operator_that_is_not_taken_is_answered_in_a_line(tmp_path: Path) -> None:
    """What helps, or what comes near; the list of all operators is in the documentation, not in every line."""
    nodes = [
        node("Einsum", ["x"], "a"),
        node("ReduceLogMean", ["x"], "b"),
        node("Bernoulli", ["x"], "c"),
        node("Greater", ["x", "x"]),
    ]
    report = check_model(save_model(tmp_path / "m.onnx", nodes, [1, 4]), M4)
    assert [p.help for p in report.problems] == [
        "write it as MatMul, Mul and ReduceSum",
        "ReduceMean comes near; docs/operators.md lists what is taken",
        "docs/operators.md lists what is taken",
        "compare on the host",
    ]


def test_hints_are_about_operators_that_are_not_taken() -> None:
    assert not ONNX_HELP.keys() & onnx_graph.IMPORTERS.keys()
    assert not tflite_graph.HELP.keys() & tflite_graph.IMPORTERS.keys()


def test_check_gives_sizes_and_misfits(tmp_path: Path) -> None:
    model = small_cnn(tmp_path / "m.onnx")
    report = check_model(model, M4)
    assert report.fits
    assert report.image_bytes
    assert report.arena_bytes
    assert report.macs
    tiny = DeviceClass(**{**M4.__dict__, "arena_bytes": 64, "flash_slot_bytes": 1024})
    misfit = check_model(model, tiny)
    assert [p.reason.split()[1] for p in misfit.problems] == ["image", "arena"]


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        (["N", "C", 4, 4], "symbolic"),
        ([8, 2, 4, 4], "batch of 8"),
        ([1, 2, 0, 4], "positive"),
        ([1, 1 << 40, 1 << 40, 4], "positive"),
        ([4], "dimensions"),
        ([1, 2, 3, 4, 5], "dimensions"),
    ],
)
def test_input_shapes_that_cannot_be_taken(tmp_path: Path, shape: list[Any], word: str) -> None:
    assert word in " ".join(reasons(save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], shape)))


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = small_cnn(tmp_path / "good.onnx").read_bytes()
    for name, data in {"empty": b"", "noise": bytes(range(256)) * 9, "cut": good[: len(good) // 2]}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        assert reasons(path), name
    assert "cannot read" in reasons(tmp_path / "absent.onnx")[0]
    assert reasons(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_models_give_problems_or_compile(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "m.onnx"
    good = small_cnn(path).read_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(damaged))
    report = check_model(path, M4)
    assert report.fits or all(p.reason for p in report.problems)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_a_softmax_over_more_classes_than_its_sum_holds(tmp_path: Path, operator: str) -> None:
    """A device refuses such a record. Float32 has no such bound."""
    path = save_model(tmp_path / "m.onnx", [node(operator, ["x"], axis=-1)], ["N", 4097])
    (problem,) = check_model(path, M4).problems
    assert "at most 4096" in problem.reason
    assert check_model(path, M4, type="float32").fits


def test_a_dilated_pool_that_steps_over_its_input(tmp_path: Path) -> None:
    """Taps at -1 and 2 of two columns: ONNX Runtime gives the lowest float, devices refuse the record."""
    pool = {"kernel_shape": [1, 2], "dilations": [1, 3]}
    path = save_model(tmp_path / "m.onnx", [node("MaxPool", ["x"], pads=[0, 1, 0, 1], **pool)], ["N", 1, 2, 2])
    (reason,) = reasons(path)
    assert "windows over padding alone" in reason
    path = save_model(tmp_path / "m.onnx", [node("MaxPool", ["x"], pads=[0, 1, 0, 1], **pool)], ["N", 1, 2, 3])
    assert not reasons(path)


def test_cyclic_graph(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"])]
    found = reasons(save_model(tmp_path / "m.onnx", nodes, [1, 4]))
    assert len(found) == 3
    assert all("cycle" in reason for reason in found)


def test_tensor_written_twice(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"]), node("Relu", ["x"])]
    assert "written already" in reasons(save_model(tmp_path / "m.onnx", nodes, [1, 4]))[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    weights = np.ones((4, 4), np.float32)
    weights[1, 2] = value
    path = save_model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"])], [1, 4], {"w": weights})
    assert any(("NaN" in reason and "'w'" not in reason) or "w" in reason for reason in reasons(path))


def test_huge_constants_are_refused_without_being_made(tmp_path: Path) -> None:
    shape = np.array([1 << 20, 1 << 20], np.int64)
    nodes = [node("ConstantOfShape", ["s"], "big"), node("MatMul", ["x", "big"])]
    assert "smaller" in reasons(save_model(tmp_path / "m.onnx", nodes, [1, 4], {"s": shape}))[0]


def test_initializer_whose_shape_lies(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"])], [1, 4], {"w": np.ones((4, 4), np.float32)})
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1 << 50
    path.write_bytes(model.SerializeToString())
    assert reasons(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", "absent.bin"])
def test_external_data_outside_the_folder_is_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 4])],
        [value("y", TensorProto.FLOAT, None)],
        [tensor],
    )
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    assert "inside the model's folder" in " ".join(reasons(path))


def test_external_data_inside_the_folder_is_read(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"])], [1, 4], {"w": np.eye(4, dtype=np.float32)})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    assert check_model(path, M4).fits


@pytest.mark.parametrize("opset", [9, 99])
def test_opsets_outside_the_range(tmp_path: Path, opset: int) -> None:
    assert "opset" in reasons(save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], [1, 4], opset=opset))[0]


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"x": np.zeros((4, 8, 6, 2), np.float32)}, "needs (N, 2, 8, 6)"),
        ({"x": np.zeros((0, 2, 8, 6), np.float32)}, "at least 1"),
        ({"x": np.full((2, 2, 8, 6), np.nan, np.float32)}, "finite"),
        ({"z": np.zeros((2, 2, 8, 6), np.float32)}, "no array 'x' or 'x_x'; there are 'z'"),
        ({"x": np.full((2, 2, 8, 6), 1e300)}, "more than float32 holds"),
        ({"x": np.full((2, 2, 8, 6), 3e38, np.float32)}, "to NaN or infinity; check"),
        ({"x": np.zeros((2, 2, 8, 6), np.float32), "y": np.zeros(3)}, "y has shape"),
        ({"x": np.zeros((2, 2, 8, 6), np.float32), "y": np.full((2, 4), np.nan)}, "y holds NaN"),
        ({"x": np.array([object()])}, "cannot read"),
    ],
)
def test_calibration_data_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], word: str) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(DatasetError, match=word.replace("(", r"\(").replace(")", r"\)")):
        compile_with(small_cnn(tmp_path / "m.onnx"), tmp_path / "c.npz")


def _flipped(tmp_path: Path) -> bytes:
    """A compressed file whose deflate stream is damaged."""
    np.savez_compressed(tmp_path / "z.npz", x=np.arange(192, dtype=np.float32).reshape(2, 2, 8, 6))
    data = bytearray((tmp_path / "z.npz").read_bytes())
    data[60:64] = b"\xff\xff\xff\xff"
    return bytes(data)


def _zip_of(name: str, content: bytes, *, flags: int = 0, method: int = 0) -> bytes:
    """One member, stored; its headers then say what they say."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    data = bytearray(archive.getvalue())
    for at in (6, data.index(b"PK\x01\x02") + 8):
        data[at : at + 4] = struct.pack("<HH", flags, method)
    return bytes(data)


def _npy(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue() + bytes(256)


def test_damaged_data_files(tmp_path: Path) -> None:
    model, path = small_cnn(tmp_path / "m.onnx"), tmp_path / "c.npz"
    damaged = {
        "damaged stream": _flipped(tmp_path),
        "no array": _zip_of("x", b"text"),
        "encrypted": _zip_of("x.npy", _npy((1, 2, 8, 6)), flags=1),
        "unknown method": _zip_of("x.npy", _npy((1, 2, 8, 6)), method=99),
        "huge": _zip_of("x.npy", _npy((1 << 40, 2, 8, 6))),
        "no header": _zip_of("x.npy", np.lib.format.magic(1, 0) + b"\x10\x00{'descr': 3,   \n"),
    }
    for data in damaged.values():
        path.write_bytes(data)
        with pytest.raises(DatasetError, match="cannot read"):
            compile_with(model, path)


def test_missing_and_foreign_data_files(tmp_path: Path) -> None:
    model = small_cnn(tmp_path / "m.onnx")
    with pytest.raises(DatasetError, match="--calibration"):
        compile_with(model, None)
    with pytest.raises(DatasetError, match="cannot read"):
        compile_with(model, tmp_path / "absent.npz")
    with pytest.raises(DatasetError, match="cannot read"):
        compile_with(model, model)


def test_metrics_that_the_data_cannot_give(tmp_path: Path) -> None:
    model, data = small_cnn(tmp_path / "m.onnx"), save_samples(tmp_path / "c.npz", (2, 8, 6), 8)
    with pytest.raises(DatasetError, match="unknown metric"):
        compile_with(model, data, evaluation=data, metric="f2")
    with pytest.raises(DatasetError, match="'y'"):
        compile_with(model, data, evaluation=data, metric="top1")


def test_a_base_of_another_model_lends_nothing_and_the_report_says_so(tmp_path: Path) -> None:
    data = save_samples(tmp_path / "c.npz", (2, 8, 6), 8)
    other = save_model(tmp_path / "o.onnx", [node("Relu", ["x"])], [1, 2, 8, 6])
    model, base = small_cnn(tmp_path / "m.onnx"), compile_with(other, data).image
    result = compile_with(model, data, options=CompileOptions(base=base))
    found = result.report["base"]
    assert (found["layers_lent"], found["delta_bytes"]) == (0, None)
    assert "nothing of the base could be used" in found["notes"][-1]
    assert "Nothing of the base could be used" in result.report_html
    with pytest.raises(ImageError):
        compile_with(other, data, options=CompileOptions(base=b"not an image"))


def test_options_are_checked() -> None:
    for wrong in ({"estimator": "guess"}, {"golden_vectors": 0}, {"golden_vectors": 32}):
        with pytest.raises(ValueError, match="use"):
            CompileOptions(**wrong)  # type: ignore[arg-type]
