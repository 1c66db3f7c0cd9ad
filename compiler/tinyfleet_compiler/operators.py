"""The closed set of operators an image can hold: one row each, the only source of op codes and flags."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any


class OpCode(IntEnum):
    """Operator of one record. Numbers are part of the image format and are never reused."""

    CONV_2D = 1
    DEPTHWISE_CONV_2D = 2
    FULLY_CONNECTED = 3
    ADD = 4
    MAX_POOL_2D = 5
    AVERAGE_POOL_2D = 6
    SOFTMAX = 7
    RESCALE = 8
    TRANSPOSE = 9
    LUT_INT8 = 20
    PRELU = 21
    ADD_BROADCAST = 22
    SUB = 23
    MUL = 24
    DIV = 25
    MINIMUM = 26
    MAXIMUM = 27
    REDUCE_SUM = 28
    REDUCE_MAX = 29
    REDUCE_MIN = 30
    ARG_MAX = 31
    LOG_SOFTMAX = 32
    PAD = 40
    CONCAT = 41
    STRIDED_COPY = 42
    GATHER = 43
    RESIZE_BILINEAR = 44
    TRANSPOSE_CONV_2D = 45
    STATE_READ = 58
    STATE_WRITE = 59
    SVDF = 60
    LSTM = 61
    GRU = 62
    CONV_2D_F32 = 64
    DEPTHWISE_CONV_2D_F32 = 65
    TRANSPOSE_CONV_2D_F32 = 66
    FULLY_CONNECTED_F32 = 67
    ADD_F32 = 68
    SUB_F32 = 69
    MUL_F32 = 70
    DIV_F32 = 71
    MINIMUM_F32 = 72
    MAXIMUM_F32 = 73
    MAX_POOL_2D_F32 = 74
    AVERAGE_POOL_2D_F32 = 75
    SOFTMAX_F32 = 76
    LOG_SOFTMAX_F32 = 77
    REDUCE_SUM_F32 = 78
    REDUCE_MAX_F32 = 79
    REDUCE_MIN_F32 = 80
    ARG_MAX_F32 = 81
    RESIZE_BILINEAR_F32 = 82
    PAD_F32 = 83
    STRIDED_COPY_F32 = 84
    PRELU_F32 = 85
    UNARY_F32 = 86
    EXPONENTIAL_F32 = 87
    TRIGONOMETRIC_F32 = 88
    DEQUANTIZE = 89
    QUANTIZE = 90
    BATCH_MATMUL_F32 = 91
    TOP_K_F32 = 92
    TOP_K_INDICES_F32 = 93
    LSTM_F32 = 94
    GRU_F32 = 95
    FEATURES = 120
    BATCH_MATMUL = 46
    TOP_K = 47
    TOP_K_INDICES = 48
    NORMALIZE = 49
    ARG_MIN = 50
    SQUARED_DIFFERENCE = 51
    L2_NORMALIZE = 52
    CONV_2D_INT16 = 96
    DEPTHWISE_CONV_2D_INT16 = 97
    FULLY_CONNECTED_INT16 = 98
    TRANSPOSE_CONV_2D_INT16 = 99
    ADD_INT16 = 100
    SUB_INT16 = 101
    MUL_INT16 = 102
    MINIMUM_INT16 = 103
    MAXIMUM_INT16 = 104
    MAX_POOL_2D_INT16 = 105
    AVERAGE_POOL_2D_INT16 = 106
    SOFTMAX_INT16 = 107
    LOGISTIC_INT16 = 108
    TANH_INT16 = 109
    LUT_INT16 = 110
    RESCALE_INT16 = 111
    REDUCE_SUM_INT16 = 112
    REDUCE_MAX_INT16 = 113
    REDUCE_MIN_INT16 = 114
    CONV_2D_INT4 = 115
    DEPTHWISE_CONV_2D_INT4 = 116
    FULLY_CONNECTED_INT4 = 117
    LEAKY_RELU_INT16 = 118


class OpFlag(IntFlag):
    """Bits of `flags` in an op record; each is legal only for the operators named in SPEC."""

    NONE = 0
    CONSTANT_B = 1
    """ADD, op_binary and op_matmul: `input_b` is an offset in the image (section kind CONSTANT), not in the arena;
    CONCAT: so is the second input, of two."""
    COUNT_INCLUDE_PAD = 2
    """AVERAGE_POOL_2D: divide by the whole window, padded taps count as real zero."""
    REVERSED = 4
    """CONV_2D, DEPTHWISE_CONV_2D: output pixels are finished last to first, so the output may lie above its input."""
    SAME_ROWS = 8
    """GATHER: output row y is input row y; the table holds columns only."""
    SWAPPED = 16
    """SUB, DIV: the second operand is what is subtracted from, or divided; CONCAT: the second of two comes first."""
    GIVEN_START = 32
    """LSTM, GRU: the table says what cell and hidden state begin with; else they begin at zero."""
    RESET_FIRST = 64
    """GRU: the hidden state is reset before its product with the weights, else the product is."""


class FeatureForm(IntFlag):
    """Bits of `form` in a FEATURES record."""

    NONE = 0
    MAGNITUDE = 1
    """Filters weigh the magnitude of the spectrum, else its square."""
    ADD_FLOOR = 2
    """The floor is added to every energy, else it is the least energy."""
    DIAGONAL = 4
    """The matrix is diagonal and only its diagonal is stored."""


class Function(IntEnum):
    """What UNARY_F32, EXPONENTIAL_F32 and TRIGONOMETRIC_F32 compute of an element, with the record's alpha and beta."""

    IDENTITY = 0
    ABS = 1
    NEGATE = 2
    SIGN = 3
    FLOOR = 4
    CEIL = 5
    ROUND = 6
    SQRT = 7
    LEAKY_RELU = 8
    HARD_SIGMOID = 9
    HARD_SWISH = 10
    SOFTSIGN = 11
    RECIPROCAL = 12
    THRESHOLDED_RELU = 13
    WHOLE_POWER = 14
    EXP = 32
    LOG = 33
    SIGMOID = 34
    TANH = 35
    ELU = 36
    CELU = 37
    SOFTPLUS = 38
    MISH = 39
    ERF = 40
    GELU = 41
    GELU_TANH = 42
    POWER = 43
    SIN = 64
    COS = 65


