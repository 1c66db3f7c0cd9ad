"""Instruction estimates against counts on emulated cores; all five models: benchmarks/fit_estimates.py --check."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tinyfleet_compiler import compile_model, load_device_class, read_image
from tinyfleet_service.cli.engines import cortex_m

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MODEL = SHARED / "models" / "mlperf_tiny" / "sww_dscnn1d_int8.tflite"
MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
    pytest.mark.skipif(not MODEL.is_file(), reason=f"no study models at {MODEL}; set TINYFLEET_SHARED"),
]


@pytest.mark.parametrize("target", cortex_m.TARGETS, ids=lambda target: target.name)
def test_within_five_percent_of_the_count(target: cortex_m.Target) -> None:
    made = compile_model(MODEL, load_device_class(target.name), name="sww", version="1", calibration=None)
    image = read_image(made.image)
    zeros = np.zeros((1, sum(t.size_bytes for t in image.inputs)), np.int8)
    counted = cortex_m.run(image, zeros, target=target).instructions
    assert counted is not None
    assert made.report["estimate"]["instructions"] == pytest.approx(counted, rel=0.05)
    assert target.name in made.report["estimate"]["note"]
    assert "uncalibrated" in made.report["estimate"]["note"]


def test_a_core_that_is_not_emulated_says_so() -> None:
    made = compile_model(MODEL, load_device_class("rv32imc"), name="sww", version="1", calibration=None)
    assert "rv32imc is not emulated" in made.report["estimate"]["note"]
