"""Int8 operators that work element by element, as NUMERICS.md states them."""

from collections.abc import Callable

import numpy as np

from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.kernels.finish import Int8, finish
from tinyfleet_compiler.layout import LUT_ENTRIES
from tinyfleet_compiler.numerics import rescale
from tinyfleet_compiler.operators import Element, OpCode


def _lut(image: Image, op: ImageOp, arena: Int8) -> Int8:
    table = image.array(op.table, LUT_ENTRIES, Element.INT8)
    return table[arena[:, op.input : op.input + op.size].astype(np.int64) + 128]


def _prelu(image: Image, op: ImageOp, arena: Int8) -> Int8:
    slopes = np.resize(image.array(op.slopes, op.slope_count, Element.INT8), op.size).astype(np.int64)
    x = arena[:, op.input : op.input + op.size].astype(np.int64) - op.input_zero_point
    positive = rescale(np.maximum(x, 0), op.multiplier, op.shift)
    negative = rescale(np.minimum(x, 0) * slopes, op.slope_multiplier, op.slope_shift)
    return finish(op, np.where(x >= 0, positive, negative))


KERNELS: dict[OpCode, Callable[[Image, ImageOp, Int8], Int8]] = {OpCode.LUT_INT8: _lut, OpCode.PRELU: _prelu}
