"""Float32 products, selections and recurrent layers: C and simulator give the same bits; hostile records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Op
from agent.runtime.rig import Model
from agent.runtime.test_runtime_float import EXAMPLES, check, random_floats, real, same_bits
from agent.runtime.test_runtime_gates import FORMS
from agent.runtime.test_runtime_kernels import SEEDS
from agent.runtime.test_runtime_products import dense_steps
from tinyfleet_compiler import CompileOptions, compile_model, load_device_class, read_image
from tinyfleet_compiler.layout import GATES, NO_OFFSET
from tinyfleet_compiler.operators import OpCode, OpFlag
from tinyfleet_compiler.overlap import rows_overlap
from unit.compiler.recurrent_models import constant_start, starting

UNITS, FEATURES, STEPS = 3, 2, 4


@EXAMPLES
@given(st.tuples(*[st.integers(1, 3)] * 5), st.permutations(range(4)), st.booleans(), st.booleans(), SEEDS)
def test_products(sizes: tuple[int, ...], order: list[int], constant: bool, odd: bool, seed: int) -> None:
    *dims, depth = sizes
    op: dict[str, Any] = {"dims": dims, "depth": depth, "steps": dense_steps((*dims[:3], depth), order)}
    op |= {"steps_b": dense_steps((*dims[:2], dims[3], depth), order[::-1]), "output_steps": dense_steps(dims, order)}
    a, b = int(np.prod(dims[:3])) * depth, int(np.prod([*dims[:2], dims[3]])) * depth
    x, outputs = random_floats(seed, a + b, odd), int(np.prod(dims))
    if constant:
        op["flags"] = OpFlag.CONSTANT_B
        check(Op(OpCode.BATCH_MATMUL_F32, op, constant=x[a:]), x[:a], outputs)
        return
    places = {"input": 0, "input_b": 4 * a, "output": 4 * (a + b)}
    made = Op(OpCode.BATCH_MATMUL_F32, op | places)
    builder = ImageBuilder(4 * (a + b + outputs), [real(0, a + b)], [real(4 * (a + b), outputs)], [made])
    same_bits(builder.build(), x)


@EXAMPLES
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.booleans(), st.booleans(), SEEDS)
def test_selections(rows: int, columns: int, less: int, smallest: bool, indices: bool, seed: int) -> None:
    k = max(columns - less, 1)
    op = {"rows": rows, "columns": columns, "k": k, "smallest": int(smallest)}
    x = np.round(random_floats(seed, rows * columns, odd=True))  # with ties
    code = OpCode.TOP_K_INDICES_F32 if indices else OpCode.TOP_K_F32
    check(Op(code, op), x, rows * k, rows_overlap(rows, columns, k))


@FORMS
def test_recurrent_layers(tmp_path: Path, operator: str, attributes: dict[str, Any]) -> None:
    """From tensors, from constants and as a stream: golden vectors are inferences of the simulator."""
    pairs = (("h_next", "h"), ("c_next", "c"))[: 2 if operator == "LSTM" else 1]
    models: list[tuple[Path, Any]] = [(starting(tmp_path / "g.onnx", operator, **attributes), ())]
    models += [(constant_start(tmp_path / "f.onnx", operator, **attributes), ()), (models[0][0], pairs)]
    for path, states in models:
        options = CompileOptions(type="float32", states=states)
        made = compile_model(
            path, load_device_class("cortex-m4"), name="m", version="1", calibration=None, options=options
        )
        code = {"LSTM": OpCode.LSTM_F32, "GRU": OpCode.GRU_F32}[operator]
        assert code in {op.code for op in read_image(made.image).ops}
        assert Model(made.image).golden() == "OK"


def product() -> ImageBuilder:
    op = {
        "dims": (1, 1, 2, 3),
        "depth": 4,
        "steps": (0, 0, 4, 1),
        "steps_b": (0, 0, 1, 3),
        "output_steps": (0, 0, 3, 1),
    }
    made = Op(OpCode.BATCH_MATMUL_F32, op | {"input_b": 32, "output": 80})
    return ImageBuilder(104, [real(0, 20)], [real(80, 6)], [made])


def selection() -> ImageBuilder:
    op = {"rows": 2, "columns": 5, "k": 2, "smallest": 0, "output": 40}
    return ImageBuilder(56, [real(0, 10)], [real(40, 4)], [Op(OpCode.TOP_K_F32, op)])


def layer() -> ImageBuilder:
    table = np.linspace(-1, 1, GATES * UNITS * (2 + FEATURES + UNITS)).astype(np.float32)
    op = {"features": FEATURES, "units": UNITS, "steps": STEPS, "hidden": NO_OFFSET, "cell": NO_OFFSET}
    op |= {"output": 32, "scratch": 80, "scratch_bytes": 8 * UNITS}
    made = Op(OpCode.LSTM_F32, op, constant=table)
    return ImageBuilder(104, [real(0, STEPS * FEATURES)], [real(32, STEPS * UNITS)], [made])


_CASES: list[tuple[Any, str, float, int]] = [
    *[(product, "dims", value, 2) for value in (0, 60000)],
    *[(product, "depth", value, 0) for value in (0, 5, 0xFFFFFFFF)],
    *[(product, name, 2**31, 3) for name in ("steps", "steps_b", "output_steps")],
    (product, "output_steps", 4, 2),
    *[(product, "input_b", value, 0) for value in (30, 48, 0xFFFFFFFC)],
    (product, "activation_min", np.nan, 0),
    *[(selection, "k", value, 0) for value in (0, 6)],
    *[(selection, name, 0xFFFFFFFF, 0) for name in ("rows", "columns", "smallest")],
    (selection, "output", 42, 0),
    *[(layer, name, value, 0) for name in ("features", "units", "steps") for value in (0, 9)],
    *[(layer, "features", value, 0) for value in (0xFFFFFFFF, 0x40000001)],
    *[(layer, name, 0, 0) for name in ("hidden", "cell")],
    *[(layer, "scratch", value, 0) for value in (82, 40, 84)],
    (layer, "scratch_bytes", 8 * UNITS - 4, 0),
    *[(layer, "flags", int(flag), 0) for flag in (OpFlag.GIVEN_START, OpFlag.RESET_FIRST)],
    *[(layer, "table", value, 0) for value in (8, -1)],
]


@pytest.mark.parametrize(("make", "name", "value", "index"), _CASES)
def test_a_bent_field_is_refused(make: Any, name: str, value: float, index: int) -> None:
    assert Model(make().build()).status == "OK"
    assert_refused(make(), name, value, index)


@EXAMPLES
@given(st.sampled_from([product, selection, layer]), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(make: Any, changes: list[tuple[int, int]]) -> None:
    assert_safe(make().build(), changes)
