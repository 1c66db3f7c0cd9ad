"""Every operator on emulated cores: compiled images whose golden record holds the simulator's bytes of every op.

The firmware replays the record before anything else and ends with an error where one byte differs. Operators with DSP
or Helium kernels over random shapes, packings and scratch: test_runtime_dsp.py.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.runtime import overlaps
from agent.runtime.images import seal
from agent.runtime.test_runtime_int16 import MODELS, image_of, mixed_image
from tinyfleet_compiler import CompileOptions, compile_model, load_device_class, read_image
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.operators import OpCode
from tinyfleet_service.cli.engines import cortex_m
from tinyfleet_service.errors import InvalidInputError
from unit.compiler.operator_table import ROWS, Row, save

MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")]
TARGETS = cortex_m.TARGETS
FPU = load_device_class("cortex-m4")
on_every_core = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def cores(place: int) -> tuple[cortex_m.Target, ...]:
    """All of them when exploring; else one, another for every place in a list."""
    return TARGETS if os.environ.get("TINYFLEET_EXPLORE") else (TARGETS[place % len(TARGETS)],)


def replay(image: Image, target: cortex_m.Target) -> None:
    """Golden record first, then zeros: an error where the core's bytes are not the simulator's."""
    size = sum(tensor.size_bytes for tensor in image.inputs)
    cortex_m.run(image, np.zeros((1, size), np.int8), target=target)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_operator_on_some_core(row: Row, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(16, *row.shape)).astype(np.float32))
    path = save(row, tmp_path / "m.onnx")
    for place, kind in enumerate(("int8", "float32") if row.float32 else ("int8",)):
        calibration = tmp_path / "c.npz" if kind == "int8" else None
        options = CompileOptions(estimator="min-max", golden_vectors=1, type=kind)
        made = compile_model(path, FPU, name="m", version="1", calibration=calibration, options=options)
        for target in cores(ROWS.index(row) + 2 * place):
            replay(read_image(made.image), target)


@on_every_core
def test_random_extents(target: cortex_m.Target, tmp_path: Path) -> None:
    """Most elementwise operators, windows and reductions in one graph; channels, rows, columns of any parity."""
    rng = np.random.default_rng(TARGETS.index(target))
    for float_only in (False, True):
        dims = (int(rng.integers(1, 9)), int(rng.integers(4, 12)), int(rng.integers(4, 12)))
        path = overlaps.everything(tmp_path / "m.onnx", float_only=float_only, dims=dims)
        np.savez(tmp_path / "c.npz", x=rng.normal(size=(8, *dims)).astype(np.float32))
        calibration, kind = (None, "float32") if float_only else (tmp_path / "c.npz", "int8")
        replay(overlaps.compiled(path, calibration, kind), target)


@on_every_core
def test_int16_and_int4(target: cortex_m.Target, tmp_path: Path) -> None:
    for image in [*(image_of(tmp_path, name) for name in MODELS), mixed_image(tmp_path)]:
        replay(image, target)


def test_another_byte_is_seen(tmp_path: Path) -> None:
    """So agreement means something: a weight that changed after the golden record was made is an error."""
    image = image_of(tmp_path, "halves")
    op = next(op for op in image.ops if op.code is OpCode.CONV_2D_INT4)
    data = bytearray(image.data)
    data[op.weights] ^= 0x77
    with pytest.raises(InvalidInputError, match="golden"):
        replay(read_image(seal(bytes(data))), TARGETS[1])