class Element(IntEnum):
    """Element type of a tensor or section."""

    INT8 = 0
    INT16 = 1
    INT32 = 2
    FLOAT32 = 3
    INT4 = 4
    """Weights only: two in a byte, the low half first; every row begins with a byte."""


ELEMENT_BYTES: dict[Element, int] = {Element.INT8: 1, Element.INT16: 2, Element.INT32: 4, Element.FLOAT32: 4}
"""Bytes of one element of a tensor."""
CODE_RANGES: dict[Element, tuple[int, int]] = {Element.INT8: (-128, 127), Element.INT16: (-32768, 32767)}
"""Lowest and highest code of a quantised tensor."""


class Packing(IntEnum):
    """Order of the weights inside a section."""

    ROW_MAJOR = 0
    """Rows = output channels; a row is (kernel_h, kernel_w, in_c / groups), or the input features."""
    CHANNELS_LAST = 1
    """DEPTHWISE_CONV_2D alone: (kernel_h, kernel_w, out_c), what CMSIS-NN reads; sections keep rows and row_length."""


class SectionKind(IntEnum):
    """What a section holds."""

    MULTIPLIERS = 1
    SHIFTS = 2
    WEIGHTS = 3
    BIASES = 4
    CONSTANT = 5
    SCALES = 6
    BIASES_HIGH = 7
    STATE = 8
    """What a state variable holds before the first inference."""


class SourceLayout(IntEnum):
    """How the model file orders a tensor that the device holds channels-last."""

    SAME = 0
    CHANNELS_FIRST = 1


@dataclass(frozen=True)
class OperatorInfo:
    """What the passes, the simulator and the writer must agree on for one operator."""

    code: OpCode
    record: str
    """Name of its record layout in `layout.RECORDS`."""
    weighted: bool = False
    elementwise: bool = False
    """Reads element i before writing element i and never again: may run in place."""
    constant: str = ""
    """Record field that holds the image offset of the op's constant section."""
    like: OpCode | None = None
    """The int8 operator whose record means the same, and whose kernel reads and writes in the same order."""
    element: Element = Element.INT8
    """Of its tensors, which its sizes, steps and lengths count; movers count bytes whatever they move."""
    weight_element: Element = Element.INT8


def counterpart(code: OpCode) -> OpCode:
    """The int8 operator of the same shape rules and order; itself for an int8 operator."""
    return OPERATORS[code].like or code


def tensor_bytes(code: OpCode, fields: dict[str, Any]) -> tuple[int, int]:
    """Bytes of one element of an op's inputs and of its output; records that change the type name both."""
    if "input_element" in fields:
        return ELEMENT_BYTES[Element(fields["input_element"])], ELEMENT_BYTES[Element(fields["output_element"])]
    size = ELEMENT_BYTES[OPERATORS[code].element]
    return size, size


def _float32(like: OpCode, constant: str = "") -> OperatorInfo:
    """The float32 form of an int8 operator: its record is the int8 one's with `_f32`."""
    record = {"op_resample": "op_resize_f32"}.get(_INT8[like].record, f"{_INT8[like].record}_f32")
    info = _INT8[like]
    return OperatorInfo(
        OpCode[f"{like.name}_F32"], record, info.weighted, info.elementwise, constant, like, Element.FLOAT32
    )


