"""Every operator of docs/operators.md, from every source: imported, compiled, the same bytes in C and simulator."""

from pathlib import Path

import numpy as np
import pytest

from agent.runtime.rig import Model
from tinyfleet_compiler import CompileOptions, check_model, compile_model, load_device_class
from unit.compiler.operator_table import DOCS, ROWS, Row, rendered, save
from unit.compiler.tflite_table import CELLS, tflite_model

FPU, NO_FPU = load_device_class("cortex-m4"), load_device_class("cortex-m0plus")
COLUMNS = ("int8", "float32", "quantised")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, tmp_path: Path) -> None:
    """Golden vectors are what the simulator gave for every operator: C gives the same."""
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(16, *row.shape)).astype(np.float32))
    for column in COLUMNS if row.float32 else ("int8", "quantised"):
        path = save(row, tmp_path / f"{column}.onnx", pairs=column == "quantised")
        kind = "float32" if column == "float32" else "int8"
        whole = column == "quantised" and row.qdq
        options = CompileOptions(estimator="min-max", golden_vectors=1, type=kind)
        calibration = tmp_path / "c.npz" if column == "int8" else None
        # Integers throughout need no FPU; steps of a log softmax finer than 1/16 run over floats.
        device = NO_FPU if whole and row.name != "log softmax" else FPU
        made = compile_model(path, device, name="m", version="1", calibration=calibration, options=options)
        assert Model(made.image).golden() == "OK", column


@pytest.mark.parametrize("row", [row for row in ROWS if not row.qdq], ids=lambda row: row.name)
def test_what_stays_float_is_listed_without_an_fpu(row: Row, tmp_path: Path) -> None:
    problems = check_model(save(row, tmp_path / "m.onnx", pairs=True), NO_FPU).problems
    assert problems
    assert all("pairs" in one.reason or "not quantised" in one.reason for one in problems)
    assert all("FPU" in one.help for one in problems)


def test_every_row_that_tflite_has_is_a_file() -> None:
    assert {row.name for row in ROWS if row.tflite} == CELLS.keys()


@pytest.mark.parametrize("row", [row for row in ROWS if row.tflite], ids=lambda row: row.name)
def test_tflite_cell(row: Row, tmp_path: Path) -> None:
    """Codes as they are, on the smallest core; real numbers as they are, on one with an FPU."""
    for kind in ("int8", "float32") if row.tflite_float else ("int8",):
        path = tmp_path / f"{kind}.tflite"
        path.write_bytes(tflite_model(row.name, quantized=kind == "int8"))
        options = CompileOptions(golden_vectors=1, type=kind)
        device = FPU if kind == "float32" else NO_FPU
        made = compile_model(path, device, name="m", version="1", calibration=None, options=options)
        assert Model(made.image).golden() == "OK", kind


def test_the_page_is_the_table() -> None:
    assert DOCS.read_text() == rendered(), "write it again: see operator_table.py"
