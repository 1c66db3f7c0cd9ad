"""Bars of the bench firmware on a Cortex-M4 and M55 that `benchmarks/bench_kernels.py` prints in full: flash, what is
linked, stack, start-up, and instructions beside TFLM + CMSIS-NN (ic and vww, the long ones: in the bench alone)."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent import cbuild
from tinyfleet_compiler import compile_model, load_device_class, read_image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_service.cli.engines import cortex_m, programs

SHARED = Path(os.environ.get("TINYFLEET_SHARED", cbuild.ROOT.parent / "shared")) / "models" / "mlperf_tiny"
MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")]
M4, M55 = cortex_m.TARGETS[1], cortex_m.TARGETS[-1]
on_both = pytest.mark.parametrize("target", [M4, M55], ids=lambda target: target.name)
LAST_INT8 = 57
INT8 = tuple(code.name for code in OpCode if code <= LAST_INT8)
KWS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "AVERAGE_POOL_2D", "SOFTMAX")
BARS = {KWS: 24 * 1024, INT8: 35 * 1024}
# Instructions of TFLM + CMSIS-NN (recorded; benchmarks/bench_kernels.py) and the part of them that must suffice.
FILES = {"kws": "kws_dscnn", "ad": "ad_autoencoder", "sww": "sww_dscnn1d"}
ANCHORS = {
    M4.name: {"kws": (7_698_454, 0.80), "ad": (582_804, 0.80), "sww": (2_226_377, 0.80)},
    M55.name: {"kws": (1_786_514, 0.80), "ad": (285_957, 0.60), "sww": (408_076, 0.80)},
}


def call(*command: object) -> str:
    words = [str(part) for part in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, env=cbuild.clean_env()).stdout


def symbols(path: Path) -> dict[str, tuple[int, str]]:
    """Name -> address, kind."""
    lines = [line.split() for line in call("arm-none-eabi-nm", path).splitlines()]
    return {words[2]: (int(words[0], 16), words[1]) for words in lines if len(words) == 3}


@on_both
def test_flash_and_what_is_linked(target: cortex_m.Target) -> None:
    for operators, bar in BARS.items():
        found = symbols(cortex_m.build_firmware(replace(target, operators=operators)))
        assert found["fleet_runtime_end"][0] - found["fleet_runtime_start"][0] <= bar
        linked = {name for name, (_, kind) in found.items() if kind == "T" and name.startswith("fleet_")}
        for code in OpCode:
            kernel = f"fleet_{code.name.lower()}"
            if code.name not in operators:
                assert kernel not in linked
    assert not [name for name in linked if "_f32_" in name or name.endswith(("_int16", "_int4"))]
    # Built for this, not taken from the firmware's objects: another build may be at work there.
    options = cortex_m.build_options(target)
    library = programs.build("fleet_runtime", "libfleet_runtime.a", cortex_m.SOURCES, options)
    runtime = call("arm-none-eabi-nm", library)
    assert len(re.findall(r"^[0-9a-f]+ [TR] fleet_", runtime, re.MULTILINE)) > 100
    assert not re.findall(r"^[0-9a-f]+ [BbDdCc] (\w+)$", runtime, re.MULTILINE)  # no mutable globals
    assert not re.findall(r"^ +U (?:malloc|calloc|realloc|free|sbrk|_sbrk)$", runtime, re.MULTILINE)


@on_both
@pytest.mark.skipif(not SHARED.is_dir(), reason="TINYFLEET_SHARED names no folder with models/mlperf_tiny")
@pytest.mark.parametrize("key", FILES)
def test_instructions_stack_and_start(target: cortex_m.Target, key: str) -> None:
    device = load_device_class(target.name)
    made = compile_model(SHARED / f"{FILES[key]}_int8.tflite", device, name=key, version="1", calibration=None)
    image = read_image(made.image)
    zeros = np.zeros((1, sum(tensor.size_bytes for tensor in image.inputs)), np.int8)
    got = cortex_m.run(image, zeros, target=target)
    anchor, part = ANCHORS[target.name][key]
    assert got.instructions is not None
    assert got.instructions <= part * anchor
    assert got.start_instructions is not None
    assert got.start_instructions <= 2000
    assert 0 < (got.stack_bytes or 0) <= 1024
    assert 0 < (got.open_instructions or 0) <= 250 * len(image.ops)
