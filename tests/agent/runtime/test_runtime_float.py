"""Float32 kernels: C and simulator give the same bits over random shapes, in place, and for numbers that are none."""

import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import cbuild
from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op, seal
from agent.runtime.rig import Model
from agent.runtime.test_runtime_compiled import DIGITS, MLPERF, SHARED
from agent.runtime.test_runtime_kernels import SEEDS, windows
from agent.runtime.test_runtime_moves_compiled import sequence, small_unet
from tinyfleet_compiler import CompileOptions, compile_model, layout, load_device_class
from tinyfleet_compiler.broadcast import broadcast_walk
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.operators import Element, Function, OpCode, OpFlag
from tinyfleet_compiler.overlap import pixel_overlap, pixel_overlap_reversed
from tinyfleet_compiler.simulate import run_arena, simulate
from unit.compiler.onnx_models import save_model
from unit.compiler.test_float_islands import BOTH, BOTH_CONSTANTS, CASES, GRID

EXAMPLES = settings(max_examples=40, deadline=None)
ODD = np.array([0, -0.0, 1e-45, -1e-39, 1e38, -3e38, np.inf, -np.inf, np.nan, 0.5, -2.5, 8388609.0], np.float32)
"""Zeros, subnormals, overflow, not-a-number, halves."""


def random_floats(seed: int, count: int, odd: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 3.0, count).astype(np.float32)
    return np.where(rng.random(count) < 0.2, rng.choice(ODD, count), x) if odd else x


def real(offset: int, count: int) -> Io:
    return Io(offset, (count,), 1.0, 0, element=Element.FLOAT32)


def check(op: Op, x: np.ndarray, outputs: int, distance: int | None = None) -> None:
    """C equals the simulator, apart and with the output over its input at the smallest legal distance (elements)."""
    reverse = bool(op.values.get("flags", 0) & OpFlag.REVERSED)
    places = [(0, x.size)]
    if distance is not None and (distance < x.size if reverse else distance < outputs):
        first = max(-distance, 0) if reverse else max(distance, 0)
        places.append((first, first + distance if reverse else first - distance))
    for at_in, at_out in places:
        more = {"overlap_bytes": layout.NO_OVERLAP if distance is None else 4 * distance}
        placed = Op(op.code, op.values | more | {"input": 4 * at_in, "output": 4 * at_out}, constant=op.constant)
        arena = 4 * max(at_in + x.size, at_out + outputs)
        builder = ImageBuilder(arena, [real(4 * at_in, x.size)], [real(4 * at_out, outputs)], [placed])
        same_bits(builder.build(), x)


def same_bits(image: bytes, x: np.ndarray) -> None:
    model = Model(image)
    assert model.status == "OK"
    got = model.run(np.ascontiguousarray(x, "<f4").view(np.int8)).view(np.uint32)
    wanted = next(iter(simulate(read_image(image), x[None]).values())).reshape(-1).view(np.uint32)
    np.testing.assert_array_equal(got, wanted)


def fields(op: dict[str, Any]) -> dict[str, Any]:
    """A window without the fields of an int8 record."""
    return {k: v for k, v in op.items() if "zero_point" not in k and "activation" not in k}


def geometry(op: dict[str, Any]) -> Geometry:
    return Geometry(**{name: op[name] for name in Geometry.__dataclass_fields__})


