"""ONNX Attention: near ONNX Runtime's float, other forms are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tinyfleet_compiler import check_model
from tinyfleet_compiler.operators import OpCode
from unit.compiler.onnx_models import node, save_model
from unit.compiler.test_compiler_masks import HOST, compiled, in_float, real, snr_db

LEAST_SNR_DB = 30.0
"""Of int8 against float."""
Shapes = dict[str, tuple[int, ...]]
RNG = np.random.default_rng(4)
TWO = {"q_num_heads": 2, "kv_num_heads": 2}
SELF: Shapes = dict.fromkeys("qkv", (5, 8))
SOME = RNG.random((5, 5)) < 0.6
SOME[np.arange(5), np.arange(5)] = True
FORMS: dict[str, tuple[Shapes, dict[str, Any], dict[str, np.ndarray]]] = {
    "three dimensions": ({"q": (5, 8), "k": (7, 8), "v": (7, 12)}, TWO, {}),
    "four dimensions": ({"q": (2, 5, 4), "k": (2, 7, 4), "v": (2, 7, 6)}, {}, {}),
    "one head": (SELF, {"q_num_heads": 1, "kv_num_heads": 1}, {}),
    "a scale": (SELF, TWO | {"scale": 0.2}, {}),
    "grouped": ({"q": (5, 16), "k": (7, 8), "v": (7, 8)}, {"q_num_heads": 4, "kv_num_heads": 2}, {}),
    "grouped, four dimensions": ({"q": (6, 5, 4), "k": (2, 7, 4), "v": (2, 7, 4)}, {}, {}),
    "causal": (SELF, TWO | {"is_causal": 1}, {}),
    "causal, more keys": ({"q": (2, 5, 4), "k": (2, 7, 4), "v": (2, 7, 4)}, {"is_causal": 1}, {}),
    "booleans": (SELF, TWO, {"m": SOME}),
    "booleans by head": (SELF, TWO, {"m": np.stack([SOME, SOME.T])[None]}),
    "numbers": (SELF, TWO, {"m": RNG.normal(size=(5, 5)).astype(np.float32)}),
    "numbers of keys": (SELF, TWO, {"m": RNG.normal(size=(1, 1, 1, 5)).astype(np.float32)}),
    "minus 1e4": (SELF, TWO, {"m": np.where(SOME, 0.5, -1e4).astype(np.float32)}),
    "booleans, causal": (SELF, TWO | {"is_causal": 1}, {"m": SOME}),
    "a tensor": (SELF | {"m": (5, 5)}, TWO, {}),
    "a tensor by head": (SELF | {"m": (2, 5, 5)}, TWO | {"is_causal": 1}, {}),
    "a tensor of keys": (SELF | {"m": (1, 1, 5)}, TWO, {}),
}


ONE_ROW = ("numbers of keys", "a tensor of keys")
"""Masks that ONNX Runtime does not repeat over the queries."""


def saved(path: Path, shapes: Shapes, attributes: dict[str, Any], constants: dict[str, np.ndarray]) -> Path:
    names = [*"qkv", *(["m"] if "m" in shapes or "m" in constants else [])]
    made = helper.make_node("Attention", names, ["y"], name="attention", **attributes)
    inputs: dict[str, Any] = {name: (1, *shape) for name, shape in shapes.items()}
    return save_model(path, [made], (), constants, inputs=inputs, opset=23)


def given(shapes: Shapes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: 1.5 * rng.normal(size=(32, *shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", FORMS)
def test_over_float32_it_is_onnxruntimes(tmp_path: Path, form: str) -> None:
    path, x = saved(tmp_path / "m.onnx", *FORMS[form]), given(FORMS[form][0])
    wanted = in_float(path, x, runtime=form not in ONE_ROW)
    made = real(compiled(tmp_path, path, x, type="float32"), x)
    np.testing.assert_allclose(made.reshape(wanted.shape), wanted, rtol=0, atol=4e-6)


@pytest.mark.parametrize("form", FORMS)
def test_as_int8_it_stays_near_float(tmp_path: Path, form: str) -> None:
    path, x = saved(tmp_path / "m.onnx", *FORMS[form]), given(FORMS[form][0])
    assert check_model(path, HOST).fits
    wanted = in_float(path, x, runtime=form not in ONE_ROW)
    assert snr_db(real(compiled(tmp_path, path, x), x), wanted) >= LEAST_SNR_DB


def test_it_takes_two_products_and_a_softmax(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", *FORMS["three dimensions"])
    image = compiled(tmp_path, path, given(FORMS["three dimensions"][0]))
    assert [op.code for op in image.ops] == [OpCode.BATCH_MATMUL, OpCode.SOFTMAX, OpCode.BATCH_MATMUL]


def test_minus_infinity_that_is_worked_out(tmp_path: Path) -> None:
    """Log of zeros and ones; as a constant of the file infinity is refused."""
    shapes, attributes, constants = SELF, TWO, {"kept": SOME.astype(np.float32)}
    nodes = [
        node("Log", ["kept"], "m"),
        helper.make_node("Attention", [*"qkv", "m"], ["y"], name="attention", **attributes),
    ]
    inputs: dict[str, Any] = {name: (1, *shape) for name, shape in shapes.items()}
    path, x = save_model(tmp_path / "m.onnx", nodes, (), constants, inputs=inputs, opset=23), given(shapes)
    wanted = in_float(path, x)
    made = real(compiled(tmp_path, path, x, type="float32"), x)
    np.testing.assert_allclose(made.reshape(wanted.shape), wanted, rtol=0, atol=4e-6)


ODD: dict[str, Any] = {"rank": np.ones((1, 1, 1, 5, 5), np.float32), "short": np.ones((5, 4), np.float32)}
ODD |= {"rows": np.ones((4, 5), np.bool_), "whole": np.ones((5, 5), np.int64), "none": np.zeros((5, 5), np.bool_)}
PAST = np.ones((1, 2, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("shapes", "attributes", "inputs", "outputs", "reason"),
    [
        (SELF, TWO, ["", "past", "past"], 1, "is given past keys"),
        (SELF, TWO, ["", "", "", "length"], 1, "is given a number of keys"),
        (SELF, TWO, [], 2, "gives out present keys"),
        (SELF, TWO, [], 4, "gives out present keys"),
        (SELF, TWO | {"softcap": 2.0}, [], 1, "has softcap 2.0"),
        (SELF, TWO | {"softmax_precision": 10}, [], 1, "has softmax_precision 10"),
        (SELF, TWO | {"left_window_size": 2}, [], 1, "has left_window_size 2"),
        (SELF, TWO | {"scale": float("nan")}, [], 1, "has scale nan"),
        (SELF, {}, [], 1, "has 0 heads"),
        (SELF, {"q_num_heads": -2, "kv_num_heads": -2}, [], 1, "has -2 heads"),
        (SELF, {"q_num_heads": 2, "kv_num_heads": 4}, [], 1, "has 2 heads"),
        (SELF, {"q_num_heads": 3, "kv_num_heads": 3}, [], 1, "into 3 heads"),
        ({"q": (2, 5, 4), "k": (2, 5, 4), "v": (2, 5, 4)}, {"q_num_heads": 4}, [], 1, "has 4 heads"),
        ({"q": (2, 5, 4), "k": (5, 8), "v": (5, 8)}, TWO, [], 1, "reads Q, K, V"),
        ({"q": (8,), "k": (8,), "v": (8,)}, TWO, [], 1, "reads Q, K, V"),
        ({"q": (5, 8), "k": (5, 4), "v": (5, 8)}, TWO, [], 1, "reads Q, K, V"),
        ({"q": (5, 8), "k": (5, 8), "v": (4, 8)}, TWO, [], 1, "reads Q, K, V"),
        ({"q": (2, 5, 4), "k": (2, 5, 4), "v": (1, 5, 4)}, {}, [], 1, "reads Q, K, V"),
        *((SELF, TWO, [name], 1, "has a mask") for name in ("rank", "short", "rows", "whole")),
        (SELF, TWO, ["none"], 1, "no key counts for"),
        (SELF | {"m": (3, 5, 5)}, TWO, ["m"], 1, "has a mask"),
        ({"q": (5, 8), "v": (5, 8)}, TWO, [], 1, "input 1 is a constant"),
    ],
)
def test_other_forms_are_named(
    tmp_path: Path, shapes: Shapes, attributes: dict[str, Any], inputs: list[str], outputs: int, reason: str
) -> None:
    shown = [f"y{i}" for i in range(outputs)]
    made = helper.make_node("Attention", [*"qkv", *inputs], shown, name="attention", **attributes)
    constants = ODD | {"past": PAST, "length": np.array([5], np.int64)}
    if "k" not in shapes:
        constants |= {"k": np.ones((1, 5, 8), np.float32)}
    given: dict[str, Any] = {name: (1, *shape) for name, shape in shapes.items()}
    path = save_model(tmp_path / "m.onnx", [made], (), constants, inputs=given, outputs=shown, opset=24)
    (problem,) = check_model(path, HOST).problems
    assert problem.operator == "Attention"
    assert reason in problem.reason
    assert problem.help


def test_an_output_that_nobody_reads_is_no_matter(tmp_path: Path) -> None:
    made = helper.make_node("Attention", [*"qkv"], ["y", "k_all", "v_all"], name="attention", **TWO)
    inputs: dict[str, Any] = {name: (1, *shape) for name, shape in SELF.items()}
    path = save_model(tmp_path / "m.onnx", [made], (), {}, inputs=inputs, opset=23)
    assert check_model(path, HOST).fits
