"""What SPEC.md section 9 asks of op records: nothing they name lies outside the image or the arena."""

from collections.abc import Callable, Iterator
from typing import Any

from tinyfleet_compiler import layout
from tinyfleet_compiler.check_binary import BINARY_FLAGS, binary_sizes, span_b, wrong_binary
from tinyfleet_compiler.check_features import features_table_bytes, wrong_features
from tinyfleet_compiler.check_float import wrong_float
from tinyfleet_compiler.check_int16 import INT16_SIZES, wrong_int16
from tinyfleet_compiler.check_moves import MOVE_SIZES, more_inputs, wrong_move, wrong_transposed
from tinyfleet_compiler.check_products import PRODUCT_FLAGS, PRODUCT_SIZES, matmul_elements_b, wrong_product
from tinyfleet_compiler.check_state import (
    FLOAT_GATES,
    GATES_OF,
    STATE_SIZES,
    float_gates_table_bytes,
    gates_table_bytes,
    svdf_table_bytes,
    wrong_state_op,
)
from tinyfleet_compiler.operators import (
    CODE_RANGES,
    ELEMENT_BYTES,
    OPERATORS,
    Element,
    OpCode,
    OpFlag,
    Packing,
    counterpart,
    row_bytes,
    tensor_bytes,
)

Fields = dict[str, Any]
_MOST_PAD = 255
MOST_COUNT, MOST_CLASSES = 1 << 23, 256
MOST_EXPONENTIALS = 4096
"""A row of a softmax over integers: their sum stays inside 32 bits."""
_EXPONENTIALS = (OpCode.SOFTMAX, OpCode.LOG_SOFTMAX, OpCode.SOFTMAX_INT16)
_FLAGS = {
    OpCode.CONV_2D: OpFlag.REVERSED,
    OpCode.DEPTHWISE_CONV_2D: OpFlag.REVERSED,
    OpCode.ADD: OpFlag.CONSTANT_B,
    OpCode.AVERAGE_POOL_2D: OpFlag.COUNT_INCLUDE_PAD,
    OpCode.CONCAT: OpFlag.CONSTANT_B | OpFlag.SWAPPED,
    OpCode.GATHER: OpFlag.SAME_ROWS,
    OpCode.CONV_2D_INT16: OpFlag.REVERSED,
    OpCode.DEPTHWISE_CONV_2D_INT16: OpFlag.REVERSED,
    OpCode.CONV_2D_INT4: OpFlag.REVERSED,
    OpCode.DEPTHWISE_CONV_2D_INT4: OpFlag.REVERSED,
    OpCode.AVERAGE_POOL_2D_INT16: OpFlag.COUNT_INCLUDE_PAD,
    OpCode.LSTM: OpFlag.GIVEN_START,
    OpCode.GRU: OpFlag.GIVEN_START | OpFlag.RESET_FIRST,
    **BINARY_FLAGS,
    **PRODUCT_FLAGS,
}


def _is_packing(code: OpCode, packing: int) -> bool:
    if packing == Packing.CHANNELS_LAST:
        return code is OpCode.DEPTHWISE_CONV_2D
    return packing == Packing.ROW_MAJOR


def wrong_op(code: OpCode, f: Fields, header: Fields, image_bytes: int) -> str:
    """The first rule a record breaks, "" for a good one."""
    like = counterpart(code)
    if f["flags"] & ~int(_FLAGS.get(like, OpFlag.NONE)) or not _is_packing(code, f["packing"]):
        return "unknown flags or packing"
    if any(f[name] < 1 for name in _POSITIVE if name in f and not isinstance(f[name], tuple)):
        return "a size is zero"
    if "count" in f and f["count"] > (MOST_CLASSES if code in (OpCode.ARG_MAX, OpCode.ARG_MIN) else MOST_COUNT):
        return "too many values are reduced"
    if code in _EXPONENTIALS and f["columns"] > MOST_EXPONENTIALS:
        return "too many classes"
    if "kernel_h" in f and (reason := _wrong_window(like, f)):
        return reason
    element_bytes = ELEMENT_BYTES[OPERATORS[code].element]
    if reason := wrong_binary(like, f, element_bytes) or wrong_move(like, f):
        return reason
    if reason := wrong_product(code, f) or wrong_int16(code, f) or wrong_state_op(code, f, header):
        return reason
    if code is OpCode.FEATURES and (reason := wrong_features(f)):
        return reason
    if "input_element" in f and code is not OpCode.FEATURES and (reason := _wrong_elements(code, f)):
        return reason
    if reason := wrong_float(code, f):
        return reason
    in_bytes, out_bytes = tensor_bytes(code, f)
    in_size, out_size = op_bytes(code, f)
    for offset, size in ((f["input"], in_size), (f["output"], out_size), *_extra(f, in_bytes)):
        if offset + size > header["arena_bytes"]:
            return "a tensor lies outside the arena"
    second = 0 if "input_b" not in f else f["input_b"] % ELEMENT_BYTES[OPERATORS[code].element]
    if f["input"] % in_bytes or f["output"] % out_bytes or second:
        return "a tensor is misaligned"
    if _overlaps_badly(f, f["input"], in_size, out_size):
        return "the output overlaps the input too closely"
    scratch = f["scratch"], f["scratch_bytes"]
    if scratch[1] and (_meet(scratch, f["input"], in_size) or _meet(scratch, f["output"], out_size)):
        return "the scratch overlaps a tensor"
    if any(_meet(operand, f["output"], out_size) for operand in (more_inputs(f) if "inputs_more" in f else ())):
        return "the output overlaps a later input"
    if any(end > limit for end, limit in _image_ends(code, f, header, image_bytes)):
        return "weights or channels lie outside the image"
    return "" if all(f[n] >= 0 for n in f if n.endswith("multiplier")) else "a multiplier is negative"


