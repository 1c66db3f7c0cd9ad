"""Audio front ends: integers within a step of real arithmetic, ONNX forms equal to ONNX Runtime, files checked."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from scipy.io import wavfile

from tinyfleet_compiler import CompileOptions, check_model, compile_model, load_device_class, read_image, simulate
from tinyfleet_compiler.errors import ModelError
from tinyfleet_compiler.float_run import run_float
from tinyfleet_compiler.front_end_file import read_front_end
from tinyfleet_compiler.importers import import_model
from tinyfleet_compiler.kernels.features import log2_q16, real_fft, square_root
from tinyfleet_compiler.kernels.int8 import KERNELS
from tinyfleet_compiler.mel import dct_matrix, make_window, mel_filters
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.quantize.parameters import from_range
from tinyfleet_compiler.simulate import as_bytes
from unit.compiler.front_ends import features_image, full_scale, random_front_end, signals
from unit.compiler.onnx_models import node, save_model

DIGITS = """
samples = 8000
rate_hz = 8000
frame = 320
hop = 160
fft = 512
mels = 40
low_hz = 20
coefficients = 10
sample_type = "int32"
"""
FILE = """
samples = 1600
rate_hz = 8000
frame = 200
hop = 80
mels = 20
"""


@pytest.mark.parametrize("seed", range(25))
def test_integers_stay_within_a_step_of_real_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    front, samples = random_front_end(rng)
    codes = signals(rng, samples, wide=front.wide)
    real = front.features(codes * full_scale(front))
    result = from_range(float(real.min()), float(real.max()))
    got = simulate(read_image(features_image(front, samples, result)), codes)["y"]
    wanted = quantize(real, result.scale, result.zero_point)
    assert np.abs(got.astype(int) - wanted).max() <= 1
    assert (got == wanted).mean() > 0.93


def test_transform_is_the_dft() -> None:
    rng = np.random.default_rng(3)
    for log2 in (4, 7, 10):
        n = 1 << log2
        x = rng.integers(-(2**18), 2**18, (3, n - 3))
        sine = np.round(np.sin(np.arange(n // 4 + 1) * 2 * np.pi / n) * 2**30).astype(np.int64)
        re, im = real_fft(x, sine, log2)
        exact = 2 * np.fft.rfft(x, n)
        assert np.abs(re - exact.real).max() <= 4 * log2
        assert np.abs(im - exact.imag).max() <= 4 * log2


def test_roots_and_logarithms() -> None:
    values = np.array(
        [1, 2, 3, 4, 15, 16, 17, 2**31 - 1, 2**52 + 1, (2**30 + 1) ** 2 - 1, (2**30 + 1) ** 2, 2**62], np.int64
    )
    assert square_root(values).tolist() == [int(np.floor(np.sqrt(np.longdouble(v)))) for v in values.tolist()]
    error = log2_q16(values) / 65536 - np.log2(values.astype(np.float64))
    assert error.max() <= 1e-9
    assert error.min() >= -2.1 / 65536


# ---- ONNX


def stft(mel: np.ndarray, window: np.ndarray, *, magnitude: bool, clip: bool) -> tuple[list[Any], dict[str, Any]]:
    energy = (
        [node("ReduceL2", ["s"], "e", axes=[-1], keepdims=0)]
        if magnitude
        else [node("Mul", ["s", "s"], "sq"), node("ReduceSum", ["sq", "last"], "e", keepdims=0)]
    )
    floor = [node("Clip", ["m", "eps"], "f")] if clip else [node("Add", ["m", "eps"], "f")]
    nodes = [
        node("STFT", ["x", "hop", "window", "length"], "s"),
        *energy,
        node("MatMul", ["e", "mel"], "m"),
        *floor,
        node("Log", ["f"], "l"),
        node("MatMul", ["l", "dct"], "c"),
        node("Sub", ["c", "mean"], "d"),
        node("Div", ["d", "std"], "y"),
    ]
    constants = {
        "hop": np.int64(64),
        "length": np.int64(128),
        "window": window.astype(np.float32),
        "last": np.array([-1]),
        "mel": mel.T.astype(np.float32),
        "eps": np.float32(1e-4),
        "dct": dct_matrix(8, 16).T.astype(np.float32),
        "mean": np.linspace(-3, 1, 8).astype(np.float32),
        "std": np.linspace(1, 3, 8).astype(np.float32),
    }
    return nodes, constants


def torch_like(mel: np.ndarray, window: np.ndarray) -> tuple[list[Any], dict[str, Any]]:
    """Parts picked and squared apart, the spectrum turned to (bins, frames), filters multiplied from the left."""
    nodes = [
        node("STFT", ["x", "hop", "window"], "s"),
        node("Gather", ["s", "zero"], "re", axis=3),
        node("Gather", ["s", "one"], "im", axis=3),
        node("Pow", ["re", "two"], "re2"),
        node("Mul", ["im", "im"], "im2"),
        node("Add", ["re2", "im2"], "p"),
        node("Transpose", ["p"], "t", perm=[0, 2, 1]),
        node("MatMul", ["mel", "t"], "m"),
        node("Max", ["m", "eps"], "f"),
        node("Log", ["f"], "l"),
        node("Mul", ["l", "db"], "y"),
    ]
    constants = {"hop": np.int64(100), "window": window.astype(np.float32), "zero": np.int64(0), "one": np.int64(1)}
    constants |= {
        "two": np.float32(2),
        "mel": mel.astype(np.float32),
        "eps": np.float32(1e-5),
        "db": np.float32(4.3429),
    }
    return nodes, constants


def framed(mel: np.ndarray, window: np.ndarray) -> tuple[list[Any], dict[str, Any]]:
    """Frames by Gather, a window, DFT of more points than a frame has, ONNX's own window and filter operators."""
    nodes = [
        node("Gather", ["x", "places"], "fr", axis=1),
        node("HannWindow", ["size"], "window", periodic=0),
        node("Mul", ["fr", "window"], "w"),
        node("Unsqueeze", ["w", "three"], "u"),
        node("DFT", ["u", "points"], "s", axis=2, onesided=1),
        node("ReduceSumSquare", ["s"], "e", axes=[3], keepdims=0),
        node("MelWeightMatrix", ["mels", "points", "rate", "low", "high"], "mel"),
        node("MatMul", ["e", "mel"], "m"),
        node("Add", ["m", "eps"], "f"),
        node("Log", ["f"], "y"),
    ]
    constants = {
        "places": np.arange(9)[:, None] * 80 + np.arange(100),
        "size": np.int64(100),
        "three": np.array([3]),
        "points": np.int64(128),
        "mels": np.int64(10),
        "rate": np.int64(8000),
        "low": np.float32(100),
        "high": np.float32(3900),
        "eps": np.float32(1e-3),
    }
    return nodes, constants


