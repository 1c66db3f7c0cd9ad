"""Models that the compiler made: every op's output in C equals the simulator's, and the golden vectors hold."""

import os
from pathlib import Path

import numpy as np
import pytest

from agent import cbuild
from agent.runtime.rig import Model
from tinyfleet_compiler.compile import compile_model
from tinyfleet_compiler.device_class import load_device_class
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.simulate import collect_outputs

DIGITS = cbuild.ROOT / "examples" / "digits"
SHARED = Path(os.environ.get("TINYFLEET_SHARED", cbuild.ROOT.parent / "shared")) / "models" / "mlperf_tiny"
MLPERF = ("ad_autoencoder", "ic_resnet8", "kws_dscnn", "sww_dscnn1d", "vww_mobilenetv1_025_96")


def compiled(path: Path, calibration: Path) -> Image:
    device_class = load_device_class("cortex-m4")
    result = compile_model(path, device_class, name=path.stem, version="v1", calibration=calibration, evaluation=None)
    return read_image(result.image)


def check_every_op(image: Image, samples: int, seed: int) -> None:
    model = Model(image.data)
    assert (model.status, model.verify(), model.golden()) == ("OK", "OK", "OK")
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        (tensor,) = image.inputs
        x = rng.integers(-128, 128, tensor.size_bytes).astype(np.int8)
        arena = np.zeros((1, image.arena_bytes), np.int8)
        arena[0, tensor.offset : tensor.offset + tensor.size_bytes] = x
        for mine, theirs in zip(model.step_outputs(x), collect_outputs(image, arena), strict=True):
            np.testing.assert_array_equal(mine, theirs.ravel())


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_digits(version: str) -> None:
    image = compiled(DIGITS / f"digits_{version}.onnx", DIGITS / "calibration.npz")
    check_every_op(image, samples=3, seed=11)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="TINYFLEET_SHARED names no folder with models/mlperf_tiny")
@pytest.mark.parametrize("name", MLPERF)
def test_mlperf_tiny(name: str, tmp_path: Path) -> None:
    path = SHARED / f"{name}_float.onnx"
    calibration = tmp_path / "calibration.npz"
    np.savez(calibration, x=random_inputs(path))
    check_every_op(compiled(path, calibration), samples=1, seed=12)


def random_inputs(path: Path) -> np.ndarray:
    import onnx

    dims = onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[1:]
    return np.random.default_rng(0).normal(0, 1, (8, *(dim.dim_value for dim in dims))).astype(np.float32)
