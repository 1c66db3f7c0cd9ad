"""CMSIS-NN in place of our kernels on an emulated Cortex-M4 and M55: same bytes, and the log says who ran each op.

Its C comes from a wheel pinned by hash (scripts/fetch_cmsis_nn.sh). The firmware is built with FLEET_KERNEL_CALLS: the
linker wraps CMSIS-NN's entries and our kernels behind its adapters, and every call is in calls.bin.
"""

import os
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime import cmsis_nn_ops
from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.operators import OpCode, Packing
from tinyfleet_compiler.options import CompileOptions
from tinyfleet_service.cli.engines import cortex_m, host, simulator

ROOT = Path(__file__).resolve().parents[3]
KWS = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models/mlperf_tiny/kws_dscnn_int8.tflite"
needs_model = pytest.mark.skipif(not KWS.is_file(), reason="TINYFLEET_SHARED names no folder with models")
MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")]
CMSIS_NN, OURS = 1, 2
M4, M55 = cortex_m.TARGETS[1], cortex_m.TARGETS[-1]
WEIGHTED = (OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D, OpCode.FULLY_CONNECTED)


@cache
def vendor_sources() -> str:
    """Folder of CMSIS-NN; skips where the wheel cannot be had."""
    fetched = subprocess.run([ROOT / "scripts" / "fetch_cmsis_nn.sh"], capture_output=True, text=True, check=False)
    if fetched.returncode != 0:
        assert "DO NOT MATCH THE HASHES" not in fetched.stderr
        pytest.skip(f"the wheel with CMSIS-NN cannot be had: {fetched.stderr[-200:]}")
    return fetched.stdout.strip()


def with_cmsis_nn(target: cortex_m.Target) -> cortex_m.Target:
    """As compiled in less time: nothing here counts instructions."""
    options = (f"-DFLEET_CMSIS_NN={vendor_sources()}", "-DFLEET_KERNEL_CALLS=ON")
    return replace(target, kernels="cmsis-nn", optimise="-O1", build_options=options)


@pytest.fixture(params=[M4, M55], ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> cortex_m.Target:
    return with_cmsis_nn(request.param)


def random_inputs(image: Image) -> Any:
    size = sum(tensor.size_bytes for tensor in image.inputs)
    return np.random.default_rng(3).integers(-128, 128, (1, size)).astype(np.int8)


def agrees(image: Image, target: cortex_m.Target) -> Any:
    """The firmware runs the golden record, which covers every op's output, before the input. Returns the calls."""
    x = random_inputs(image)
    wanted, got = simulator.run(image, x).outputs, cortex_m.run(image, x, target=target)
    for name, output in got.outputs.items():
        np.testing.assert_array_equal(output, wanted[name])
    return got.kernel_calls


def libraries(image: Image, target: cortex_m.Target) -> list[int]:
    """Which library ran each weighted op: the same one in every run of the image."""
    calls = agrees(image, target)[:, 0]
    runs = calls.reshape(-1, sum(op.code in WEIGHTED for op in image.ops))
    assert len(runs) > 1
    assert (runs == runs[0]).all()
    return [int(library) for library in runs[0]]


def test_cmsis_nn_itself_gives_the_simulators_bytes(target: cortex_m.Target) -> None:
    image = cmsis_nn_ops.image_of(cmsis_nn_ops.random_ops(1, 200, helium=target.name == M55.name), 1)
    assert libraries(image, target) == [CMSIS_NN] * len(image.ops)


def test_what_cmsis_nn_cannot_take_goes_to_our_kernels(target: cortex_m.Target) -> None:
    cases = dict(cmsis_nn_ops.refused(helium=target.name == M55.name))
    taken_by = libraries(cmsis_nn_ops.image_of(list(cases.values()), 2), target)
    assert dict(zip(cases, taken_by, strict=True)) == dict.fromkeys(cases, OURS)


def test_its_packing_runs_on_every_firmware() -> None:
    image = cmsis_nn_ops.image_of(cmsis_nn_ops.random_ops(4, 80, helium=False), 4)
    assert Packing.CHANNELS_LAST in {op.packing for op in image.ops}
    assert agrees(image, M4) is None
    x = random_inputs(image)
    np.testing.assert_array_equal(host.run(image, x).outputs["y"], simulator.run(image, x).outputs["y"])


@needs_model
def test_every_layer_of_a_compiled_model_runs_on_cmsis_nn(target: cortex_m.Target) -> None:
    device = replace(load_device_class(target.name), kernels="cmsis-nn")
    result = compile_model(KWS, device, name="kws", version="v1", calibration=None)
    assert libraries(read_image(result.image), target) == [CMSIS_NN] * 10


@needs_model
@pytest.mark.parametrize(("kernels", "optimize", "library"), [("cmsis-nn", "ram", CMSIS_NN), ("dsp", "balanced", OURS)])
def test_cascades_and_images_for_other_kernels_run_too(kernels: str, optimize: str, library: int) -> None:
    """The rows of a cascade are CMSIS-NN's too; an image with overlaps is ours."""
    device, options = replace(load_device_class("cortex-m4"), kernels=kernels), CompileOptions(optimize=optimize)
    result = compile_model(KWS, device, name="kws", version="v1", calibration=None, options=options)
    calls = agrees(read_image(result.image), with_cmsis_nn(M4))
    assert library in calls[:, 0]
    assert (kernels == "dsp") == (OURS in calls[:, 0])
