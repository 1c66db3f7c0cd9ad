"""TFLite files as users bring them: float borders, uint8, unsupported operators; and damaged or hostile ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler import DatasetError, ModelError, check_model, compile_model, simulate
from tinyfleet_compiler.importers import import_model
from tinyfleet_compiler.importers.tflite_graph import import_tflite
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.registry.build_options import BuildOptions
from tinyfleet_service.registry.uploads import Uploads, check_uploads
from unit.compiler.tflite_models import HOST, Builder, codes, compiled_image, oracle, schema

fuzz = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small(**changes: object) -> bytes:
    """Convolution, pool, reshape, fully connected and softmax on (1, 6, 5, 2)."""
    rng = np.random.default_rng(3)
    built = Builder()
    x = built.tensor((1, 6, 5, 2), changes.get("scale", 0.05), changes.get("zero_point", 3), name="x")
    w = built.tensor((4, 3, 3, 2), [0.01] * 4, data=codes(rng, 4, 3, 3, 2))
    b = built.tensor((4,), [0.0005] * 4, data=np.array([10, -10, 300, 0], np.int32))
    c = built.tensor((1, 6, 5, 4), 0.06, -128)
    built.operator("CONV_2D", [x, w, b], c, 3, kind="Conv2DOptions", strideH=1, strideW=1, fusedActivationFunction=1)
    p = built.tensor((1, 3, 2, 4), 0.06, -128)
    options = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2, "padding": 1}
    built.operator("MAX_POOL_2D", [c], p, 2, kind="Pool2DOptions", **options)
    f = built.tensor((1, 24), 0.06, -128)
    built.operator("RESHAPE", [p], f, kind="ReshapeOptions", newShape=[1, 24])
    v = built.tensor((3, 24), 0.02, data=codes(rng, 3, 24))
    g = built.tensor((1, 3), 0.1, 5)
    built.operator("FULLY_CONNECTED", [f, v, -1], g, 4, kind="FullyConnectedOptions")
    y = built.tensor((1, 3), 1 / 256, -128, name="probabilities")
    built.operator(str(changes.get("last", "SOFTMAX")), [g], y, 2, kind="SoftmaxOptions", beta=1.0)
    return built.data([x], [y])


def problems(folder: Path, data: bytes) -> list[str]:
    path = folder / "bad.tflite"
    path.write_bytes(data)
    return [str(p) for p in check_model(path, HOST).problems]


def test_small_model_is_taken_as_it_is(tmp_path: Path) -> None:
    image = compiled_image(tmp_path, small())
    assert [t.name for t in (*image.inputs, *image.outputs)] == ["x", "probabilities"]
    assert (image.inputs[0].scale, image.inputs[0].zero_point) == (np.float32(0.05), 3)
    x = codes(np.random.default_rng(0), 20, 6, 5, 2)
    np.testing.assert_array_equal(simulate(image, x)["probabilities"], oracle(small(), [x])[0])


def test_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(small())
    assert import_model(tmp_path / "model.onnx").graph is not None
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(ModelError, match="not a TFLite model"):
        import_model(tmp_path / "text.tflite")
    with pytest.raises(ModelError, match="cannot read"):
        import_tflite(tmp_path / "missing.tflite")


@pytest.mark.parametrize("kind", ["f4", "u1"])
def test_borders(tmp_path: Path, kind: str) -> None:
    """A float or uint8 input is held as codes; a float output gives out codes with their scale."""
    built = Builder()
    first = built.tensor((1, 8), 0.1 if kind == "u1" else None, 128, kind=kind, name="in")
    x = built.tensor((1, 8), 0.1, 0)
    built.operator("QUANTIZE", [first], x, kind="QuantizeOptions")
    r = built.tensor((1, 8), 0.05, -128)
    built.operator("RELU", [x], r)
    last = built.tensor((1, 8), kind="f4", name="out")
    built.operator("DEQUANTIZE", [r], last, 2, kind="DequantizeOptions")
    data = built.data([first], [last])
    image = compiled_image(tmp_path, data)
    assert [t.name for t in (*image.inputs, *image.outputs)] == ["in", "out"]
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 256, (9, 8)).astype(np.uint8)
    x_in = whole if kind == "u1" else rng.normal(size=(9, 8)).astype(np.float32) * 9
    given_codes = (whole.astype(np.int16) - 128).astype(np.int8) if kind == "u1" else x_in
    got = simulate(image, given_codes)["out"].astype(np.float32)
    np.testing.assert_array_equal((got + 128) * np.float32(0.05), oracle(data, [x_in])[0])


def test_float_model_needs_calibration(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(float_model())
    with pytest.raises(DatasetError, match="needs calibration"):
        compile_model(path, HOST, name="m", version="v1", calibration=None)


def test_a_push_asks_for_calibration_only_where_it_is_used(tmp_path: Path) -> None:
    quantized, real = tmp_path / "quantized", tmp_path / "real"
    quantized.write_bytes(small())
    real.write_bytes(float_model())
    check_uploads(Uploads(quantized), BuildOptions(), 1 << 20)
    with pytest.raises(InvalidInputError, match="needs calibration"):
        check_uploads(Uploads(real), BuildOptions(), 1 << 20)
    np.savez(tmp_path / "e.npz", x=np.zeros((2, 6, 5, 3), np.int8))
    with pytest.raises(InvalidInputError, match="the evaluation file"):
        check_uploads(Uploads(quantized, evaluation=tmp_path / "e.npz"), BuildOptions(), 1 << 20)


def float_model() -> bytes:
    rng = np.random.default_rng(4)

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * 0.3).astype(np.float32)

    built = Builder()
    x = built.tensor((1, 7, 6, 3), kind="f4", name="x")
    c = built.tensor((1, 4, 3, 6), kind="f4")
    used = [x, built.tensor((1, 3, 3, 6), data=normal(1, 3, 3, 6)), built.tensor((6,), data=normal(6))]
    options = {"strideH": 2, "strideW": 2, "depthMultiplier": 2, "fusedActivationFunction": 1}
    built.operator("DEPTHWISE_CONV_2D", used, c, kind="DepthwiseConv2DOptions", **options)
    d = built.tensor((1, 4, 3, 6), kind="f4")
    built.operator("ADD", [c, built.tensor((6,), data=normal(6))], d, kind="AddOptions")
    f = built.tensor((1, 72), kind="f4")
    built.operator("RESHAPE", [d], f, kind="ReshapeOptions", newShape=[1, 72])
    y = built.tensor((1, 5), kind="f4", name="y")
    built.operator(
        "FULLY_CONNECTED", [f, built.tensor((5, 72), data=normal(5, 72)), -1], y, kind="FullyConnectedOptions"
    )
    return built.data([x], [y])


def test_float_model_is_quantised_near_tflm_s_float(tmp_path: Path) -> None:
    path, data = tmp_path / "m.tflite", float_model()
    path.write_bytes(data)
    x = np.random.default_rng(5).normal(size=(64, 7, 6, 3)).astype(np.float32)
    (wanted,) = oracle(data, [x])
    np.savez(tmp_path / "c.npz", x=x, y=wanted)
    result = compile_model(
        path, HOST, name="m", version="v1", calibration=tmp_path / "c.npz", evaluation=tmp_path / "c.npz"
    )
    accuracy = result.report["accuracy"]
    assert accuracy["metric"] == "mse"
    assert accuracy["float"] < 1e-10 * float(np.square(wanted).mean())
    assert accuracy["quantized"] < 1e-3 * float(np.square(wanted).mean())


def test_uint8_is_int8_shifted(tmp_path: Path) -> None:
    """Activations, weights and their zero points 128 higher make the same image."""

    def model(kind: str, shift: int) -> bytes:
        rng = np.random.default_rng(6)

        def shifted(*shape: int) -> np.ndarray:
            return (codes(rng, *shape).clip(-127).astype(np.int16) + shift).astype(f"<{kind}")

        built = Builder()
        x = built.tensor((1, 5, 5, 3), 0.1, 7 + shift, kind=kind, name="x")
        w = built.tensor((4, 3, 3, 3), 0.02, shift, data=shifted(4, 3, 3, 3))
        c = built.tensor((1, 3, 3, 4), 0.3, -5 + shift, kind=kind)
        b = built.tensor((4,), 0.002, data=np.array([5, -900, 20, 0], np.int32))
        built.operator("CONV_2D", [x, w, b], c, 3, kind="Conv2DOptions", strideH=1, strideW=1, padding=1)
        y = built.tensor((1, 3, 3, 4), 0.4, 9 + shift, kind=kind, name="y")
        other = built.tensor((1, 1, 1, 4), 0.2, 3 + shift, data=shifted(1, 1, 1, 4))
        built.operator("ADD", [c, other], y, 2, kind="AddOptions")
        return built.data([x], [y])

    shifted, plain = (compiled_image(tmp_path, model(k, s)) for k, s in (("u1", 128), ("i1", 0)))
    assert shifted.data == plain.data


def test_every_unsupported_operator_is_listed(tmp_path: Path) -> None:
    built = Builder()
    x = built.tensor((1, 4), 0.1)
    a, b, y = (built.tensor((1, 4), 0.1) for _ in range(3))
    built.operator("UNIQUE", [x], a)
    built.operator("RELU", [x], b)
    built.operator("SEGMENT_SUM", [b, b], y)
    found = problems(tmp_path, built.data([x], [y]))
    assert [p.split(":")[0] for p in found] == ["UNIQUE 't1'", "SEGMENT_SUM 't3'"]
    assert all("is not supported" in p for p in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 0.0}, "scale 0"),
        ({"scale": float("nan")}, "scale nan"),
        ({"scale": -1.0}, "scale -1"),
        ({"zero_point": 500}, "zero point 500"),
        ({"scale": [0.1, 0.2], "zero_point": 0}, "2 scales"),
        ({"scale": 3e38}, "beyond int32"),
    ],
)
def test_bad_quantisation_names_the_tensor(tmp_path: Path, change: dict[str, object], words: str) -> None:
    found = problems(tmp_path, small(**change))
    assert len(found) == 1
    assert words in found[0]


def test_int16_activations_have_no_zero_point(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4), 0.1, kind="i2"), built.tensor((1, 4), 0.1, 5, kind="i2")
    built.operator("RELU", [x], y)
    assert "zero point 5" in problems(tmp_path, built.data([x], [y]))[0]


def test_types_meet_only_in_a_quantize(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4), 0.1, kind="i2"), built.tensor((1, 4), 0.1)
    built.operator("RELU", [x], y)
    assert "put a QUANTIZE between them" in problems(tmp_path, built.data([x], [y]))[0]


def test_int16_layers_need_wide_biases(tmp_path: Path) -> None:
    built = Builder()
    x = built.tensor((1, 2), 0.1, kind="i2")
    w = built.tensor((1, 2), 0.1, data=np.array([[127, 127]], np.int8))
    b = built.tensor((1,), 0.01, data=np.array([5], np.int32))
    y = built.tensor((1, 1), 10.0, kind="i2")
    built.operator("FULLY_CONNECTED", [x, w, b], y, 4, kind="FullyConnectedOptions")
    assert "use an int64 bias" in problems(tmp_path, built.data([x], [y]))[0]


def test_sums_beyond_int32_are_refused(tmp_path: Path) -> None:
    built = Builder()
    x = built.tensor((1, 2), 0.1, -128)
    w = built.tensor((1, 2), 0.1, data=np.array([[127, 127]], np.int8))
    b = built.tensor((1,), 0.01, data=np.array([2**31 - 1], np.int32))
    y = built.tensor((1, 1), 10.0)
    built.operator("FULLY_CONNECTED", [x, w, b], y, 4, kind="FullyConnectedOptions")
    assert "beyond int32" in problems(tmp_path, built.data([x], [y]))[0]


def test_huge_models_are_refused_before_they_run(tmp_path: Path) -> None:
    built = Builder()
    x = built.tensor((1, 8000, 8000, 1), 0.1)
    w = built.tensor((1, 200, 200, 1), 0.1, data=np.ones((1, 200, 200, 1), np.int8))
    y = built.tensor((1, 8000, 8000, 1), 0.1)
    built.operator("CONV_2D", [x, w, -1], y, 3, kind="Conv2DOptions", strideH=1, strideW=1)
    assert "multiplications" in problems(tmp_path, built.data([x], [y]))[0]


def test_a_second_graph_that_nothing_calls_is_left_alone(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4), 0.1), built.tensor((1, 4), 0.1)
    built.operator("RELU", [x], y)
    built.model.subgraphs.append(schema.SubGraphT())
    assert not problems(tmp_path, built.data([x], [y]))


@pytest.mark.parametrize("size", [0, 4, 7, 8, 12, 40, 200, 1000])
def test_truncated_files(tmp_path: Path, size: int) -> None:
    assert problems(tmp_path, small()[:size])


@fuzz
@given(st.data())
def test_damaged_files_give_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    """Words and bytes anywhere in the file, wild offsets among them: an image or a list of problems, nothing else."""
    body = bytearray(small())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 4))
        wild = st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, len(body)]) | st.integers(
            0, 2**32 - 1
        )
        body[at : at + 4] = data.draw(wild).to_bytes(4, "little")
    problems(tmp_path, bytes(body))