_INT8: dict[OpCode, OperatorInfo] = {
    info.code: info
    for info in (
        OperatorInfo(OpCode.CONV_2D, "op_conv", weighted=True),
        OperatorInfo(OpCode.DEPTHWISE_CONV_2D, "op_conv", weighted=True),
        OperatorInfo(OpCode.FULLY_CONNECTED, "op_fully_connected", weighted=True),
        OperatorInfo(OpCode.ADD, "op_add", elementwise=True, constant="input_b"),
        OperatorInfo(OpCode.MAX_POOL_2D, "op_pool"),
        OperatorInfo(OpCode.AVERAGE_POOL_2D, "op_pool"),
        OperatorInfo(OpCode.SOFTMAX, "op_softmax"),
        OperatorInfo(OpCode.RESCALE, "op_rescale", elementwise=True),
        OperatorInfo(OpCode.TRANSPOSE, "op_transpose"),
        OperatorInfo(OpCode.LUT_INT8, "op_lut", elementwise=True, constant="table"),
        OperatorInfo(OpCode.PRELU, "op_prelu", elementwise=True, constant="slopes"),
        OperatorInfo(OpCode.ADD_BROADCAST, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.SUB, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.MUL, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.DIV, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.MINIMUM, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.MAXIMUM, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.REDUCE_SUM, "op_reduce"),
        OperatorInfo(OpCode.REDUCE_MAX, "op_reduce"),
        OperatorInfo(OpCode.REDUCE_MIN, "op_reduce"),
        OperatorInfo(OpCode.ARG_MAX, "op_reduce"),
        OperatorInfo(OpCode.LOG_SOFTMAX, "op_log_softmax"),
        OperatorInfo(OpCode.PAD, "op_pad"),
        OperatorInfo(OpCode.CONCAT, "op_concat"),
        OperatorInfo(OpCode.STRIDED_COPY, "op_strided_copy"),
        OperatorInfo(OpCode.GATHER, "op_resample", constant="table"),
        OperatorInfo(OpCode.RESIZE_BILINEAR, "op_resample", constant="table"),
        OperatorInfo(OpCode.TRANSPOSE_CONV_2D, "op_conv", weighted=True),
        OperatorInfo(OpCode.STATE_READ, "op_state"),
        OperatorInfo(OpCode.STATE_WRITE, "op_state"),
        OperatorInfo(OpCode.SVDF, "op_svdf", constant="table"),
        OperatorInfo(OpCode.LSTM, "op_gated", constant="table"),
        OperatorInfo(OpCode.GRU, "op_gated", constant="table"),
        OperatorInfo(OpCode.FEATURES, "op_features", constant="table"),
        OperatorInfo(OpCode.BATCH_MATMUL, "op_matmul", constant="input_b"),
        OperatorInfo(OpCode.TOP_K, "op_top_k"),
        OperatorInfo(OpCode.TOP_K_INDICES, "op_top_k"),
        OperatorInfo(OpCode.NORMALIZE, "op_normalize", constant="table"),
        OperatorInfo(OpCode.ARG_MIN, "op_reduce"),
        OperatorInfo(OpCode.SQUARED_DIFFERENCE, "op_binary", constant="input_b"),
        OperatorInfo(OpCode.L2_NORMALIZE, "op_l2_normalize"),
        OperatorInfo(OpCode.CONV_2D_INT16, "op_conv_int16", weighted=True, element=Element.INT16),
        OperatorInfo(OpCode.DEPTHWISE_CONV_2D_INT16, "op_conv_int16", weighted=True, element=Element.INT16),
        OperatorInfo(OpCode.FULLY_CONNECTED_INT16, "op_fully_connected_int16", weighted=True, element=Element.INT16),
        OperatorInfo(OpCode.TRANSPOSE_CONV_2D_INT16, "op_conv_int16", weighted=True, element=Element.INT16),
        OperatorInfo(OpCode.ADD_INT16, "op_binary_int16", constant="input_b", element=Element.INT16),
        OperatorInfo(OpCode.SUB_INT16, "op_binary_int16", constant="input_b", element=Element.INT16),
        OperatorInfo(OpCode.MUL_INT16, "op_binary_int16", constant="input_b", element=Element.INT16),
        OperatorInfo(OpCode.MINIMUM_INT16, "op_binary_int16", constant="input_b", element=Element.INT16),
        OperatorInfo(OpCode.MAXIMUM_INT16, "op_binary_int16", constant="input_b", element=Element.INT16),
        OperatorInfo(OpCode.MAX_POOL_2D_INT16, "op_pool_int16", element=Element.INT16),
        OperatorInfo(OpCode.AVERAGE_POOL_2D_INT16, "op_pool_int16", element=Element.INT16),
        OperatorInfo(OpCode.SOFTMAX_INT16, "op_softmax_int16", element=Element.INT16),
        OperatorInfo(OpCode.LOGISTIC_INT16, "op_sigmoid_int16", elementwise=True, element=Element.INT16),
        OperatorInfo(OpCode.TANH_INT16, "op_sigmoid_int16", elementwise=True, element=Element.INT16),
        OperatorInfo(OpCode.LUT_INT16, "op_lut_int16", elementwise=True, constant="table", element=Element.INT16),
        OperatorInfo(OpCode.LEAKY_RELU_INT16, "op_leaky_relu_int16", elementwise=True, element=Element.INT16),
        OperatorInfo(OpCode.REDUCE_SUM_INT16, "op_reduce_int16", element=Element.INT16),
        OperatorInfo(OpCode.REDUCE_MAX_INT16, "op_reduce_int16", element=Element.INT16),
        OperatorInfo(OpCode.REDUCE_MIN_INT16, "op_reduce_int16", element=Element.INT16),
        OperatorInfo(OpCode.RESCALE_INT16, "op_rescale_int16"),
        OperatorInfo(OpCode.CONV_2D_INT4, "op_conv", weighted=True, weight_element=Element.INT4),
        OperatorInfo(OpCode.DEPTHWISE_CONV_2D_INT4, "op_conv", weighted=True, weight_element=Element.INT4),
        OperatorInfo(OpCode.FULLY_CONNECTED_INT4, "op_fully_connected", weighted=True, weight_element=Element.INT4),
    )
}