MEL = mel_filters(16, 128, 8000, 20, 4000, "htk", False)
WINDOW = make_window("hann-periodic", 128)
FORMS = {
    "power": stft(MEL, WINDOW, magnitude=False, clip=False),
    "magnitude": stft(MEL, WINDOW, magnitude=True, clip=True),
    "torch": torch_like(MEL, WINDOW),
    "framed": framed(MEL, WINDOW),
}


@pytest.mark.parametrize("form", FORMS)
def test_onnx_front_ends_become_one_node_that_computes_the_same(form: str, tmp_path: Path) -> None:
    nodes, constants = FORMS[form]
    shape = ["N", 800] if form == "framed" else ["N", 800, 1]
    model = save_model(tmp_path / "m.onnx", nodes, shape, constants)
    imported = import_model(model)
    assert imported.graph is not None, imported.problems
    kinds = [type(n).__name__ for n in imported.graph.nodes]
    assert kinds == (["Features", "Transpose"] if form == "torch" else ["Features"])
    x = (0.1 * np.random.default_rng(1).normal(size=(3, 800))).astype(np.float32)
    given = x if form == "framed" else x[..., None]
    wanted = onnxruntime.InferenceSession(model.read_bytes()).run(None, {"x": given})[0]
    got = next(iter(run_float(imported.graph, {"x": x}).values()))
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)