_POSITIVE = (
    *("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w", "stride_h", "stride_w"),
    *("dilation_h", "dilation_w", "groups", "rows", "in_features", "out_features", "columns", "size", "size_b"),
    *("features", "filters", "rank", "memory", "units", "steps"),
    *("slope_count", "outer", "count", "inner", "depth", "run"),
)


def op_bytes(code: OpCode, f: Fields) -> tuple[int, int]:
    """Bytes that a record's first input and its output span."""
    sizes, each = _SIZES[counterpart(code)](f), tensor_bytes(code, f)
    return sizes[0] * each[0], sizes[1] * each[1]


def _meet(operand: tuple[int, int], output: int, out_size: int) -> bool:
    return operand[0] < output + out_size and output < sum(operand)


def _window_sizes(f: Fields) -> tuple[int, int]:
    return f["in_h"] * f["in_w"] * f["in_c"], f["out_h"] * f["out_w"] * f["out_c"]


def _flat_sizes(f: Fields) -> tuple[int, int]:
    return f["size"], f["size"]


def _transpose_sizes(f: Fields) -> tuple[int, int]:
    out, last = 1, 0
    for size, stride in zip(f["dims"], f["strides"], strict=True):
        out *= max(size, 0)
        last += (max(size, 1) - 1) * stride
    return last + 1, out


def _reduce_sizes(f: Fields) -> tuple[int, int]:
    return f["outer"] * f["count"] * f["inner"], f["outer"] * f["inner"]


_SIZES: dict[OpCode, Callable[[Fields], tuple[int, int]]] = {
    OpCode.CONV_2D: _window_sizes,
    OpCode.DEPTHWISE_CONV_2D: _window_sizes,
    OpCode.TRANSPOSE_CONV_2D: _window_sizes,
    OpCode.MAX_POOL_2D: _window_sizes,
    OpCode.AVERAGE_POOL_2D: _window_sizes,
    OpCode.FULLY_CONNECTED: lambda f: (f["rows"] * f["in_features"], f["rows"] * f["out_features"]),
    OpCode.ADD: _flat_sizes,
    OpCode.RESCALE: _flat_sizes,
    OpCode.SOFTMAX: lambda f: (f["rows"] * f["columns"],) * 2,
    OpCode.TRANSPOSE: _transpose_sizes,
    OpCode.FEATURES: lambda f: (f["samples"], f["frames"] * f["coefficients"]),
    **MOVE_SIZES,
    **STATE_SIZES,
    OpCode.LOG_SOFTMAX: lambda f: (f["rows"] * f["columns"],) * 2,
    OpCode.LUT_INT8: _flat_sizes,
    OpCode.PRELU: _flat_sizes,
    **dict.fromkeys(BINARY_FLAGS, binary_sizes),
    **dict.fromkeys(
        (OpCode.REDUCE_SUM, OpCode.REDUCE_MAX, OpCode.REDUCE_MIN, OpCode.ARG_MAX, OpCode.ARG_MIN), _reduce_sizes
    ),
    **PRODUCT_SIZES,
    OpCode.CONV_2D_INT4: _window_sizes,
    OpCode.DEPTHWISE_CONV_2D_INT4: _window_sizes,
    OpCode.FULLY_CONNECTED_INT4: lambda f: (f["rows"] * f["in_features"], f["rows"] * f["out_features"]),
    **INT16_SIZES,
}


_TRANSPOSED = (OpCode.TRANSPOSE_CONV_2D, OpCode.TRANSPOSE_CONV_2D_INT16)
_DEPTHWISE = (OpCode.DEPTHWISE_CONV_2D, OpCode.DEPTHWISE_CONV_2D_INT16, OpCode.DEPTHWISE_CONV_2D_INT4)