OPERATORS: dict[OpCode, OperatorInfo] = _INT8 | {
    info.code: info
    for info in (
        _float32(OpCode.CONV_2D, "weights"),
        _float32(OpCode.DEPTHWISE_CONV_2D, "weights"),
        _float32(OpCode.TRANSPOSE_CONV_2D, "weights"),
        _float32(OpCode.FULLY_CONNECTED, "weights"),
        OperatorInfo(
            OpCode.ADD_F32, "op_binary_f32", constant="input_b", like=OpCode.ADD_BROADCAST, element=Element.FLOAT32
        ),
        *(_float32(code, "input_b") for code in (OpCode.SUB, OpCode.MUL, OpCode.DIV, OpCode.MINIMUM, OpCode.MAXIMUM)),
        *(_float32(code) for code in (OpCode.MAX_POOL_2D, OpCode.AVERAGE_POOL_2D, OpCode.SOFTMAX)),
        OperatorInfo(OpCode.LOG_SOFTMAX_F32, "op_softmax_f32", like=OpCode.LOG_SOFTMAX, element=Element.FLOAT32),
        *(_float32(code) for code in (OpCode.REDUCE_SUM, OpCode.REDUCE_MAX, OpCode.REDUCE_MIN, OpCode.ARG_MAX)),
        _float32(OpCode.RESIZE_BILINEAR, "table"),
        *(_float32(code) for code in (OpCode.PAD, OpCode.STRIDED_COPY)),
        _float32(OpCode.BATCH_MATMUL, "input_b"),
        *(_float32(code) for code in (OpCode.TOP_K, OpCode.TOP_K_INDICES)),
        *(_float32(code, "table") for code in (OpCode.LSTM, OpCode.GRU)),
        _float32(OpCode.PRELU, "slopes"),
        *(
            OperatorInfo(code, "op_unary_f32", elementwise=True, like=OpCode.RESCALE, element=Element.FLOAT32)
            for code in (OpCode.UNARY_F32, OpCode.EXPONENTIAL_F32, OpCode.TRIGONOMETRIC_F32)
        ),
        OperatorInfo(OpCode.DEQUANTIZE, "op_quantize", like=OpCode.RESCALE),
        OperatorInfo(OpCode.QUANTIZE, "op_quantize", like=OpCode.RESCALE),
    )
}

INT16_FORMS: dict[OpCode, OpCode] = {
    OpCode[code.name.removesuffix("_INT16")]: code
    for code in OpCode
    if code.name.endswith("_INT16") and code.name.removesuffix("_INT16") in OpCode.__members__
} | {OpCode.ADD_BROADCAST: OpCode.ADD_INT16}
"""Int8 operator -> the one that computes the same on int16 tensors."""

INT4_FORMS: dict[OpCode, OpCode] = {
    OpCode[code.name.removesuffix("_INT4")]: code for code in OpCode if code.name.endswith("_INT4")
}
"""Int8 operator -> the same with int4 weights."""

BYTE_MOVERS = frozenset({OpCode.TRANSPOSE, OpCode.PAD, OpCode.CONCAT, OpCode.STRIDED_COPY, OpCode.GATHER})
"""Operators that move bytes, of whatever elements: their sizes, steps and lengths count bytes."""


def row_bytes(element: Element, length: int) -> int:
    """Bytes of one row of a section."""
    return (length + 1) // 2 if element is Element.INT4 else length * ELEMENT_BYTES[element]
