"""Images for firmware with CMSIS-NN: no overlap, its scratch, its packing; everything else as before."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.compile_graph import Compiled, Identity, compile_graph
from tinyfleet_compiler.fit_cmsis_nn import fit_cmsis_nn
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.kernels.windows import Geometry
from tinyfleet_compiler.layout import NO_OVERLAP
from tinyfleet_compiler.load_model import load_graph
from tinyfleet_compiler.operators import Element, OpCode, Packing, SectionKind
from tinyfleet_compiler.quantize.weights import WeightBlock

SHARED = Path(os.environ.get("TINYFLEET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
KWS = SHARED / "models" / "mlperf_tiny" / "kws_dscnn_int8.tflite"
DEVICE = replace(load_device_class("cortex-m4"), kernels="cmsis-nn")


def window_op(code: OpCode, g: Geometry) -> Op:
    fields = {name: getattr(g, name) for name in Geometry.__dataclass_fields__}
    return Op("op", code, ("x",), "y", fields, 0, reversed_overlap_bytes=0, overlapping_inputs=("x",))


def dense_op(multipliers: list[int]) -> Op:
    count = len(multipliers)
    rows, shifts = np.ones((count, 5), np.int8), np.full(count, -3, np.int8)
    block = WeightBlock(rows, np.zeros(count, np.int64), np.array(multipliers), shifts, Element.INT8)
    fields: dict[str, Any] = {"rows": 1, "in_features": 5, "out_features": count}
    return Op("op", OpCode.FULLY_CONNECTED, ("x",), "y", fields, 0, overlapping_inputs=("x",), weights=block)


@pytest.mark.parametrize(
    ("op", "scratch"),
    [
        # 4 bytes a channel for shifts, 4 more for biases where taps are padded; columns of two pixels of int16.
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 8, 8, 10, 1, 1, 1, 1, 1, 1, 0, 0, 1)), 40),
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 6, 6, 10, 3, 3, 1, 1, 1, 1, 0, 0, 1)), 40 + 2 * 2 * 144),
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 8, 8, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1)), 80 + 2 * 2 * 144),
        # padded on the right and below alone
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 4, 4, 10, 3, 3, 2, 2, 1, 1, 0, 0, 1)), 80 + 2 * 2 * 144),
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 8, 8, 10, 1, 1, 1, 1, 2, 2, 0, 0, 1)), 40 + 2 * 2 * 16),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 8, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 16)), 128 + 2 * 144),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 6, 6, 16, 3, 3, 1, 1, 1, 1, 0, 0, 16)), 64 + 2 * 144),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 6, 6, 32, 3, 3, 1, 1, 1, 1, 0, 0, 16)), 128),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 4, 4, 16, 3, 3, 1, 1, 2, 2, 0, 0, 16)), 64),
        (dense_op([7, 7, 7]), 0),
        (dense_op([7, 7, 8]), 12),
    ],
)
def test_scratch_is_what_the_adapters_and_cmsis_nn_ask_for(op: Op, scratch: int) -> None:
    (fitted,) = fit_cmsis_nn([op])
    assert fitted.scratch_bytes == scratch
    assert (fitted.overlap_bytes, fitted.reversed_overlap_bytes, fitted.overlapping_inputs) == (NO_OVERLAP, None, ())
    depthwise = op.code is OpCode.DEPTHWISE_CONV_2D
    assert fitted.packing is (Packing.CHANNELS_LAST if depthwise else Packing.ROW_MAJOR)


@pytest.mark.parametrize(
    ("op", "scratch"),
    [
        # four columns of bytes, whole groups of eight; depthwise four columns of 124 channels
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 3, 6, 6, 10, 3, 3, 1, 1, 1, 1, 0, 0, 1)), 40 + 4 * 32),
        (window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 8, 8, 10, 1, 1, 1, 1, 1, 1, 0, 0, 1)), 40),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 8, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 16)), 128 + 4464),
        (window_op(OpCode.DEPTHWISE_CONV_2D, Geometry(8, 8, 16, 4, 4, 16, 3, 3, 1, 1, 2, 2, 0, 0, 16)), 64),
        (dense_op([7, 7, 8]), 12),
    ],
)
def test_a_core_with_helium_gets_the_scratch_of_its_kernels(op: Op, scratch: int) -> None:
    assert fit_cmsis_nn([op], helium=True)[0].scratch_bytes == scratch


def test_what_cmsis_nn_does_not_take_stays() -> None:
    grouped = window_op(OpCode.CONV_2D, Geometry(8, 8, 16, 8, 8, 10, 3, 3, 1, 1, 1, 1, 1, 1, 2))
    pool = window_op(OpCode.MAX_POOL_2D, Geometry(8, 8, 16, 4, 4, 16, 2, 2, 2, 2, 1, 1, 0, 0, 1))
    assert fit_cmsis_nn([grouped, pool]) == (grouped, pool)


def compiled(kernels: str) -> Compiled:
    return compile_graph(load_graph(KWS), {}, "as-imported", Identity("m", "v1", "cortex-m4", kernels=kernels))


@pytest.mark.skipif(not KWS.is_file(), reason="TINYFLEET_SHARED names no folder with models")
def test_a_compiled_model_shares_no_byte_between_input_and_output() -> None:
    result = compile_model(KWS, DEVICE, name="m", version="v1", calibration=None)
    image, plain = read_image(result.image), compiled("dsp").image
    by_code = [op for op in image.ops if op.code in (OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D)]
    assert {op.code for op in by_code} == {OpCode.CONV_2D, OpCode.DEPTHWISE_CONV_2D}
    for op in by_code:
        sizes = (op.in_h * op.in_w * op.in_c, op.out_h * op.out_w * op.out_c)
        assert op.input + sizes[0] <= op.output or op.output + sizes[1] <= op.input
        assert op.overlap_bytes == NO_OVERLAP
    assert image.arena_bytes > plain.arena_bytes
    # The same model: only the order of the bytes differs, and tools see rows either way.
    for ours, theirs in zip(plain.sections, image.sections, strict=True):
        np.testing.assert_array_equal(plain.section_array(ours), image.section_array(theirs))
    packings = {section.packing for section in image.sections if section.kind is SectionKind.WEIGHTS}
    assert packings == {Packing.ROW_MAJOR, Packing.CHANNELS_LAST}
    assert image.golden == plain.golden
