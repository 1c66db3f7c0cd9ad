"""The five MLPerf Tiny models, taken as they are: every tensor is what TensorFlow Lite Micro computes."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import compile_model, load_device_class, read_image
from tinyfleet_compiler.compile_graph import Identity, compile_graph
from tinyfleet_compiler.importers.tflite_file import load_tflite
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.simulate import golden_bytes
from tinyfleet_service.cli.engines import run_image
from tinyfleet_service.errors import UnavailableError
from unit.compiler.tflite_models import codes, compiled_image, oracle, traced

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
FOLDER = SHARED / "models" / "mlperf_tiny"
M4 = load_device_class("cortex-m4")
ARENAS = {
    "ad_autoencoder": 768,
    "ic_resnet8": 49_152,
    "kws_dscnn": 16_000,
    "sww_dscnn1d": 6_656,
    "vww_mobilenetv1_025_96": 55_296,
}
RANDOM_INPUTS = 50

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no study models at {FOLDER}; set TINYFLEET_SHARED")
each_model = pytest.mark.parametrize("name", sorted(ARENAS))


def samples(name: str) -> np.ndarray:
    """The model's sample inputs as codes, (N, ...)."""
    stored = np.load(FOLDER / f"{name.split('_')[0]}_samples.npz")
    if "inputs_int8" in stored:
        return np.asarray(stored["inputs_int8"])
    scale, zero_point = float(stored["in_scale"]), int(stored["in_zero_point"])
    if name == "ad_autoencoder":
        frames = stored["spectrogram"]
        real = np.stack([frames[i : i + 5].reshape(-1) for i in range(196)])
    else:
        real = stored["inputs_uint8"] * (scale if name.startswith("vww") else 1.0)
    return np.clip(np.round(real / scale) + zero_point, -128, 127).astype(np.int8)


def inputs(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([codes(np.random.default_rng(7), RANDOM_INPUTS, *shape), samples(name).reshape(-1, *shape)])


@each_model
def test_every_tensor_is_tflm_s(name: str) -> None:
    path = FOLDER / f"{name}_int8.tflite"
    compiled = compile_graph(load_graph(path), {}, "as-imported", Identity(name, "v1", "host"))
    index = {tensor.name: tensor.index for tensor in load_tflite(path).tensors}
    x = inputs(name, compiled.image.inputs[0].shape)
    ours = traced(compiled.image, [x])
    wanted = oracle(path.read_bytes(), [x], [index[op.output] for op in compiled.ops])
    for op, mine, theirs in zip(compiled.ops, ours, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=op.name)


@each_model
def test_golden_record_is_tflm_s(name: str) -> None:
    """The CRC over every op's output, which the C runtime recomputes on each device, is that of TFLM's tensors."""
    path = FOLDER / f"{name}_int8.tflite"
    compiled = compile_graph(load_graph(path), {}, "as-imported", Identity(name, "v1", "host"))
    index = {tensor.name: tensor.index for tensor in load_tflite(path).tensors}
    source = compiled.image.inputs[0]
    crc = 0
    for seed in compiled.image.golden.seeds:
        x = golden_bytes(seed, source.size_bytes)[0].reshape(1, *source.shape)
        tensors = oracle(path.read_bytes(), [x], [index[op.output] for op in compiled.ops])
        crc = zlib.crc32(b"".join(t.astype(np.int8).tobytes() for t in tensors), crc)
    assert crc == compiled.image.golden.crc32


@each_model
def test_the_c_runtime_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    data = (FOLDER / f"{name}_int8.tflite").read_bytes()
    image = compiled_image(tmp_path, data)
    x = inputs(name, image.inputs[0].shape)
    try:
        result = run_image(image.data, x, "host")
    except UnavailableError as error:
        pytest.skip(str(error))
    got = next(iter(result.outputs.values())).reshape(len(x), -1)
    np.testing.assert_array_equal(got, oracle(data, [x])[0])


@each_model
def test_report_takes_the_model_as_it_is(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}_int8.tflite"
    result = compile_model(path, M4, name=name, version="v1", calibration=None)
    report: dict[str, Any] = result.report
    assert report["arena_bytes"] <= ARENAS[name]
    assert report["estimator"] == "as-imported"
    assert report["accuracy"]["float"] is None
    assert all(layer["signal_to_noise_db"] is None for layer in report["layers"])
    image = read_image(result.image)
    payload = report["params"] + 8 * image.header["channel_count"]
    assert len(result.image) <= payload + image.header["golden_bytes"] + 1024 + 64 * len(image.ops)


def test_evaluation_takes_codes_as_codes_and_real_numbers_as_real(tmp_path: Path) -> None:
    stored = np.load(FOLDER / "sww_samples.npz")
    scale, zero_point = float(stored["in_scale"]), int(stored["in_zero_point"])
    real, labels = stored["calib_specs"], stored["calib_labels"]
    whole = np.clip(np.round(real / scale) + zero_point, -128, 127).astype(np.int8)
    found = []
    for number, x in enumerate((real, whole)):
        np.savez(tmp_path / f"{number}.npz", x=x, y=labels)
        result = compile_model(
            FOLDER / "sww_dscnn1d_int8.tflite",
            M4,
            name="sww",
            version="v1",
            calibration=None,
            evaluation=tmp_path / f"{number}.npz",
        )
        found.append(result.report["accuracy"])
    assert found[0] == found[1]
    assert found[0]["quantized"] == pytest.approx(41 / 45)
    assert (found[0]["metric"], found[0]["float"], found[0]["agreement"]) == ("top1", None, None)