def test_front_end_and_network_in_one_onnx_file(tmp_path: Path) -> None:
    nodes, constants = stft(MEL, WINDOW, magnitude=False, clip=False)
    rng = np.random.default_rng(2)
    nodes = [*nodes[:-1], node("Div", ["d", "std"], "z"), node("Flatten", ["z"], "v"), node("Gemm", ["v", "w"], "y")]
    constants |= {"w": rng.normal(size=(11 * 8, 3)).astype(np.float32) / 9}
    model = save_model(tmp_path / "m.onnx", nodes, ["N", 800, 1], constants)
    x = (0.1 * rng.normal(size=(40, 800, 1))).astype(np.float32)
    np.savez(tmp_path / "c.npz", x=x)
    m4 = load_device_class("cortex-m4")
    assert check_model(model, m4).fits
    result = compile_model(model, m4, name="n", version="1", calibration=tmp_path / "c.npz")
    image = read_image(result.image)
    assert image.inputs[0].element is Element.INT16
    assert image.inputs[0].scale == 2.0**-15
    wanted = onnxruntime.InferenceSession(model.read_bytes()).run(None, {"x": x})[0]
    out = image.outputs[0]
    got = (simulate(image, x)["y"].astype(float) - out.zero_point) * out.scale
    assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.95


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "two-sided": ({"onesided": 0}, "two-sided"),
    "no power of two": ({"length": np.int64(100), "window": np.ones(100, np.float32)}, "100 points"),
    "negative filters": ({"mel": -MEL.T.astype(np.float32)}, "below zero"),
    "hop of zero": ({"hop": np.int64(0)}, "frame_step"),
    "endless frame": ({"length": np.int64(2**40), "window": np.ones(128, np.float32)}, "frame_length"),
    "longer than the recording": ({"length": np.int64(1024), "window": np.ones(1024, np.float32)}, "whole frame"),
    "NaN window": ({"window": np.full(128, np.nan, np.float32)}, "window"),
    "no floor": ({"eps": np.float32(0)}, "before its logarithm"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_stands_in_the_way_is_named(case: str, tmp_path: Path) -> None:
    changes, reason = HOSTILE[case]
    nodes, constants = stft(MEL, WINDOW, magnitude=False, clip=False)
    if "onesided" in changes:
        nodes[0].attribute.append(helper.make_attribute("onesided", 0))
    constants |= {k: v for k, v in changes.items() if k in constants}
    report = check_model(save_model(tmp_path / "m.onnx", nodes, ["N", 800, 1], constants), load_device_class("host"))
    assert any(reason in str(problem) for problem in report.problems), report.problems


# ---- the front-end file


@pytest.mark.parametrize("name", ["hamming", "hann", "blackman"])
def test_windows_are_those_that_audio_libraries_mean(name: str) -> None:
    """ONNX alone has 25/46 in its Hamming window."""
    numpys = {"hamming": np.hamming, "hann": np.hanning, "blackman": np.blackman}[name]
    np.testing.assert_allclose(make_window(name, 320), numpys(320), atol=1e-15)
    np.testing.assert_allclose(make_window(f"{name}-periodic", 320), numpys(321)[:320], atol=1e-15)
    assert make_window("onnx-hamming", 320)[0] == pytest.approx(4 / 46)


def test_front_end_file_defaults() -> None:
    front, samples = read_front_end(FILE)
    assert (front.fft, front.shape, samples) == (256, (18, 20), 1600)
    np.testing.assert_array_equal(front.matrix, np.eye(20))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("hopp = 3", "hopp"),
        ("fft = 300", "fft"),
        ('window = "sinc"', "window"),
        ('sample_type = "int24"', "sample_type"),
        ("std = [0.0]", "std"),
        ("mean = [1.0, 2.0]", "mean"),
        ("high_hz = 5000", "high_hz"),
        ("coefficients = 21", "coefficients"),
        ("floor = 0", "floor"),
        ("floor = nan", "floor"),
        ("low_hz = true", "low_hz"),
        ("= 3", "TOML"),
        ("low_hz = 1" + "0" * 5000, "TOML"),
        ("mean = " + "[" * 5000, "TOML"),
        ("low_hz = 1" + "0" * 400, "low_hz"),
        ("mean = [1" + "0" * 400 + "]", "mean"),
        ("std = [1e-300]", "std"),
    ],
)
def test_wrong_front_end_files_name_the_key(line: str, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_front_end(FILE + line + "\n")


def test_every_missing_key_is_named_at_once() -> None:
    with pytest.raises(ModelError) as error:
        read_front_end("window = 3\nrate_hz = '8'")
    assert {p.node for p in error.value.problems} == {"samples", "rate_hz", "frame", "hop", "mels", "window"}


def test_front_end_that_does_not_meet_the_model(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.onnx", [node("Relu", ["x"])], ["N", 7, 9])
    report = check_model(model, load_device_class("host"), FILE)
    assert "18 frames of 20 features" in str(report.problems[0])


# ---- the study models

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
WAVES, KWS = SHARED / "data" / "digits_wav", SHARED / "models" / "kws_digits"


@pytest.mark.skipif(not WAVES.is_dir(), reason=f"no recordings at {WAVES}; set TINYFLEET_SHARED")
def test_spoken_digits_from_recordings(tmp_path: Path) -> None:
    text, recordings, labels, real = digits(tmp_path)
    options = CompileOptions(front_end=text, estimator="mse")
    m4 = load_device_class("cortex-m4")
    made = compile_model(
        KWS / "kws_v2.onnx", m4, name="k", version="2", calibration=tmp_path / "c.npz", options=options
    )
    image = read_image(made.image)
    codes = np.round(recordings * 2.0**31).astype(np.int32)
    got = next(iter(simulate(image, codes).values()))
    session = onnxruntime.InferenceSession((KWS / "kws_v2.onnx").read_bytes())
    wanted = session.run(None, {"input": real[:, None]})[0]
    assert (got.argmax(1) != wanted.argmax(1)).sum() <= 1
    assert (got.argmax(1) == labels).mean() >= 0.95
    features = KERNELS[image.ops[0].code](image, image.ops[0], as_bytes(codes))
    step = made.report["layers"][0]
    real_codes = quantize(real, step["output_scale"], step["output_zero_point"]).reshape(60, -1)
    assert np.abs(features.astype(int) - real_codes).max() <= 1


def digits(folder: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(front-end file, recordings (60, 8000), labels, float features (60, 49, 10)) by the study's own float code."""
    spec = importlib.util.spec_from_file_location("digit_features", WAVES / "features.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    waves = sorted(WAVES.glob("*.wav"))
    recordings = np.stack([reference.normalise(wavfile.read(path)[1]) for path in waves])
    real = np.concatenate([reference.features(path, KWS / "calibration.npz") for path in waves])
    stats = np.load(KWS / "calibration.npz")
    np.savez(folder / "c.npz", x=stats["x"])
    text = DIGITS + f"mean = {stats['mfcc_mean'].tolist()}\nstd = {stats['mfcc_std'].tolist()}\n"
    return text, recordings, np.array([int(path.name[0]) for path in waves]), real
