"""Int8 operators that divide, take roots or logarithms give the bytes of TensorFlow Lite Micro."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyfleet_compiler.importers.tflite_graph import import_tflite
from tinyfleet_compiler.operators import OpCode
from unit.compiler.test_tflite_more import ALL_CODES
from unit.compiler.test_tflite_operators import compare, scale, seeds, zero
from unit.compiler.tflite_models import Builder, codes, compiled_image, oracle, traced

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(seeds, st.integers(1, 4), st.integers(1, 40))
def test_log_softmax(tmp_path: Path, seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    built = Builder()
    x = built.tensor((1, rows, columns), scale(rng, -12.0, 3.0), zero(rng))
    y = built.tensor((1, rows, columns), 1 / 16, 127)
    built.operator("LOG_SOFTMAX", [x], y, 1, kind="LogSoftmaxOptions")
    sent = codes(rng, 20, rows, columns)
    sent[0] = sent[0, 0, 0]  # equal classes
    compare(tmp_path, built.data([x], [y]), [sent])


@few
@given(seeds, st.integers(1, 4), st.integers(1, 60))
def test_l2_normalization(tmp_path: Path, seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    built, offset = Builder(), zero(rng)
    x, y = built.tensor((1, rows, columns), scale(rng), offset), built.tensor((1, rows, columns), 1 / 128, 0)
    built.operator("L2_NORMALIZATION", [x], y, 1, kind="L2NormOptions")
    sent = codes(rng, 20, rows, columns)
    sent[0], sent[1], sent[1, 0, 0] = offset, offset, np.clip(offset + 1, -128, 127)  # sums of squares of 0 and 1
    compare(tmp_path, built.data([x], [y]), [sent])


@few
@given(seeds)
def test_rsqrt(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    built, source = Builder(), scale(rng)
    offset = int(rng.integers(-128, 120))
    result = float(np.float32(2.0 ** rng.uniform(-7, 0) / np.sqrt(source)))
    x, y = built.tensor((1, 256), source, offset), built.tensor((1, 256), result, zero(rng))
    built.operator("RSQRT", [x], y, 1)
    data = built.data([x], [y])
    image = compiled_image(tmp_path, data)
    assert [op.code for op in image.ops] == [OpCode.LUT_INT8]
    legal = np.maximum(ALL_CODES, offset).astype(np.int8)  # TFLM stops at numbers below zero
    np.testing.assert_array_equal(traced(image, [legal])[-1], oracle(data, [legal])[0])
    assert (traced(image, [ALL_CODES])[-1][0, : offset + 128] == 127).all()


@few
@given(seeds, st.booleans(), st.integers(0, 3))
def test_div(tmp_path: Path, seed: int, repeated: bool, activation: int) -> None:
    rng = np.random.default_rng(seed)
    built = Builder()
    a, b = (scale(rng, -7, 0), zero(rng)), (scale(rng, -7, 0), zero(rng))
    result = float(np.float32(a[0] / b[0] * 2.0 ** rng.uniform(-8, -1)))
    first, second = (1, 5, 40), (1, 1, 40) if repeated else (1, 5, 40)
    x, y, z = built.tensor(first, *a), built.tensor(second, *b), built.tensor(first, result, zero(rng))
    built.operator("DIV", [x, y], z, 2, kind="DivOptions", fusedActivationFunction=activation)
    above, below = codes(rng, 10, 5, 40), codes(rng, 10, *second[1:])
    below = np.where(below == b[1], np.where(b[1] < 127, b[1] + 1, 126), below).astype(np.int8)
    data = built.data([x, y], [z])
    ours = traced(compiled_image(tmp_path, data), [above, below])[-1]
    (wanted,) = oracle(data, [above, below])
    defined = shift_of(above.astype(int) - a[1], below.astype(int) - b[1], a[0], b[0], result) <= 31
    np.testing.assert_array_equal(ours[defined], wanted[defined])
    real = (above - float(a[1])) * a[0] / ((below - float(b[1])) * b[0]) / result
    assert np.abs(np.where(defined, 0, real.reshape(defined.shape))).max() <= 0.5  # TFLM shifts beyond its type there


def shift_of(a: np.ndarray, b: np.ndarray, above: float, below: float, result: float) -> np.ndarray:
    """Bits by which TFLM shifts a quotient to the right; more than 31 is undefined in C."""
    real = np.float32(above) / (np.float32(below) * np.float32(result))
    a, b = np.broadcast_arrays(np.where(b < 0, -a, a), np.abs(b))
    bits = np.frexp(np.where(a < 0, -1 - a, a).astype(float))[1]
    return np.asarray(np.frexp(b.astype(float))[1] - 1 + 31 - bits - np.frexp(real)[1]).reshape(len(a), -1)


def test_a_constant_zero_divides_nothing(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 4), 0.1, 0), built.tensor((1, 4), 0.1, 0)
    built.operator(
        "DIV", [x, built.tensor((1, 4), 0.1, 3, data=np.array([[1, 2, 3, 4]], np.int8))], y, 1, kind="DivOptions"
    )
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    (problem,) = import_tflite(path).problems
    assert "zero" in problem.reason


@pytest.mark.parametrize("operator", ["LOG_SOFTMAX", "L2_NORMALIZATION"])
def test_other_scales_are_named(tmp_path: Path, operator: str) -> None:
    built = Builder()
    x, y = built.tensor((1, 8), 0.1, 0), built.tensor((1, 8), 0.1, 0)
    kind = "LogSoftmaxOptions" if operator == "LOG_SOFTMAX" else "L2NormOptions"
    built.operator(operator, [x], y, 1, kind=kind)
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    (problem,) = import_tflite(path).problems
    assert "another output scale" in problem.reason
