"""CMSIS-NN in place of our kernels on an emulated Cortex-M4: its bytes are the simulator's, and it is really called.

Its C comes from a wheel pinned by hash (scripts/fetch_cmsis_nn.sh). The `strict` firmware ends with an error where an
adapter hands an operator to our kernel.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime.images import Channels, ImageBuilder, Io, Op
from agent.runtime.test_runtime_dsp import limits, random_bytes, scales, window
from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.build_scope import Op as CompilerOp
from tinyfleet_compiler.fit_cmsis_nn import fit_cmsis_nn
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.operators import Element, OpCode, Packing
from tinyfleet_compiler.options import CompileOptions
from tinyfleet_compiler.quantize.weights import WeightBlock
from tinyfleet_compiler.simulate import golden_crc
from tinyfleet_service.cli.engines import cortex_m, host, simulator

ROOT = Path(__file__).resolve().parents[3]
MODELS = Path(os.environ.get("TINYFLEET_SHARED", ROOT.parent / "shared")) / "models" / "mlperf_tiny"
MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")]
ARENA, SCRATCH = 24_000, 16_000
OPERATORS = ("conv_2d", "depthwise_conv_2d", "fully_connected")
M4 = cortex_m.TARGETS[1]


@pytest.fixture(scope="module")
def lenient() -> cortex_m.Target:
    """Firmware with CMSIS-NN."""
    fetched = subprocess.run([ROOT / "scripts" / "fetch_cmsis_nn.sh"], capture_output=True, text=True, check=False)
    if fetched.returncode != 0:
        assert "DO NOT MATCH THE HASHES" not in fetched.stderr
        pytest.skip(f"the wheel with CMSIS-NN cannot be had: {fetched.stderr[-200:]}")
    return replace(M4, kernels="cmsis-nn", build_options=(f"-DFLEET_CMSIS_NN={fetched.stdout.strip()}",))


@pytest.fixture(scope="module")
def strict(lenient: cortex_m.Target) -> cortex_m.Target:
    """The same, with our kernels of these operators replaced by the end of the program."""
    wrapped = ",".join(
        f"--wrap=fleet_dsp_{name},--defsym=__wrap_fleet_dsp_{name}=fleet_host_exit" for name in OPERATORS
    )
    return replace(lenient, build_options=(*lenient.build_options, f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,{wrapped}"))


def weighted(rng: Any, code: OpCode, op: dict[str, Any], shape: tuple[int, ...], *, one_scale: bool = False) -> Op:
    """The op as the compiler lays it out for CMSIS-NN: input and output apart, its scratch behind both."""
    weights = random_bytes(rng, *shape)
    rows = weights.reshape(shape[0], -1)
    channels = scales(rng, shape[0], rows.shape[1])
    if one_scale:
        channels = Channels(
            *(np.full(shape[0], values[0]) for values in (channels.multipliers, channels.shifts)), channels.biases
        )
    block = WeightBlock(rows, channels.biases, channels.multipliers, channels.shifts, Element.INT8)
    fitted = fit_cmsis_nn([CompilerOp("op", code, ("x",), "y", op, 0, weights=block)])[0]
    if fitted.packing is Packing.CHANNELS_LAST:
        weights = np.ascontiguousarray(rows.T).reshape(shape)
    op = op | {
        "packing": int(fitted.packing),
        "input": int(rng.integers(0, 999)),
        "output": int(rng.integers(ARENA // 2, ARENA // 2 + 999)),
    }
    if fitted.scratch_bytes:
        op |= {"scratch": ARENA, "scratch_bytes": fitted.scratch_bytes}
    return Op(code, op, weights, channels)


def inside(op: dict[str, int]) -> dict[str, int]:
    """The window as layers have them: no further out than one column of a window of three."""
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        reach = (op[f"kernel_{axis}"] - 1) * op[f"dilation_{axis}"]
        op[pad] = min(op[pad], reach)
        last = op[f"in_{axis}"] + op[pad] - 1 - (reach + 1) // 2
        op[pad] += max(0, -last)
        op[f"out_{axis}"] = max(0, last) // op[f"stride_{axis}"] + 1
    return op


def conv(rng: Any, shape: Callable[[dict[str, int]], dict[str, int]] = inside) -> Op:
    op = shape(window(rng)) | {
        "in_c": int(rng.choice([1, 3, 4, 8, 12, 20, 31])),
        "out_c": int(rng.integers(1, 20)),
        "groups": 1,
    }
    return weighted(rng, OpCode.CONV_2D, op, (op["out_c"], op["kernel_h"], op["kernel_w"], op["in_c"]))


def depthwise(rng: Any, shape: Callable[[dict[str, int]], dict[str, int]] = inside) -> Op:
    channels = int(rng.choice([1, 3, 4, 7, 8, 64, 70]))
    out_c = channels * int(rng.choice([1, 1, 1, 2, 4]) if channels < 9 else 1)
    op = shape(window(rng)) | {"in_c": channels, "out_c": out_c, "groups": channels}
    return weighted(rng, OpCode.DEPTHWISE_CONV_2D, op, (out_c, op["kernel_h"], op["kernel_w"], 1))


def fully_connected(rng: Any, shape: Any = None) -> Op:
    rows, features, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 200)), int(rng.integers(1, 40))
    op = {"rows": rows, "in_features": features, "out_features": outputs} | limits(rng)
    return weighted(rng, OpCode.FULLY_CONNECTED, op, (outputs, features), one_scale=bool(rng.random() < 0.5))


def random_image(seed: int, count: int, shape: Callable[[dict[str, int]], dict[str, int]]) -> Image:
    rng = np.random.default_rng(seed)
    makers = (conv, conv, depthwise, depthwise, fully_connected)
    ops = [makers[int(rng.integers(len(makers)))](rng, shape) for _ in range(count)]
    builder = ImageBuilder(ARENA + SCRATCH, [Io(0, (ARENA,))], [Io(0, (ARENA,), name="y")], ops)
    builder.header = {"scratch_bytes": max(op.values.get("scratch_bytes", 0) for op in ops)}
    builder.golden = ((7, golden_crc(read_image(builder.build()), 7)),)
    return read_image(builder.build())


def agrees(image: Image, target: cortex_m.Target, seed: int) -> None:
    """The firmware runs the golden record, which covers every op's output, before the inputs."""
    x = random_bytes(np.random.default_rng(seed), 2, sum(tensor.size_bytes for tensor in image.inputs))
    wanted = simulator.run(image, x).outputs
    for name, output in cortex_m.run(image, x, target=target).outputs.items():
        np.testing.assert_array_equal(output, wanted[name])