@EXAMPLES
@given(windows(dilation=True), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans(), SEEDS)
def test_convolutions(op: dict[str, Any], groups: int, times: int, reverse: bool, odd: bool, seed: int) -> None:
    depthwise = op["in_c"] > 1 and groups == 3
    op = fields(op) | {"in_c": op["in_c"] if depthwise else op["in_c"] * groups, "activation_max": 5.0}
    op |= {"groups": op["in_c"] if depthwise else groups}
    op |= {"out_c": op["groups"] * times, "flags": OpFlag.REVERSED if reverse else OpFlag.NONE}
    row = op["kernel_h"] * op["kernel_w"] * (op["in_c"] // op["groups"]) + 1
    rows = random_floats(seed, op["out_c"] * row, odd=False).reshape(op["out_c"], row)
    x = random_floats(seed + 1, op["in_h"] * op["in_w"] * op["in_c"], odd)
    code = OpCode.DEPTHWISE_CONV_2D_F32 if depthwise else OpCode.CONV_2D_F32
    distance = (pixel_overlap_reversed if reverse else pixel_overlap)(geometry(op))
    check(Op(code, op, constant=rows), x, op["out_h"] * op["out_w"] * op["out_c"], distance)


@EXAMPLES
@given(st.lists(st.integers(1, 3), min_size=8, max_size=8), st.integers(1, 4), st.integers(1, 2), st.booleans(), SEEDS)
def test_transposed_convolutions(sizes: list[int], channels: int, groups: int, odd: bool, seed: int) -> None:
    names = ("in_h", "in_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")
    op: dict[str, Any] = dict(zip(names, sizes, strict=True)) | {"out_c": 2, "groups": groups}
    op["in_c"] = channels * groups
    for axis, pad in (("h", "pad_top"), ("w", "pad_left")):
        full = (op[f"in_{axis}"] - 1) * op[f"stride_{axis}"] + (op[f"kernel_{axis}"] - 1) * op[f"dilation_{axis}"] + 1
        op |= {pad: min(1, full - 1), f"out_{axis}": full - min(1, full - 1)}
    row = op["kernel_h"] * op["kernel_w"] * channels + 1
    x = random_floats(seed, op["in_h"] * op["in_w"] * op["in_c"], odd)
    rows = random_floats(seed + 1, 2 * row, odd=False).reshape(2, row)
    check(Op(OpCode.TRANSPOSE_CONV_2D_F32, op, constant=rows), x, op["out_h"] * op["out_w"] * 2)


@EXAMPLES
@given(windows(dilation=False), st.sampled_from(["max", "mean", "all"]), st.booleans(), SEEDS)
def test_pools(op: dict[str, Any], kind: str, odd: bool, seed: int) -> None:
    op = fields(op) | {"out_c": op["in_c"], "groups": 1}
    op["flags"] = OpFlag.COUNT_INCLUDE_PAD if kind == "all" else OpFlag.NONE
    x = random_floats(seed, op["in_h"] * op["in_w"] * op["in_c"], odd)
    code = OpCode.MAX_POOL_2D_F32 if kind == "max" else OpCode.AVERAGE_POOL_2D_F32
    check(Op(code, op), x, op["out_h"] * op["out_w"] * op["out_c"], pixel_overlap(geometry(op)))


BINARY = [OpCode.ADD_F32, OpCode.SUB_F32, OpCode.MUL_F32, OpCode.DIV_F32, OpCode.MINIMUM_F32, OpCode.MAXIMUM_F32]


@EXAMPLES
@given(st.sampled_from(BINARY), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_two_operands(code: OpCode, out: list[int], data: Any) -> None:
    shapes = [tuple(1 if data.draw(st.integers(0, 3)) == 0 else size for size in out) for _ in range(2)]
    result = tuple(int(d) for d in np.broadcast_shapes(*shapes))
    walk, seed = broadcast_walk(shapes[0], shapes[1], result), data.draw(SEEDS)
    swapped = code in (OpCode.SUB_F32, OpCode.DIV_F32) and data.draw(st.booleans())
    a, b = (random_floats(seed + i, int(np.prod(shape)), odd=True) for i, shape in enumerate(shapes))
    op: dict[str, Any] = {"dims": walk.dims, "repeats": walk.repeats, "repeats_b": walk.repeats_b, "reserved": 0}
    op["flags"] = OpFlag.CONSTANT_B | (OpFlag.SWAPPED if swapped else OpFlag.NONE)
    size = int(np.prod(result))
    check(Op(code, op, constant=b), a, size, 0 if a.size == size else None)
    op |= {"flags": op["flags"] & ~OpFlag.CONSTANT_B, "input": 0, "input_b": 4 * a.size, "overlap_bytes": 0}
    op["output"] = 0 if a.size == size else 4 * (a.size + b.size)
    arena = 4 * (a.size + b.size + size)
    inputs, outputs = [real(0, a.size + b.size)], [real(op["output"], size)]
    same_bits(ImageBuilder(arena, inputs, outputs, [Op(code, op)]).build(), np.concatenate([a, b]))


def function_code(function: Function) -> OpCode:
    return (OpCode.UNARY_F32, OpCode.EXPONENTIAL_F32, OpCode.TRIGONOMETRIC_F32)[function // 32]


@pytest.mark.parametrize("function", Function, ids=lambda f: f.name)
def test_functions_of_one_element(function: Function) -> None:
    alpha = 3.0 if function in (Function.WHOLE_POWER, Function.POWER) else 0.3
    op = {"function": function, "size": 6000, "alpha": alpha, "beta": 0.7}
    rng = np.random.default_rng(function)
    wide = np.exp(rng.uniform(-95, 88, 2000)) * rng.choice([-1, 1], 2000)
    x = np.concatenate([rng.normal(0, 3, 2000), wide, rng.uniform(-110, 110, 2000 - ODD.size), ODD]).astype(np.float32)
    check(Op(function_code(function), op), x, x.size, 0)


@EXAMPLES
@given(st.integers(1, 4), st.integers(1, 6), st.booleans(), st.sampled_from([0.5, 1.0]), SEEDS)
def test_softmax(rows: int, columns: int, odd: bool, beta: float, seed: int) -> None:
    x = random_floats(seed, rows * columns, odd)
    op = {"rows": rows, "columns": columns, "beta": beta}
    check(Op(OpCode.SOFTMAX_F32, op), x, x.size, 0)
    check(Op(OpCode.LOG_SOFTMAX_F32, op), x, x.size, 0)


REDUCTIONS = [OpCode.REDUCE_SUM_F32, OpCode.REDUCE_MAX_F32, OpCode.REDUCE_MIN_F32, OpCode.ARG_MAX_F32]


@EXAMPLES
@given(st.sampled_from(REDUCTIONS), st.tuples(*[st.integers(1, 5)] * 3), st.booleans(), SEEDS)
def test_reductions(code: OpCode, sizes: tuple[int, int, int], odd: bool, seed: int) -> None:
    outer, count, inner = sizes
    x = random_floats(seed, outer * count * inner, odd)
    op = {"outer": outer, "count": count, "inner": inner, "divisor": float(count)}
    check(Op(code, op), x, outer * inner, 1 - count if inner == 1 else 0)


@EXAMPLES
@given(st.tuples(*[st.integers(1, 4)] * 5), SEEDS)
def test_resize(sizes: tuple[int, ...], seed: int) -> None:
    op = dict(zip(("in_h", "in_w", "in_c", "out_h", "out_w"), sizes, strict=True))
    rng = np.random.default_rng(seed)
    table = []
    for axis in ("h", "w"):
        place = rng.integers(0, op[f"in_{axis}"], op[f"out_{axis}"])
        part = np.where(place < op[f"in_{axis}"] - 1, rng.random(place.size), 0.0)
        table.append(np.stack([place, part], axis=1))
    x = random_floats(seed, op["in_h"] * op["in_w"] * op["in_c"], odd=True)
    constant = np.concatenate(table).astype(np.float32)
    check(Op(OpCode.RESIZE_BILINEAR_F32, op, constant=constant), x, op["out_h"] * op["out_w"] * op["in_c"])


def test_prelu_and_dense_rows() -> None:
    x = random_floats(3, 30, odd=True)
    check(Op(OpCode.PRELU_F32, {"slope_count": 5, "size": 30}, constant=random_floats(4, 5, odd=False)), x, 30, 0)
    op, rows = {"rows": 5, "in_features": 6, "out_features": 4}, random_floats(5, 28, odd=False).reshape(4, 7)
    check(Op(OpCode.FULLY_CONNECTED_F32, op, constant=rows), x, 20, 4)


@pytest.mark.parametrize(("element", "kind"), [(Element.INT8, np.int8), (Element.INT16, np.int16)])
def test_between_codes_and_real_numbers(element: Element, kind: Any) -> None:
    """There in place from above, and back in place: 40 codes, their real numbers, and the codes again."""
    size, bytes_each, span = 40, np.dtype(kind).itemsize, 160
    at = span - size * bytes_each
    both = {"size": size, "scale": 0.05, "zero_point": 3}
    there = Op(OpCode.DEQUANTIZE, both | {"input": at, "output": 0, "overlap_bytes": (size - 1) * (4 - bytes_each)})
    there.values |= {"input_element": element, "output_element": Element.FLOAT32}
    back = Op(OpCode.QUANTIZE, both | {"input": 0, "output": 0, "overlap_bytes": 0})
    back.values |= {"input_element": Element.FLOAT32, "output_element": element}
    inputs, outputs = [Io(at, (size,), element=element)], [Io(0, (size,), element=element)]
    image = ImageBuilder(span, inputs, outputs, [there, back]).build()
    codes = np.random.default_rng(1).integers(np.iinfo(kind).min, np.iinfo(kind).max, size).astype(kind)
    model = Model(image)
    assert model.status == "OK"
    np.testing.assert_array_equal(model.run(codes.view(np.int8)).view(kind), codes)
    np.testing.assert_array_equal(next(iter(simulate(read_image(image), codes[None]).values()))[0], codes)


# ---- what is refused


def conv_image() -> ImageBuilder:
    names = ("stride_h", "stride_w", "dilation_h", "dilation_w", "in_c", "groups")
    op: dict[str, Any] = dict.fromkeys(names, 1) | {"pad_top": 0, "pad_left": 0, "out_c": 2}
    op |= {"in_h": 3, "in_w": 3, "out_h": 2, "out_w": 2, "kernel_h": 2, "kernel_w": 2, "output": 36}
    return ImageBuilder(
        68, [real(0, 9)], [real(36, 8)], [Op(OpCode.CONV_2D_F32, op, constant=np.ones((2, 5), np.float32))]
    )


def flat_image(code: OpCode, size: int = 4, outputs: int = 4, constant: Any = None, **more: Any) -> ImageBuilder:
    op = {"output": 4 * size} | more
    return ImageBuilder(
        4 * (size + outputs), [real(0, size)], [real(4 * size, outputs)], [Op(code, op, constant=constant)]
    )


def unary_image() -> ImageBuilder:
    builder = flat_image(OpCode.UNARY_F32, function=Function.WHOLE_POWER, alpha=2.0)
    builder.ops[0].values["size"] = 4
    return builder


def resize_image() -> ImageBuilder:
    op = {"in_h": 2, "in_w": 2, "in_c": 1, "out_h": 2, "out_w": 2}
    table = np.array([[0, 0.5], [1, 0], [0, 0.25], [1, 0]], np.float32)
    return flat_image(OpCode.RESIZE_BILINEAR_F32, constant=table, **op)


def reduce_image() -> ImageBuilder:
    return flat_image(OpCode.REDUCE_SUM_F32, outer=2, count=2, inner=1, divisor=2.0, outputs=2)


def softmax_image() -> ImageBuilder:
    return flat_image(OpCode.SOFTMAX_F32, rows=2, columns=2, beta=1.0)


def binary_image() -> ImageBuilder:
    walk = {"dims": (1, 2, 2), "repeats": 0, "repeats_b": 2, "reserved": 0, "flags": OpFlag.CONSTANT_B}
    return flat_image(OpCode.DIV_F32, constant=np.ones(2, np.float32), **walk)


def quantize_image() -> ImageBuilder:
    builder = flat_image(OpCode.QUANTIZE, scale=0.1, zero_point=0, input_element=Element.FLOAT32)
    builder.ops[0].values |= {"size": 4, "output_element": Element.INT8}
    builder.outputs = [Io(16, (4,))]
    return builder


def pad_image() -> ImageBuilder:
    op = {"dims": (1, 1, 1, 4), "before": (0, 0, 0, 1), "after": (0, 0, 0, 1), "value": 0.0}
    return flat_image(OpCode.PAD_F32, outputs=6, **op)


def copy_image() -> ImageBuilder:
    return flat_image(OpCode.STRIDED_COPY_F32, start=3, dims=(1, 1, 1, 4), strides=(0, 0, 0, -1))


NAN, INF = float("nan"), float("inf")
BENT: list[tuple[Any, str, float, int]] = [
    (conv_image, "input", 2, 0),
    (conv_image, "output", 38, 0),
    (conv_image, "output", 4, 0),
    (conv_image, "weights", -1, 0),
    (conv_image, "weights", 0xFFFFFFF0, 0),
    (conv_image, "weights", 2, 0),
    (conv_image, "groups", 0, 0),
    (conv_image, "out_c", 3, 0),
    (conv_image, "in_h", 0xFFFF, 0),
    (conv_image, "activation_min", NAN, 0),
    (conv_image, "activation_max", NAN, 0),
    (conv_image, "kernel_h", 0, 0),
    (unary_image, "function", 15, 0),
    (unary_image, "function", Function.EXP, 0),
    (unary_image, "function", 0xFFFFFFFF, 0),
    (unary_image, "alpha", NAN, 0),
    (unary_image, "alpha", 2.5, 0),
    (unary_image, "alpha", -1.0, 0),
    (unary_image, "alpha", 65.0, 0),
    (unary_image, "alpha", 3e38, 0),
    (unary_image, "beta", INF, 0),
    (unary_image, "size", 5, 0),
    (unary_image, "size", 0x40000000, 0),
    (unary_image, "input", 1, 0),
    (resize_image, "in_h", 1, 0),
    (resize_image, "table", -1, 0),
    (resize_image, "table", 0xFFFFFFFC, 0),
    (resize_image, "out_w", 0x40000000, 0),
    (reduce_image, "divisor", 0.0, 0),
    (reduce_image, "divisor", NAN, 0),
    (reduce_image, "count", 0, 0),
    (reduce_image, "count", 0x80000000, 0),
    (softmax_image, "beta", INF, 0),
    (softmax_image, "columns", 0x40000000, 0),
    (softmax_image, "rows", 0, 0),
    (binary_image, "repeats", 8, 0),
    (binary_image, "dims", 0, 1),
    (binary_image, "dims", 0x40000000, 0),
    (binary_image, "input_b", 0xFFFFFFFC, 0),
    (binary_image, "input_b", 2, 0),
    (binary_image, "flags", 0, 0),
    (quantize_image, "scale", 0.0, 0),
    (quantize_image, "scale", NAN, 0),
    (quantize_image, "scale", INF, 0),
    (quantize_image, "output_element", Element.FLOAT32, 0),
    (quantize_image, "input_element", Element.INT8, 0),
    (quantize_image, "output_element", 200, 0),
    (quantize_image, "input", 2, 0),
    (pad_image, "before", 0xFFFF, 3),
    (pad_image, "dims", 0, 0),
    (pad_image, "output", 18, 0),
    (copy_image, "start", 2, 0),
    (copy_image, "strides", -2, 3),
    (copy_image, "dims", 0xFFFFFFFF, 0),
    (copy_image, "output", 17, 0),
]
BUILDERS = (
    *(conv_image, unary_image, resize_image, reduce_image, softmax_image, binary_image),
    *(quantize_image, pad_image, copy_image),
)


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_images_that_are_bent_open(builder: Any) -> None:
    assert Model(builder().build()).status == "OK"
    read_image(builder().build())


@pytest.mark.parametrize(("builder", "name", "value", "index"), BENT)
def test_a_bent_field_is_refused(builder: Any, name: str, value: float, index: int) -> None:
    assert_refused(builder(), name, value, index)


@pytest.mark.parametrize("entry", [(0.5, 0.0), (2.0, 0.0), (1.0, 0.5), (NAN, 0.0), (0.0, NAN), (-1.0, 0.0), (0.0, 1.0)])
def test_a_place_that_is_none_is_refused(entry: tuple[float, float]) -> None:
    builder = resize_image()
    assert builder.ops[0].constant is not None
    builder.ops[0].constant[1] = entry
    assert Model(builder.build()).status == "LAYOUT"


@pytest.mark.parametrize(("name", "value"), [("arena_offset", 2), ("zero_point", 1), ("size_bytes", 8), ("element", 9)])
def test_a_bent_tensor_is_refused(name: str, value: int) -> None:
    image = bytearray(unary_image().build())
    at = layout.HEADER.unpack(bytes(image))["io_offset"]
    offset = next(o for o, f in layout.IO.offsets() if f.name == name)
    struct.pack_into("<i", image, at + offset, value)
    assert Model(seal(bytes(image))).status == "LAYOUT"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BUILDERS), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(builder: Any, changes: list[tuple[int, int]]) -> None:
    assert_safe(builder().build(), changes)


FLUSH = """
#include "check_float.h"
#include <xmmintrin.h>
#include <stdio.h>
int main(void) {
    const int before = fleet_float_is_ieee();
    _mm_setcsr(_mm_getcsr() | 0x8000u);
    printf("%d %d", before, fleet_float_is_ieee());
    return 0;
}
"""


@pytest.mark.skipif(cbuild.machine() != "x86_64", reason="sets the x86 control register")
def test_a_core_that_flushes_subnormal_numbers_is_found_out(tmp_path: Path) -> None:
    source = tmp_path / "flush.c"
    source.write_text(FLUSH)
    program = cbuild.executable("flush", [source, cbuild.RUNTIME / "check_ieee.c"], include=[cbuild.RUNTIME])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True, env=cbuild.clean_env())
    assert done.stdout == "1 0"


# ---- compiled models


def compiled(path: Path) -> Image:
    options = CompileOptions(type="float32")
    result = compile_model(path, load_device_class("host"), name="m", version="1", calibration=None, options=options)
    return read_image(result.image)


def check_every_op(image: Image, samples: int) -> None:
    model, (tensor,) = Model(image.data), image.inputs
    assert (model.status, model.verify(), model.golden()) == ("OK", "OK", "OK")
    x = np.random.default_rng(11).normal(0, 1, (samples, tensor.size_bytes // 4)).astype("<f4")
    arena = np.zeros((samples, image.arena_bytes), np.int8)
    arena[:, tensor.offset : tensor.offset + tensor.size_bytes] = x.view(np.int8)
    expected: list[np.ndarray] = []
    run_arena(image, arena, lambda _, output: expected.append(output.copy()))
    for sample in range(samples):
        for mine, theirs in zip(model.step_outputs(x[sample].view(np.int8)), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs[sample])


@pytest.mark.parametrize("model", [small_unet, sequence])
def test_models_with_every_kind_of_move(model: Any, tmp_path: Path) -> None:
    check_every_op(compiled(model(tmp_path / "m.onnx")), samples=2)


@pytest.mark.parametrize("case", [*CASES, *BOTH])
def test_float_operators_inside_a_quantised_model(case: str, tmp_path: Path) -> None:
    """The golden record covers every op's output."""
    if case in CASES:
        nodes, constants, output, _ = CASES[case]
        numbers, outputs = GRID | constants, (output,)
    else:
        numbers, (nodes, outputs, _) = BOTH_CONSTANTS, BOTH[case]
    path = save_model(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), numbers, outputs=outputs, opset=13)
    result = compile_model(path, load_device_class("cortex-m4"), name="m", version="1", calibration=None)
    model = Model(result.image)
    assert (model.status, model.golden()) == ("OK", "OK")


def test_digits() -> None:
    check_every_op(compiled(DIGITS / "digits_v1.onnx"), samples=2)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="TINYFLEET_SHARED names no folder with models/mlperf_tiny")
@pytest.mark.parametrize("name", MLPERF)
def test_mlperf_tiny(name: str) -> None:
    check_every_op(compiled(SHARED / f"{name}_float.onnx"), samples=1)