def _wrong_window(code: OpCode, f: Fields) -> str:
    if code in _TRANSPOSED:
        return wrong_transposed(f)
    if f["in_c"] % f["groups"] or f["out_c"] % f["groups"]:
        return "channels are no multiple of the groups"
    if code in _DEPTHWISE and f["groups"] != f["in_c"]:
        return "a depthwise operator has other groups than channels"
    if "weights" not in f and f["out_c"] != f["in_c"]:
        return "a pool changes the number of channels"
    if any((f[f"kernel_{a}"] - 1) * f[f"dilation_{a}"] >= f[f"in_{a}"] + 2 * _MOST_PAD for a in "hw"):
        return "the kernel is larger than the padded input"
    # The last window may hang over by no more than pads can say; wilder sizes only cost memory here.
    reach_h = (f["out_h"] - 1) * f["stride_h"] - f["pad_top"]
    reach_w = (f["out_w"] - 1) * f["stride_w"] - f["pad_left"]
    return (
        "windows start outside the input"
        if reach_h >= f["in_h"] + _MOST_PAD or reach_w >= f["in_w"] + _MOST_PAD
        else ""
    )


def _wrong_elements(code: OpCode, f: Fields) -> str:
    elements = (f["input_element"], f["output_element"])
    if any(one not in CODE_RANGES and one != Element.FLOAT32 for one in elements):
        return "an unknown element type"
    codes = [one in CODE_RANGES for one in elements]
    wanted = {OpCode.DEQUANTIZE: [True, False], OpCode.QUANTIZE: [False, True]}.get(code, [True, True])
    return "" if codes == wanted else "element types that the operator does not turn into each other"


def _extra(f: Fields, element_bytes: int) -> Iterator[tuple[int, int]]:
    if "input_b" in f and not f["flags"] & OpFlag.CONSTANT_B:
        yield f["input_b"], _elements_b(f) * element_bytes
    if "inputs_more" in f:
        yield from more_inputs(f)
    if f["scratch_bytes"]:
        yield f["scratch"], f["scratch_bytes"]


def _elements_b(f: Fields) -> int:
    """Elements the second operand spans."""
    if "size_b" in f:
        return int(f["size_b"])
    return matmul_elements_b(f) if "steps_b" in f else span_b(f)


def _overlaps_badly(f: Fields, source: int, in_size: int, out_size: int) -> bool:
    apart = source + in_size <= f["output"] or f["output"] + out_size <= source
    distance = source - f["output"]
    if f["flags"] & OpFlag.REVERSED:
        distance = -distance
    return not apart and (f["overlap_bytes"] == layout.NO_OVERLAP or distance < f["overlap_bytes"])


def _image_ends(code: OpCode, f: Fields, header: Fields, image_bytes: int) -> Iterator[tuple[int, int]]:
    if "channel" in f:
        dense = "out_features" in f
        channels = f["out_features" if dense else "out_c"]
        yield f["channel"] + channels, header["channel_count"]
        per_channel = f["in_features"] if dense else _taps(f)
        yield f["weights"] + channels * row_bytes(OPERATORS[code].weight_element, per_channel), image_bytes
        if f.get("biases_high", layout.NO_OFFSET) != layout.NO_OFFSET:
            yield f["biases_high"] + 2 * channels, image_bytes
    if code is OpCode.SVDF:
        yield f["table"] + svdf_table_bytes(f), image_bytes
        yield f["table"] % layout.SECTION_ALIGN, 0
    if code in GATES_OF:
        bytes_of = float_gates_table_bytes if code in FLOAT_GATES else gates_table_bytes
        yield f["table"] + bytes_of(code, f), image_bytes
        yield f["table"] % layout.SECTION_ALIGN, 0
    if code is OpCode.LUT_INT8:
        yield f["table"] + layout.LUT_ENTRIES, image_bytes
    if code is OpCode.FEATURES:
        yield f["table"] + features_table_bytes(f), image_bytes
    if code is OpCode.LUT_INT16:
        yield f["table"] + 2 * layout.LUT_INT16_ENTRIES, image_bytes
    if code is OpCode.NORMALIZE:
        yield f["table"] + 8 * f["groups"] * f["run"], image_bytes
        yield f["table"] % layout.SECTION_ALIGN, 0
    size = ELEMENT_BYTES[OPERATORS[code].element]
    if "slopes" in f:
        yield f["slopes"] + f["slope_count"] * size, image_bytes
    if "input_b" in f and f["flags"] & OpFlag.CONSTANT_B:
        yield f["input_b"] + _elements_b(f) * tensor_bytes(code, f)[0], image_bytes
    if code is OpCode.CONCAT and f["flags"] & OpFlag.CONSTANT_B:
        yield f["inputs_more"][0] + f["outer"] * f["lengths"][1], image_bytes
    if "weights" in f and "channel" not in f:
        outputs, row = (f["out_features"], f["in_features"]) if "out_features" in f else (f["out_c"], _taps(f))
        yield f["weights"] + 4 * outputs * (row + 1), image_bytes
    if "size_b" in f:
        yield f["size"] % f["size_b"], 0


def _taps(f: Fields) -> int:
    return int(f["kernel_h"] * f["kernel_w"] * (f["in_c"] // f["groups"]))