def test_cmsis_nn_itself_gives_the_simulators_bytes(strict: cortex_m.Target) -> None:
    for seed in (1, 2):
        agrees(random_image(seed, 120, inside), strict, seed)


def test_any_shape_gives_the_simulators_bytes(lenient: cortex_m.Target) -> None:
    """Shapes CMSIS-NN would read wrongly go to our kernels."""
    agrees(random_image(3, 120, lambda op: op), lenient, 3)


def test_its_packing_runs_on_every_firmware() -> None:
    image = random_image(4, 80, inside)
    assert Packing.CHANNELS_LAST in {op.packing for op in image.ops}
    agrees(image, M4, 4)
    x = random_bytes(np.random.default_rng(4), 1, ARENA)
    np.testing.assert_array_equal(host.run(image, x).outputs["y"], simulator.run(image, x).outputs["y"])


@pytest.mark.skipif(not MODELS.is_dir(), reason="TINYFLEET_SHARED names no folder with models")
def test_a_whole_model_runs_on_cmsis_nn(lenient: cortex_m.Target, strict: cortex_m.Target) -> None:
    device = replace(load_device_class("cortex-m4"), kernels="cmsis-nn")
    model = MODELS / "kws_dscnn_int8.tflite"

    def compiled(optimize: str) -> Image:
        options = CompileOptions(optimize=optimize)
        return read_image(
            compile_model(model, device, name="kws", version="v1", calibration=None, options=options).image
        )

    agrees(compiled("balanced"), strict, 5)
    agrees(compiled("ram"), lenient, 6)  # rows of a cascade, too


def test_images_for_other_kernels_run_on_firmware_with_cmsis_nn(lenient: cortex_m.Target) -> None:
    device, model = load_device_class("cortex-m4"), MODELS / "kws_dscnn_int8.tflite"
    if not model.is_file():
        pytest.skip("TINYFLEET_SHARED names no folder with models")
    result = compile_model(model, device, name="kws", version="v1", calibration=None)
    agrees(read_image(result.image), lenient, 8)
