"""More int8 operators against TensorFlow Lite Micro: products, rearrangements, resizes, functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet_compiler import CompileOptions, compile_model, read_image, simulate
from tinyfleet_compiler.importers.tflite_graph import import_tflite
from tinyfleet_compiler.importers.tflite_tables import FUNCTIONS
from tinyfleet_compiler.operators import OpCode
from unit.compiler.test_tflite_operators import SAMPLES, bias_codes, compare, layer_scales, many, scale, seeds, zero
from unit.compiler.tflite_models import HOST, Builder, codes, compiled_image, oracle, traced

ALL_CODES = np.arange(-128, 128, dtype=np.int8)[None, :]


def integers(built: Builder, *values: int) -> int:
    return built.tensor((len(values),), data=np.array(values, np.int32))


@many
@given(seeds, st.booleans(), st.booleans(), st.booleans())
def test_batch_matmul(tmp_path: Path, seed: int, adj_x: bool, adj_y: bool, repeated: bool) -> None:
    rng = np.random.default_rng(seed)
    batch, rows, depth, columns = (int(v) for v in rng.integers(1, 6, 4))
    first = (1, batch, depth, rows) if adj_x else (1, batch, rows, depth)
    second = (1, 1 if repeated else batch, *((columns, depth) if adj_y else (depth, columns)))
    a, b = (scale(rng, -7, 0), zero(rng)), (scale(rng, -7, 0), zero(rng))
    built = Builder()
    x, y = built.tensor(first, *a), built.tensor(second, *b)
    result = float(np.float32(a[0] * b[0] * 100 * np.sqrt(depth) * 2.0 ** rng.uniform(-2, 3)))
    z = built.tensor((1, batch, rows, columns), result, zero(rng))
    built.operator("BATCH_MATMUL", [x, y], z, 2, kind="BatchMatMulOptions", adjX=adj_x, adjY=adj_y)
    compare(tmp_path, built.data([x, y], [z]), [codes(rng, SAMPLES, *first[1:]), codes(rng, SAMPLES, *second[1:])])


@many
@given(seeds, st.booleans(), st.booleans(), st.integers(0, 3))
def test_transposed_convolution(tmp_path: Path, seed: int, same: bool, with_bias: bool, activation: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
    height, width, inputs, outputs = (int(v) for v in rng.integers(1, 5, 4))
    source = scale(rng)
    weights, result = layer_scales(rng, source, outputs, inputs * int(kernel.prod()), True)
    size = np.array([height, width])
    shape = size * stride if same else (size - 1) * stride + kernel
    built = Builder()
    x = built.tensor((1, height, width, inputs), source, zero(rng))
    w = built.tensor((outputs, *map(int, kernel), inputs), weights, data=codes(rng, outputs, *kernel, inputs))
    s = integers(built, 1, *map(int, shape), outputs)
    used = [s, w, x]
    if with_bias:
        used.append(built.tensor((outputs,), weights * source, data=bias_codes(rng, outputs, inputs)))
    y = built.tensor((1, *map(int, shape), outputs), result, zero(rng))
    options = {"padding": 0 if same else 1, "strideH": int(stride[0]), "strideW": int(stride[1])}
    options["fusedActivationFunction"] = activation
    built.operator("TRANSPOSE_CONV", used, y, 3, kind="TransposeConvOptions", **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, height, width, inputs)])


@many
@given(
    seeds, st.sampled_from(["RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"]), st.sampled_from([(0, 0), (1, 0), (0, 1)])
)
def test_resize(tmp_path: Path, seed: int, operator: str, flags: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    height, width, channels, rows, columns = (int(v) for v in rng.integers(1, 9, 5))
    parameters = scale(rng), zero(rng)
    built = Builder()
    x = built.tensor((1, height, width, channels), *parameters)
    y = built.tensor((1, rows, columns, channels), *parameters)
    kind = "ResizeBilinearOptions" if operator.endswith("LINEAR") else "ResizeNearestNeighborOptions"
    options = {"alignCorners": bool(flags[0]), "halfPixelCenters": bool(flags[1])}
    built.operator(operator, [x, integers(built, rows, columns)], y, 3, kind=kind, **options)
    compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, height, width, channels)])


@many
@given(seeds, st.sampled_from(["DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "MIRROR_PAD", "GATHER", "PACK", "BROADCAST_TO"]))
def test_rearrangements(tmp_path: Path, seed: int, operator: str) -> None:
    rng = np.random.default_rng(seed)
    height, width, channels = (int(v) for v in rng.integers(2, 6, 3))
    parameters = scale(rng), zero(rng)
    built = Builder()
    shape, more, options = (1, height, width, channels), [], {}
    result: tuple[int, ...] = shape
    if operator == "DEPTH_TO_SPACE":
        shape, result = (1, height, width, channels * 4), (1, height * 2, width * 2, channels)
        options = {"kind": "DepthToSpaceOptions", "blockSize": 2}
    elif operator == "SPACE_TO_DEPTH":
        shape, result = (1, height * 2, width * 2, channels), (1, height, width, channels * 4)
        options = {"kind": "SpaceToDepthOptions", "blockSize": 2}
    elif operator == "MIRROR_PAD":
        pads = rng.integers(0, 2, (4, 2)) * [[0], [1], [1], [1]]
        result = tuple(int(d + p.sum()) for d, p in zip(shape, pads, strict=True))
        more, options = (
            [built.tensor((4, 2), data=pads.astype(np.int32))],
            {"kind": "MirrorPadOptions", "mode": seed % 2},
        )
    elif operator == "GATHER":
        axis, indices = int(rng.integers(1, 4)), rng.integers(0, 2, 3)
        result = (*shape[:axis], 3, *shape[axis + 1 :])
        more, options = [integers(built, *map(int, indices))], {"kind": "GatherOptions", "axis": axis}
    elif operator == "BROADCAST_TO":
        shape = (1, height, 1, channels)
        more, options = [integers(built, *result)], {"kind": "BroadcastToOptions"}
    x = built.tensor(shape, *parameters)
    given_inputs = [x]
    if operator == "PACK":
        axis = int(rng.integers(1, 4))
        shape = (1, height, width)
        built.graph.tensors[x].shape = list(shape)
        given_inputs = [x, built.tensor(shape, *parameters)]
        result = (*shape[:axis], 2, *shape[axis:])
        options = {"kind": "PackOptions", "axis": axis, "valuesCount": 2}
    y = built.tensor(result, *parameters)
    built.operator(operator, [*given_inputs, *more], y, 2, **options)
    compare(tmp_path, built.data(given_inputs, [y]), [codes(rng, SAMPLES, *shape[1:]) for _ in given_inputs])


@many
@given(seeds, st.sampled_from(["SPLIT", "SPLIT_V", "UNPACK"]), st.integers(1, 3))
def test_several_outputs(tmp_path: Path, seed: int, operator: str, axis: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [2, 2, 2] if operator == "SPLIT" else [1, 1] if operator == "UNPACK" else [1, 4, 2]
    shape = [1, *(int(v) for v in rng.integers(1, 5, 3))]
    shape[axis] = sum(sizes)
    parameters = scale(rng), zero(rng)
    built = Builder()
    x = built.tensor(shape, *parameters)
    parts = []
    for size in sizes:
        kept = [*shape[:axis], *([] if operator == "UNPACK" else [size]), *shape[axis + 1 :]]
        parts.append(built.tensor(kept, *parameters))
    inputs = {"SPLIT": [integers(built, axis), x], "UNPACK": [x]}
    inputs["SPLIT_V"] = [x, integers(built, *sizes), integers(built, axis)]
    options = {"SPLIT": {"kind": "SplitOptions", "numSplits": 3}, "SPLIT_V": {"kind": "SplitVOptions", "numSplits": 3}}
    options["UNPACK"] = {"kind": "UnpackOptions", "axis": axis, "num": 2}
    built.operator(operator, inputs[operator], parts[0], 2, **options[operator])
    built.graph.operators[-1].outputs = parts
    data, sent = built.data([x], parts), [codes(rng, SAMPLES, *shape[1:])]
    image, wanted = compiled_image(tmp_path, data), oracle(data, sent, parts)
    ours = simulate(image, {image.inputs[0].name: sent[0]})
    for tensor, part in zip(image.outputs, wanted, strict=True):
        np.testing.assert_array_equal(ours[tensor.name].reshape(SAMPLES, -1), part.astype(np.int8))


@many
@given(seeds, st.booleans(), st.integers(0, 7), st.integers(0, 7))
def test_strided_slice_masks(tmp_path: Path, seed: int, shrink: bool, begin_mask: int, end_mask: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 7, 3)
    at = int(rng.integers(0, 3)) if shrink else -1
    begins, steps = rng.integers(0, shape), rng.choice([1, 2, -1], 3)
    ends = np.where(steps > 0, rng.integers(begins + 1, shape + 1), rng.integers(-shape - 1, begins - shape))
    steps[at] = 1 if shrink else steps[at]
    cuts: list[Any] = []
    for axis in range(3):
        first = None if begin_mask >> axis & 1 else int(begins[axis])
        last = None if end_mask >> axis & 1 else int(ends[axis])
        cuts.append((first or 0) if axis == at else slice(first, last, int(steps[axis])))
    result = np.zeros(shape)[tuple(cuts)].shape
    parameters = scale(rng), zero(rng)
    built = Builder()
    x, y = built.tensor((1, *map(int, shape)), *parameters), built.tensor((1, *result), *parameters)
    used = [x, *(integers(built, first, *map(int, v)) for first, v in ((0, begins), (1, ends), (1, steps)))]
    masks = {"beginMask": begin_mask << 1, "endMask": end_mask << 1, "shrinkAxisMask": 2 << at if shrink else 0}
    built.operator("STRIDED_SLICE", used, y, 2, kind="StridedSliceOptions", **masks)
    if min(result, default=1) > 0:
        compare(tmp_path, built.data([x], [y]), [codes(rng, SAMPLES, *map(int, shape))])


@many
@given(seeds, st.sampled_from(["ELU", "HARD_SWISH", "ABS", "PRELU"]))
def test_functions(tmp_path: Path, seed: int, operator: str) -> None:
    """All 256 codes."""
    rng = np.random.default_rng(seed)
    source = scale(rng, -9, 0), zero(rng)
    result = float(np.float32(source[0] * 2.0 ** rng.uniform(-1, 3))), zero(rng)
    built = Builder()
    x, y = built.tensor((1, 4, 1, 64), *source), built.tensor((1, 4, 1, 64), *result)
    more = [built.tensor((1, 1, 64), 0.01, 0, data=codes(rng, 1, 1, 64))] if operator == "PRELU" else []
    options = {"kind": f"{operator.title().replace('_', '')}Options"} if operator in ("ABS", "HARD_SWISH") else {}
    built.operator(operator, [x, *more], y, 1, **options)
    compare(tmp_path, built.data([x], [y]), [ALL_CODES.reshape(1, 4, 1, 64)])


@many
@given(seeds, st.sampled_from(["ARG_MAX", "ARG_MIN"]), st.integers(1, 3))
def test_arg_max(tmp_path: Path, seed: int, operator: str, axis: int) -> None:
    rng = np.random.default_rng(seed)
    shape = [1, *(int(v) for v in rng.integers(1, 6, 3))]
    built = Builder()
    x = built.tensor(shape, 0.1, 3)
    y = built.tensor([*shape[:axis], *shape[axis + 1 :]], kind="i4")
    kind = {"kind": "ArgMaxOptions" if operator == "ARG_MAX" else "ArgMinOptions", "outputType": 2}
    built.operator(operator, [x, built.tensor((), data=np.array(axis, np.int32))], y, 2, **kind)
    data, sent = built.data([x], [y]), [codes(rng, SAMPLES, *shape[1:])]
    (wanted,) = oracle(data, sent)
    np.testing.assert_array_equal(traced(compiled_image(tmp_path, data), sent)[-1].astype(int) + 128, wanted)


@many
@given(seeds, st.booleans())
def test_squared_difference(tmp_path: Path, seed: int, repeated: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(1, 6, 3))
    size = (1, 1, shape[2]) if repeated else shape
    first, second = scale(rng, -6, 0), scale(rng, -6, 0)
    built = Builder()
    a, b = built.tensor((1, *shape), first, zero(rng)), built.tensor((1, *size), second, zero(rng))
    result = float(np.float32(max(first, second) ** 2 * 128 * 2.0 ** rng.uniform(-1, 3)))
    y = built.tensor((1, *shape), result, zero(rng))
    built.operator("SQUARED_DIFFERENCE", [a, b], y, 2, kind="SquaredDifferenceOptions")
    compare(tmp_path, built.data([a, b], [y]), [codes(rng, SAMPLES, *shape), codes(rng, SAMPLES, *size)])


@pytest.mark.parametrize(
    "operator", ["EXP", "NEG", "SQUARE", "SQRT", "LOG", "SIN", "COS", "FLOOR", "CEIL", "ROUND", "GELU"]
)
def test_functions_without_an_oracle_hold_the_nearest_codes(tmp_path: Path, operator: str) -> None:
    functions: dict[str, Any] = {"EXP": np.exp, "NEG": np.negative, "SQUARE": np.square, "SIN": np.sin, "COS": np.cos}
    functions |= {"FLOOR": np.floor, "CEIL": np.ceil, "ROUND": np.rint}
    built = Builder()
    x, y = built.tensor((1, 256), 0.02, 3), built.tensor((1, 256), 0.06, -20)
    built.operator(operator, [x], y, 1, **({"kind": "GeluOptions"} if operator == "GELU" else {}))
    image = compiled_image(tmp_path, built.data([x], [y]))
    assert [op.code for op in image.ops] == [OpCode.LUT_INT8]
    got = traced(image, [ALL_CODES])[-1].astype(int)
    real = (ALL_CODES.astype(float) - 3) * float(np.float32(0.02))
    if operator in functions:
        wanted = np.clip(functions[operator](real) / np.float32(0.06) - 20, -128, 127)
        assert np.abs(got - wanted).max() <= 0.5 + 1e-4


def test_top_k_takes_values_and_indices(tmp_path: Path) -> None:
    built = Builder()
    x = built.tensor((1, 3, 9), 0.1, 5)
    values, indices = built.tensor((1, 3, 4), 0.1, 5), built.tensor((1, 3, 4), kind="i4")
    built.operator("TOPK_V2", [x, built.tensor((), data=np.array(4, np.int32))], values, 2, kind="TopKV2Options")
    built.graph.operators[-1].outputs = [values, indices]
    sent = codes(np.random.default_rng(1), 20, 3, 9)
    image = compiled_image(tmp_path, built.data([x], [values, indices]))
    ours = traced(image, [sent])
    order = np.argsort(-sent.astype(int), axis=2, kind="stable")[..., :4]
    np.testing.assert_array_equal(ours[0].reshape(20, 3, 4), np.take_along_axis(sent, order, 2))
    np.testing.assert_array_equal(ours[1].reshape(20, 3, 4).astype(int) + 128, order)


@pytest.mark.parametrize("operator", ["ADD_N", "CUMSUM", "SELECT_V2", "GATHER_ND", "WHILE"])
def test_what_is_not_taken_is_named_with_its_reason(tmp_path: Path, operator: str) -> None:
    built = Builder()
    x, y = built.tensor((1, 8), 0.1, 0), built.tensor((1, 8), 0.1, 0)
    built.operator(operator, [x], y, 1)
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    (problem,) = import_tflite(path).problems
    assert problem.operator == operator
    assert problem.help


def test_cast_keeps_indices(tmp_path: Path) -> None:
    built = Builder()
    x, i, y = built.tensor((1, 9), 0.1, 5), built.tensor((1,), kind="i4"), built.tensor((1,), kind="f4")
    axis = built.tensor((), data=np.array(1, np.int32))
    built.operator("ARG_MAX", [x, axis], i, 2, kind="ArgMaxOptions", outputType=2)
    built.operator("CAST", [i], y, 1)
    sent = codes(np.random.default_rng(2), 20, 9)
    image = compiled_image(tmp_path, built.data([x], [y]))
    assert [op.code for op in image.ops] == [OpCode.ARG_MAX]
    np.testing.assert_array_equal(traced(image, [sent])[-1][:, 0].astype(int) + 128, sent.argmax(axis=1))


def test_tile_repeats(tmp_path: Path) -> None:
    built = Builder()
    x, y = built.tensor((1, 3, 4, 2), 0.1, 5), built.tensor((1, 6, 12, 4), 0.1, 5)
    built.operator("TILE", [x, integers(built, 1, 2, 3, 2)], y, 1)
    sent = codes(np.random.default_rng(3), 5, 3, 4, 2)
    got = traced(compiled_image(tmp_path, built.data([x], [y])), [sent])[-1]
    np.testing.assert_array_equal(got, np.tile(sent, (1, 2, 3, 2)).reshape(5, -1))


@pytest.mark.parametrize("operator", [*sorted(FUNCTIONS), "ABS", "ELU", "HARD_SWISH", "RSQRT"])
def test_functions_of_real_numbers(tmp_path: Path, operator: str) -> None:
    """A float file has the float32 kernel of the same function: TFLM's numbers, where it has it for floats."""
    built = Builder()
    x, y = (built.tensor((1, 64), kind="f4") for _ in range(2))
    built.operator(operator, [x], y, 1, **({"kind": "GeluOptions"} if operator == "GELU" else {}))
    path = tmp_path / "m.tflite"
    path.write_bytes(built.data([x], [y]))
    made = compile_model(
        path, HOST, name="m", version="v1", calibration=None, options=CompileOptions(type="float32", golden_vectors=1)
    )
    sent = np.random.default_rng(1).uniform(0.1, 3.0, (4, 64)).astype(np.float32)
    sent *= 1.0 if operator in ("LOG", "SQRT", "RSQRT") else np.where(np.arange(64) % 2, 1, -1).astype(np.float32)
    image = read_image(made.image)
    ours = simulate(image, sent)[image.outputs[0].name]
    wanted = oracle(path.read_bytes(), [sent])[0] if operator not in ("GELU", "SIGN") else FUNCTIONS[operator](sent)
    np.testing.assert_allclose(ours, wanted, rtol=2e-6, atol=2e-7)
