"""Byte layout of the model image: every record as a table of fields, from which C structs and SPEC tables are made."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

MAGIC = 0x314D4654
"""`TFM1` read as a little-endian 32-bit word; a big-endian reader sees another number and refuses."""
FORMAT_VERSION = 1
ABI = 1
KERNEL_SET_PORTABLE = 1
KERNEL_SET_VERSION = 1
CRC_START = 8
"""The CRC runs over all bytes from here to the end of the image."""
SECTION_ALIGN = 16
ARENA_ALIGN = 4
ADD_LEFT_SHIFT = 20
SOFTMAX_INTEGER_BITS = 5
RESIZE_FRACTION_BITS = 11
LUT_ENTRIES = 256
ADD_LEFT_SHIFT_INT16 = 15
LUT_INT16_ENTRIES = 513
"""Function values 128 codes apart; between them the kernel interpolates."""
LUT_INT16_STEP_BITS = 7
SIGMOID_ENTRIES = 256
GATES = 4
LEAST_CELL_POWER = -28
MOST_STEPS = 65_535
MOST_SHIFT_INT16 = 7
"""Largest left shift of a multiplier that 64-bit sums go through."""
FEATURES_TWIDDLE_BITS = 30
SQUARED_DIFFERENCE_LEFT_SHIFT = 7
NO_OVERLAP = 0x7FFFFFFF
NO_OFFSET = 0xFFFFFFFF
NO_SOURCE = 0xFFFF
MAX_CASCADE_OPS = 32
MAX_STRIPS = 64
CASCADE_RECORD_BYTES = 64
"""Longest record of an operator that runs by rows."""
GOLDEN_MAX_BYTES = 256
GOLDEN_SEED_BYTES = 4
GOLDEN_STREAM_STEPS = 2
"""Inferences in a row of one golden vector of a model with state."""
DEVICE_CLASS_BYTES = 32

_FORMATS = {
    "uint8_t": "B",
    "int8_t": "b",
    "uint16_t": "H",
    "int16_t": "h",
    "uint32_t": "I",
    "int32_t": "i",
    "float": "f",
    "char": "s",
}


@dataclass(frozen=True)
class Field:
    """One field: C type, name, how many of it, and what it means."""

    ctype: str
    name: str
    help: str
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes of the whole field."""
        return struct.calcsize("<" + _FORMATS[self.ctype]) * self.count


@dataclass(frozen=True)
class Record:
    """An ordered, gap-free, naturally aligned run of fields."""

    name: str
    help: str
    fields: tuple[Field, ...]

    @cached_property
    def _struct(self) -> struct.Struct:
        parts = (f"{f.count}{_FORMATS[f.ctype]}" for f in self.fields)
        return struct.Struct("<" + "".join(parts))

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return self._struct.size

    def offsets(self) -> Iterable[tuple[int, Field]]:
        """Every field with its byte offset in the record."""
        at = 0
        for field in self.fields:
            yield at, field
            at += field.size

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """Bytes of the record; `values` names every field, an array field as a sequence."""
        flat: list[Any] = []
        for field in self.fields:
            value = values[field.name]
            if field.ctype == "char" or field.count == 1:
                flat.append(value)
            else:
                flat.extend(value)
        return self._struct.pack(*flat)

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, Any]:
        """Field values at `offset`. Raises `struct.error` when `data` is too short."""
        flat = list(self._struct.unpack_from(data, offset))
        out: dict[str, Any] = {}
        for field in self.fields:
            if field.ctype == "char" or field.count == 1:
                out[field.name] = flat.pop(0)
            else:
                out[field.name] = tuple(flat[: field.count])
                del flat[: field.count]
        return out


HEADER = Record(
    "image_header",
    "First bytes of an image.",
    (
        Field("uint32_t", "magic", "`TFM1`, FLEET_IMAGE_MAGIC"),
        Field("uint32_t", "crc32", "CRC-32 over bytes FLEET_IMAGE_CRC_START .. image_bytes"),
        Field("uint16_t", "format_version", "FLEET_IMAGE_FORMAT_VERSION"),
        Field("uint16_t", "header_bytes", "size of this header"),
        Field("uint32_t", "image_bytes", "all bytes of the image, a multiple of 16"),
        Field("uint32_t", "abi", "runtime ABI the image needs, FLEET_IMAGE_ABI"),
        Field("uint16_t", "kernel_set", "kernels the packing was chosen for: 1 = portable"),
        Field("uint16_t", "kernel_set_version", "version of that kernel set's packing"),
        Field("uint32_t", "flags", "0; a reader refuses other values"),
        Field("uint32_t", "arena_bytes", "activations + scratch, inputs and outputs included"),
        Field("uint32_t", "scratch_bytes", "largest scratch of an op, part of arena_bytes"),
        Field("uint32_t", "state_bytes", "model state kept between inferences in a buffer of the caller's; 0 without"),
        Field("uint32_t", "op_count", "op records, in execution order; at least 1"),
        Field("uint32_t", "ops_offset", "first op record"),
        Field("uint32_t", "ops_bytes", "all op records together"),
        Field("uint32_t", "section_count", "entries of the section table"),
        Field("uint32_t", "sections_offset", "section table"),
        Field("uint32_t", "input_count", "model inputs; at least 1"),
        Field("uint32_t", "output_count", "model outputs; at least 1"),
        Field("uint32_t", "io_offset", "io records: inputs, then outputs"),
        Field("uint32_t", "channel_count", "entries of multipliers, shifts and biases"),
        Field("uint32_t", "multipliers_offset", "int32 x channel_count"),
        Field("uint32_t", "shifts_offset", "int8 x channel_count"),
        Field("uint32_t", "biases_offset", "int32 x channel_count"),
        Field("uint32_t", "golden_offset", "golden record"),
        Field("uint32_t", "golden_bytes", "size of the golden record, at most 256"),
        Field("uint32_t", "strings_offset", "NUL-terminated UTF-8 strings"),
        Field("uint32_t", "strings_bytes", "size of the string area; its last byte is NUL"),
        Field("uint32_t", "name_offset", "model name, offset in the image"),
        Field("uint32_t", "version_offset", "model version text"),
        Field("uint32_t", "labels_offset", "label_count strings, one after the other"),
        Field("uint32_t", "label_count", "0 when the model has no labels"),
        Field("char", "device_class", "device class, NUL padded, at most 31 characters", DEVICE_CLASS_BYTES),
        Field("uint32_t", "cascades_offset", "cascades, in execution order"),
        Field("uint32_t", "cascades_bytes", "all cascades together; 0 without any"),
    ),
)

CASCADE = Record(
    "image_cascade",
    "Head of a cascade, followed by one image_row_link per op of it.",
    (
        Field("uint32_t", "first_op", "number of the first op that runs row by row"),
        Field("uint32_t", "op_count", "ops of the cascade, 2 .. FLEET_MAX_CASCADE_OPS"),
        Field(
            "uint32_t",
            "workspace",
            "arena offset of FLEET_CASCADE_RECORD_BYTES + 2 x op_count bytes and the columns gathered, a multiple of 4",
        ),
        Field(
            "uint32_t", "strips", "how often the rows are gone through, 1 .. FLEET_MAX_STRIPS; 1: whole rows, no table"
        ),
        Field(
            "uint32_t",
            "gather_bytes",
            "room for columns that are copied together, behind the counters; a multiple of 4",
        ),
    ),
)

ROW_LINK = Record(
    "image_row_link",
    "How one op of a cascade keeps the rows of its output, and where those of its inputs come from.",
    (
        Field("uint16_t", "rows", "rows of the output, all of them"),
        Field("uint16_t", "ring_rows", "newest rows that are kept; their place in the arena is `output`"),
        Field(
            "uint16_t",
            "slide_rows",
            "oldest rows dropped at once when there is no place for a new one; 0: the output is whole in the end",
        ),
        Field(
            "uint16_t",
            "source",
            "op of the cascade (counted in it) that makes the input; FLEET_NO_SOURCE: whole before",
        ),
        Field("uint16_t", "source_b", "the same of ADD's second input"),
        Field("uint16_t", "width", "columns of the output, all of them"),
    ),
)

STRIP = Record(
    "image_strip",
    "Columns one op of a cascade makes in one strip; behind the links of a cascade of several strips, strip by strip.",
    (
        Field("uint16_t", "first", "first column"),
        Field("uint16_t", "columns", "columns from there on, at least 1"),
    ),
)

SECTION = Record(
    "image_section",
    "One entry of the section table.",
    (
        Field("uint32_t", "offset", "first byte in the image, a multiple of 16"),
        Field("uint32_t", "rows", "rows (output channels of a weight section)"),
        Field("uint32_t", "row_length", "elements per row"),
        Field("uint8_t", "kind", "FLEET_SECTION_*"),
        Field("uint8_t", "element", "FLEET_ELEMENT_*"),
        Field("uint16_t", "packing", "FLEET_PACKING_*"),
    ),
)

IO = Record(
    "image_io",
    "One model input or output.",
    (
        Field("uint32_t", "arena_offset", "first byte in the arena"),
        Field("uint32_t", "size_bytes", "bytes of the tensor"),
        Field("uint32_t", "element", "FLEET_ELEMENT_INT8, FLEET_ELEMENT_INT16 or FLEET_ELEMENT_FLOAT32"),
        Field("uint32_t", "rank", "dimensions used of dims, 1 .. 4, batch left out"),
        Field("uint32_t", "dims", "device order, channels last; unused entries are 1", 4),
        Field("float", "scale", "real value = (q - zero_point) * scale"),
        Field("int32_t", "zero_point", "quantised value of real zero"),
        Field("uint32_t", "source_layout", "FLEET_LAYOUT_*: order in the model file"),
        Field("uint32_t", "name_offset", "tensor name, offset in the image"),
    ),
)

STATES = Record(
    "image_states",
    "Head of the state table, followed by its entries.",
    (Field("uint32_t", "count", "entries that follow, at least 1"),),
)

STATE = Record(
    "image_state",
    "One variable of the model state.",
    (
        Field("uint32_t", "state_offset", "first byte in the state buffer, a multiple of 4"),
        Field("uint32_t", "size_bytes", "bytes of the variable"),
        Field("uint32_t", "element", "FLEET_ELEMENT_INT8, _INT16, _INT32 or _FLOAT32"),
        Field("int32_t", "fill", "every element before the first inference, of that type; 0 but for INT8 and INT16"),
        Field("uint32_t", "data", "image offset of size_bytes bytes to begin with instead, FLEET_NO_OFFSET: none"),
        Field("uint32_t", "name_offset", "variable name, offset in the image"),
    ),
)

GOLDEN = Record(
    "image_golden",
    "Head of the golden record, followed by vector_count uint32 seeds, one for each golden vector, never 0.",
    (
        Field("uint32_t", "vector_count", "seeds that follow, 1 .. 61"),
        Field("uint32_t", "op_count", "ops of a vector; equals op_count of the header"),
        Field("uint32_t", "crc32", "CRC-32 run over every op's output in execution order, vector after vector"),
    ),
)

_OP_BASE = (
    Field("uint16_t", "code", "FLEET_OP_*"),
    Field("uint16_t", "record_bytes", "size of this record"),
    Field("uint16_t", "flags", "FLEET_OP_FLAG_*"),
    Field("uint16_t", "packing", "FLEET_PACKING_* of the weights, 0 without weights"),
    Field("uint32_t", "input", "arena offset of the input"),
    Field("uint32_t", "output", "arena offset of the output"),
    Field("uint32_t", "scratch", "arena offset of the scratch, FLEET_NO_OFFSET without"),
    Field("uint32_t", "scratch_bytes", "bytes of scratch"),
    Field(
        "int32_t",
        "overlap_bytes",
        "smallest legal input - output (REVERSED: output - input) when they overlap, FLEET_NO_OVERLAP: never",
    ),
)

_RANGE = (
    Field("int8_t", "input_zero_point", "also the value of a padded tap"),
    Field("int8_t", "output_zero_point", "0 where the operator has no use for it"),
    Field("int8_t", "activation_min", "lowest value written"),
    Field("int8_t", "activation_max", "highest value written"),
)

_RANGE_INT16 = (
    Field("int16_t", "activation_min", "lowest value written"),
    Field("int16_t", "activation_max", "highest value written"),
)

_WINDOW = (
    Field("uint16_t", "in_h", "input rows"),
    Field("uint16_t", "in_w", "input columns"),
    Field("uint16_t", "in_c", "input channels"),
    Field("uint16_t", "out_h", "output rows"),
    Field("uint16_t", "out_w", "output columns"),
    Field("uint16_t", "out_c", "output channels"),
    Field("uint16_t", "kernel_h", "taps down"),
    Field("uint16_t", "kernel_w", "taps across"),
    Field("uint8_t", "stride_h", "1 or more"),
    Field("uint8_t", "stride_w", "1 or more"),
    Field("uint8_t", "dilation_h", "1 or more"),
    Field("uint8_t", "dilation_w", "1 or more"),
    Field("uint8_t", "pad_top", "virtual rows above the input"),
    Field("uint8_t", "pad_left", "virtual columns left of the input"),
    Field("uint16_t", "groups", "CONV_2D: groups; DEPTHWISE_CONV_2D: in_c; pools: 1"),
)

_WEIGHTS = (
    Field("uint32_t", "weights", "image offset of the weight section"),
    Field("uint32_t", "channel", "first entry in multipliers, shifts and biases"),
)

OP = Record("op", "Fields every op record begins with.", _OP_BASE)
OP_CONV = Record("op_conv", "CONV_2D, DEPTHWISE_CONV_2D.", _OP_BASE + _RANGE + _WINDOW + _WEIGHTS)
OP_POOL = Record("op_pool", "MAX_POOL_2D, AVERAGE_POOL_2D.", _OP_BASE + _RANGE + _WINDOW)
OP_FULLY_CONNECTED = Record(
    "op_fully_connected",
    "FULLY_CONNECTED.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "rows", "independent input rows, 1 for a vector"),
        Field("uint32_t", "in_features", "input elements per row"),
        Field("uint32_t", "out_features", "output elements per row"),
        *_WEIGHTS,
    ),
)
OP_ADD = Record(
    "op_add",
    "ADD.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint32_t", "size", "elements of input and output"),
        Field("uint32_t", "size_b", "elements of input_b; element i meets i modulo size_b"),
        Field("int8_t", "input_b_zero_point", "of the second input"),
        Field("int8_t", "input_shift", "shift of the input's multiplier"),
        Field("int8_t", "input_b_shift", "shift of the second input's multiplier"),
        Field("int8_t", "output_shift", "shift of the output's multiplier"),
        Field("int32_t", "input_multiplier", "Q31"),
        Field("int32_t", "input_b_multiplier", "Q31"),
        Field("int32_t", "output_multiplier", "Q31"),
    ),
)
_SOFTMAX = (
    Field("uint32_t", "rows", "independent rows"),
    Field("uint32_t", "columns", "classes per row"),
    Field("int32_t", "multiplier", "Q31, of beta x input scale x 2^26"),
    Field("int32_t", "left_shift", "0 .. 31"),
    Field("int32_t", "diff_min", "differences below give probability 0"),
)
OP_SOFTMAX = Record("op_softmax", "SOFTMAX over the last axis.", _OP_BASE + _RANGE + _SOFTMAX)
OP_LOG_SOFTMAX = Record(
    "op_log_softmax",
    "LOG_SOFTMAX over the last axis.",
    (
        *_OP_BASE,
        *_RANGE,
        *_SOFTMAX,
        Field("int32_t", "reverse_multiplier", "Q31, of 1 / (multiplier x 2^left_shift)"),
        Field("int32_t", "reverse_shift", "power of two, positive = left"),
    ),
)
OP_RESCALE = Record(
    "op_rescale",
    "RESCALE: a lone Relu, Clip or change of scale.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "size", "elements"),
        Field("int32_t", "multiplier", "Q31"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)
OP_TRANSPOSE = Record(
    "op_transpose",
    "TRANSPOSE of up to four axes.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 4),
        Field("uint32_t", "strides", "step in the input, in elements, per output axis", 4),
    ),
)

OP_PAD = Record(
    "op_pad",
    "PAD of up to four axes.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "dims", "of the input, outermost first; unused leading entries are 1", 4),
        Field("uint16_t", "before", "elements of input_zero_point before the input, per axis", 4),
        Field("uint16_t", "after", "elements of input_zero_point after it, per axis", 4),
    ),
)
OP_CONCAT = Record(
    "op_concat",
    "CONCAT of two to four inputs.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "outer", "times a run of every input is copied"),
        Field("uint32_t", "inputs_more", "arena offsets of inputs 2 to 4 (CONSTANT_B: image offset), unused 0", 3),
        Field("uint32_t", "lengths", "bytes of one run per input; 0 from the first unused one on", 4),
    ),
)
OP_STRIDED_COPY = Record(
    "op_strided_copy",
    "STRIDED_COPY: slices and rearrangements.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "start", "input element that output element 0 is"),
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 4),
        Field("int32_t", "strides", "step in the input, in elements, per output axis", 4),
    ),
)
OP_RESAMPLE = Record(
    "op_resample",
    "GATHER, RESIZE_BILINEAR.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "in_h", "input rows"),
        Field("uint32_t", "in_w", "input columns"),
        Field("uint32_t", "in_c", "channels of input and output"),
        Field("uint32_t", "out_h", "output rows"),
        Field("uint32_t", "out_w", "output columns"),
        Field("uint32_t", "table", "image offset of the places, int16: rows, then columns"),
    ),
)

OP_LUT = Record(
    "op_lut",
    "LUT_INT8: any function of one element, as a table.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "table", "image offset of 256 int8: the outputs for inputs -128 .. 127"),
        Field("uint32_t", "size", "elements"),
    ),
)
OP_PRELU = Record(
    "op_prelu",
    "PRELU with a slope per channel.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "slopes", "image offset of slope_count int8, zero point 0"),
        Field("uint32_t", "slope_count", "element i meets slope i modulo slope_count"),
        Field("uint32_t", "size", "elements"),
        Field("int32_t", "multiplier", "Q31, of inputs not below zero"),
        Field("int32_t", "shift", "power of two, positive = left"),
        Field("int32_t", "slope_multiplier", "Q31, of input x slope"),
        Field("int32_t", "slope_shift", "power of two, positive = left"),
    ),
)
OP_BINARY = Record(
    "op_binary",
    "ADD_BROADCAST, SUB, MUL, DIV, MINIMUM, MAXIMUM, SQUARED_DIFFERENCE.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 3),
        Field("uint8_t", "repeats", "bit i: the input has no axis i, it repeats along it"),
        Field("uint8_t", "repeats_b", "the same of the second input"),
        Field("uint16_t", "reserved", "0"),
        Field("int8_t", "input_b_zero_point", "of the second input"),
        Field("int8_t", "input_shift", "shift of the input's multiplier"),
        Field("int8_t", "input_b_shift", "shift of the second input's multiplier"),
        Field("int8_t", "output_shift", "shift of the output's multiplier"),
        Field("int32_t", "input_multiplier", "Q31; 0 where the operator has no use for it"),
        Field("int32_t", "input_b_multiplier", "Q31; 0 where the operator has no use for it"),
        Field("int32_t", "output_multiplier", "Q31; 0 where the operator has no use for it"),
    ),
)
OP_REDUCE = Record(
    "op_reduce",
    "REDUCE_SUM (sums and means), REDUCE_MAX, REDUCE_MIN, ARG_MAX, ARG_MIN over neighbouring axes.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "outer", "product of the axes before the reduced ones"),
        Field("uint32_t", "count", "product of the reduced axes"),
        Field("uint32_t", "inner", "product of the axes after them"),
        Field("int32_t", "multiplier", "Q31; 0 but for REDUCE_SUM"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)

OP_STATE = Record(
    "op_state",
    "STATE_READ, STATE_WRITE: state variables as tensors.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "state", "offset in the state buffer"),
        Field("uint32_t", "size", "bytes"),
    ),
)

OP_FEATURES = Record(
    "op_features",
    "FEATURES: int16 or int32 samples to log spectral features, frame by frame.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint8_t", "input_element", "FLEET_ELEMENT_INT16 or _INT32"),
        Field("uint8_t", "output_element", "FLEET_ELEMENT_INT8"),
        Field("uint8_t", "form", "FLEET_FEATURES_*"),
        Field("uint8_t", "fft_log2", "4 .. 12: points of the FFT"),
        Field("uint32_t", "samples", "of the input"),
        Field("uint32_t", "pad", "zeros before the first sample"),
        Field("uint16_t", "frames", "rows of the output"),
        Field("uint16_t", "hop", "samples from one frame to the next"),
        Field("uint16_t", "frame", "samples of a frame, at most the points of the FFT"),
        Field("uint16_t", "mels", "filters, at most 256"),
        Field("uint16_t", "coefficients", "features of a frame; DIAGONAL: equals mels"),
        Field("uint16_t", "mel_weights", "weights of all filters together"),
        Field("int8_t", "input_bits", "1 .. 29: bits of a frame's largest product once it is shifted"),
        Field("int8_t", "most_shift", "largest left shift of a frame, -60 .. 31"),
        Field("uint8_t", "energy_shift", "0 .. 62: bits an energy loses before it is weighed"),
        Field("uint8_t", "reserved", "0"),
        Field("int32_t", "floor_exponent", "floor = floor_mantissa x 2^floor_exponent, in steps of an unshifted sum"),
        Field("uint32_t", "floor_mantissa", "below 2^31"),
        Field("uint32_t", "table", "image offset of the tables: section 6"),
    ),
)
OP_MATMUL = Record(
    "op_matmul",
    "BATCH_MATMUL of two tensors, each read in any order of its axes.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint16_t", "dims", "outer batches, inner batches, rows, columns of the output", 4),
        Field("uint16_t", "depth", "products summed up for one value"),
        Field("int8_t", "input_b_zero_point", "of the second input"),
        Field("int8_t", "shift", "of the multiplier: power of two, positive = left"),
        Field("uint32_t", "steps", "in the input, in elements: outer batch, inner batch, row, depth; 0 repeats", 4),
        Field("uint32_t", "steps_b", "in the second input: outer batch, inner batch, column, depth; 0 repeats", 4),
        Field("uint32_t", "output_steps", "in the output, per axis of dims", 4),
        Field("int32_t", "multiplier", "Q31, of input scale x second scale / output scale"),
    ),
)
OP_TOP_K = Record(
    "op_top_k",
    "TOP_K, TOP_K_INDICES: the first k values of every row, in order, and where they stood.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "rows", "rows of the input"),
        Field("uint32_t", "columns", "values of a row; at most 256 with TOP_K_INDICES"),
        Field("uint32_t", "k", "values taken of a row, 1 .. columns"),
        Field("uint32_t", "smallest", "0: largest first; 1: smallest first"),
    ),
)
OP_L2_NORMALIZE = Record(
    "op_l2_normalize",
    "L2_NORMALIZE over the last axis.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "rows", "product of the other dimensions"),
        Field("uint32_t", "columns", "at most 32768, so that sums of squares fit int32"),
    ),
)
MOST_SQUARES = 1 << 15
"""Squares of 9-bit numbers whose sum fits int32."""
OP_NORMALIZE = Record(
    "op_normalize",
    "NORMALIZE: layer, group, instance and root-mean-square normalisation.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "table", "image offset of int32: a factor per value of a row of groups, then an addend each"),
        Field("uint32_t", "outer", "blocks of count rows"),
        Field("uint32_t", "count", "rows that are normalised together"),
        Field("uint32_t", "groups", "groups of a row, each normalised for itself"),
        Field("uint32_t", "run", "values of a group in one row"),
        Field("uint32_t", "epsilon", "added to the scaled variance: low word, high word (below 2^30)", 2),
        Field("uint32_t", "centred", "1: the mean is taken off; 0: root mean square"),
        Field("int32_t", "multiplier", "Q31, of a step of factors / output scale"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)

_BIASES_HIGH = Field(
    "uint32_t", "biases_high", "image offset of bits 32 .. 47 of the biases, int16; FLEET_NO_OFFSET: their sign"
)
OP_CONV_INT16 = Record(
    "op_conv_int16",
    "CONV_2D_INT16, DEPTHWISE_CONV_2D_INT16, TRANSPOSE_CONV_2D_INT16.",
    (*_OP_BASE, *_RANGE_INT16, *_WINDOW, *_WEIGHTS, _BIASES_HIGH),
)
OP_FULLY_CONNECTED_INT16 = Record(
    "op_fully_connected_int16",
    "FULLY_CONNECTED_INT16.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "rows", "independent input rows, 1 for a vector"),
        Field("uint32_t", "in_features", "input elements per row"),
        Field("uint32_t", "out_features", "output elements per row"),
        *_WEIGHTS,
        _BIASES_HIGH,
    ),
)
OP_POOL_INT16 = Record(
    "op_pool_int16", "MAX_POOL_2D_INT16, AVERAGE_POOL_2D_INT16.", (*_OP_BASE, *_RANGE_INT16, *_WINDOW)
)
OP_BINARY_INT16 = Record(
    "op_binary_int16",
    "ADD_INT16, SUB_INT16, MUL_INT16, MINIMUM_INT16, MAXIMUM_INT16.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 3),
        Field("uint8_t", "repeats", "bit i: the input has no axis i, it repeats along it"),
        Field("uint8_t", "repeats_b", "the same of the second input"),
        Field("uint16_t", "reserved", "0"),
        Field("int8_t", "input_shift", "shift of the input's multiplier"),
        Field("int8_t", "input_b_shift", "shift of the second input's multiplier"),
        Field("int16_t", "output_shift", "shift of the output's multiplier"),
        Field("int32_t", "input_multiplier", "Q31; 0 where the operator has no use for it"),
        Field("int32_t", "input_b_multiplier", "Q31; 0 where the operator has no use for it"),
        Field("int32_t", "output_multiplier", "Q31; 0 where the operator has no use for it"),
    ),
)
OP_SOFTMAX_INT16 = Record(
    "op_softmax_int16",
    "SOFTMAX_INT16 over the last axis.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "rows", "independent rows"),
        Field("uint32_t", "columns", "classes per row"),
        Field("int32_t", "multiplier", "Q31, of beta x input scale x 6553.5"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)
OP_SIGMOID_INT16 = Record(
    "op_sigmoid_int16",
    "LOGISTIC_INT16, TANH_INT16.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "size", "elements"),
        Field("uint16_t", "multiplier", "of input scale x 12288, times 2^right_shift"),
        Field("uint16_t", "right_shift", "0 .. 31"),
    ),
)
OP_LEAKY_RELU_INT16 = Record(
    "op_leaky_relu_int16",
    "LEAKY_RELU_INT16: one slope below zero.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "size", "elements"),
        Field("int32_t", "multiplier", "Q31, of inputs not below zero"),
        Field("int32_t", "shift", "power of two, positive = left"),
        Field("int32_t", "slope_multiplier", "Q31, of the others, slope included"),
        Field("int32_t", "slope_shift", "power of two, positive = left"),
    ),
)
OP_LUT_INT16 = Record(
    "op_lut_int16",
    "LUT_INT16: any function of one element, interpolated between the entries of a table.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "table", "image offset of 513 int16: the outputs for inputs -32768, -32640 .. 32768"),
        Field("uint32_t", "size", "elements"),
    ),
)
OP_RESCALE_INT16 = Record(
    "op_rescale_int16",
    "RESCALE_INT16: a change of scale or type, a lone Relu or Clip; at least one side is int16.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("int16_t", "input_zero_point", "quantised value of real zero"),
        Field("int16_t", "output_zero_point", "quantised value of real zero"),
        Field("uint16_t", "input_element", "FLEET_ELEMENT_INT8 or FLEET_ELEMENT_INT16"),
        Field("uint16_t", "output_element", "FLEET_ELEMENT_INT8 or FLEET_ELEMENT_INT16"),
        Field("uint32_t", "size", "elements"),
        Field("int32_t", "multiplier", "Q31"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)
OP_REDUCE_INT16 = Record(
    "op_reduce_int16",
    "REDUCE_SUM_INT16 (sums and means), REDUCE_MAX_INT16, REDUCE_MIN_INT16 over neighbouring axes.",
    (
        *_OP_BASE,
        *_RANGE_INT16,
        Field("uint32_t", "outer", "product of the axes before the reduced ones"),
        Field("uint32_t", "count", "product of the reduced axes"),
        Field("uint32_t", "inner", "product of the axes after them"),
        Field("int32_t", "multiplier", "Q31; 0 but for REDUCE_SUM_INT16"),
        Field("int32_t", "shift", "power of two, positive = left"),
    ),
)

OP_SVDF = Record(
    "op_svdf",
    "SVDF: a filter over the input, then one over the time, that remembers.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "features", "input elements"),
        Field("uint32_t", "filters", "a multiple of rank"),
        Field("uint32_t", "rank", "filters that add up to one output element"),
        Field("uint32_t", "memory", "values a filter remembers, the newest last"),
        Field("uint32_t", "state", "offset in the state buffer of (filters, memory) values"),
        Field("uint32_t", "table", "image offset of biases, weights over the time, weights over the input"),
        Field(
            "uint16_t", "state_element", "FLEET_ELEMENT_INT8 or _INT16: of the state and of the weights over the time"
        ),
        Field("int16_t", "state_zero_point", "of the state, 0 with INT16"),
        Field("int32_t", "multiplier", "Q31, of input scale x weight scale / state scale"),
        Field("int32_t", "shift", "power of two, positive = left"),
        Field(
            "int32_t", "output_multiplier", "Q31, of state scale x scale of the weights over the time / output scale"
        ),
        Field("int32_t", "output_shift", "power of two, positive = left"),
    ),
)

_RANGE_F32 = (
    Field("float", "activation_min", "lowest value written, may be infinite"),
    Field("float", "activation_max", "highest value written, may be infinite"),
)
_WEIGHTS_F32 = (Field("uint32_t", "weights", "image offset of float32 rows: the bias, then the weights of one output"),)
OP_CONV_F32 = Record(
    "op_conv_f32",
    "CONV_2D_F32, DEPTHWISE_CONV_2D_F32, TRANSPOSE_CONV_2D_F32.",
    _OP_BASE + _RANGE_F32 + _WINDOW + _WEIGHTS_F32,
)
OP_POOL_F32 = Record("op_pool_f32", "MAX_POOL_2D_F32, AVERAGE_POOL_2D_F32.", _OP_BASE + _RANGE_F32 + _WINDOW)
OP_FULLY_CONNECTED_F32 = Record(
    "op_fully_connected_f32",
    "FULLY_CONNECTED_F32.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "rows", "independent input rows, 1 for a vector"),
        Field("uint32_t", "in_features", "input elements per row"),
        Field("uint32_t", "out_features", "output elements per row"),
        *_WEIGHTS_F32,
    ),
)
OP_BINARY_F32 = Record(
    "op_binary_f32",
    "ADD_F32, SUB_F32, MUL_F32, DIV_F32, MINIMUM_F32, MAXIMUM_F32.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 3),
        Field("uint8_t", "repeats", "bit i: the input has no axis i, it repeats along it"),
        Field("uint8_t", "repeats_b", "the same of the second input"),
        Field("uint16_t", "reserved", "0"),
    ),
)
OP_SOFTMAX_F32 = Record(
    "op_softmax_f32",
    "SOFTMAX_F32, LOG_SOFTMAX_F32 over the last axis.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "rows", "independent rows"),
        Field("uint32_t", "columns", "classes per row"),
        Field("float", "beta", "factor of the input before the exponential"),
    ),
)
OP_REDUCE_F32 = Record(
    "op_reduce_f32",
    "REDUCE_SUM_F32 (sums and means), REDUCE_MAX_F32, REDUCE_MIN_F32, ARG_MAX_F32 over neighbouring axes.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "outer", "product of the axes before the reduced ones"),
        Field("uint32_t", "count", "product of the reduced axes"),
        Field("uint32_t", "inner", "product of the axes after them"),
        Field("float", "divisor", "of the sum: 1, or count for a mean; 1 but for REDUCE_SUM_F32"),
    ),
)
OP_RESIZE_F32 = Record(
    "op_resize_f32",
    "RESIZE_BILINEAR_F32.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "in_h", "input rows"),
        Field("uint32_t", "in_w", "input columns"),
        Field("uint32_t", "in_c", "channels of input and output"),
        Field("uint32_t", "out_h", "output rows"),
        Field("uint32_t", "out_w", "output columns"),
        Field("uint32_t", "table", "image offset of float32 pairs, rows then columns: place, part of the next one"),
    ),
)
OP_PAD_F32 = Record(
    "op_pad_f32",
    "PAD_F32 of up to four axes.",
    (
        *_OP_BASE,
        Field("float", "value", "what is put around the input"),
        Field("uint32_t", "dims", "of the input, outermost first; unused leading entries are 1", 4),
        Field("uint16_t", "before", "values before the input, per axis", 4),
        Field("uint16_t", "after", "values after it, per axis", 4),
    ),
)
OP_STRIDED_COPY_F32 = Record(
    "op_strided_copy_f32",
    "STRIDED_COPY_F32: slices, transpositions and rearrangements of four-byte elements.",
    (
        *_OP_BASE,
        Field("uint32_t", "start", "input element that output element 0 is"),
        Field("uint32_t", "dims", "of the output, outermost first; unused leading entries are 1", 4),
        Field("int32_t", "strides", "step in the input, in elements, per output axis", 4),
    ),
)
OP_MATMUL_F32 = Record(
    "op_matmul_f32",
    "BATCH_MATMUL_F32 of two tensors, each read in any order of its axes.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "input_b", "arena offset of the second input, or image offset with CONSTANT_B"),
        Field("uint16_t", "dims", "outer batches, inner batches, rows, columns of the output", 4),
        Field("uint32_t", "depth", "products summed up for one value"),
        Field("uint32_t", "steps", "in the input, in elements: outer batch, inner batch, row, depth; 0 repeats", 4),
        Field("uint32_t", "steps_b", "in the second input: outer batch, inner batch, column, depth; 0 repeats", 4),
        Field("uint32_t", "output_steps", "in the output, per axis of dims", 4),
    ),
)
OP_TOP_K_F32 = Record(
    "op_top_k_f32",
    "TOP_K_F32, TOP_K_INDICES_F32: the first k values of every row, in order, and where they stood.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "rows", "rows of the input"),
        Field("uint32_t", "columns", "values of a row"),
        Field("uint32_t", "k", "values taken of a row, 1 .. columns"),
        Field("uint32_t", "smallest", "0: largest first; 1: smallest first"),
    ),
)
OP_GATED_F32 = Record(
    "op_gated_f32",
    "LSTM_F32, GRU_F32: gates over the input and over what the step before gave, step by step.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "features", "input elements of a step"),
        Field("uint16_t", "units", "output elements of a step"),
        Field("uint16_t", "steps", "of one inference"),
        Field("uint32_t", "hidden", "offset in the state buffer of (units) float32, or FLEET_NO_OFFSET"),
        Field("uint32_t", "cell", "LSTM_F32: the same of its cell; FLEET_NO_OFFSET where hidden is, and for GRU_F32"),
        Field(
            "uint32_t",
            "table",
            "image offset of biases over the input, over the hidden state, with GIVEN_START cell (LSTM_F32) and hidden "
            "state, weights over the input, weights over the hidden state",
        ),
    ),
)
OP_PRELU_F32 = Record(
    "op_prelu_f32",
    "PRELU_F32 with a slope per channel.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "slopes", "image offset of slope_count float32"),
        Field("uint32_t", "slope_count", "element i meets slope i modulo slope_count"),
        Field("uint32_t", "size", "elements"),
    ),
)
OP_UNARY_F32 = Record(
    "op_unary_f32",
    "UNARY_F32, EXPONENTIAL_F32, TRIGONOMETRIC_F32: a function of one element.",
    (
        *_OP_BASE,
        *_RANGE_F32,
        Field("uint32_t", "function", "FLEET_FUNCTION_*"),
        Field("uint32_t", "size", "elements"),
        Field("float", "alpha", "parameter of the function, 0 without"),
        Field("float", "beta", "second parameter of the function, 0 without"),
    ),
)
OP_QUANTIZE = Record(
    "op_quantize",
    "DEQUANTIZE (codes to float32), QUANTIZE (float32 to codes).",
    (
        *_OP_BASE,
        Field("uint32_t", "size", "elements"),
        Field("float", "scale", "real value = (q - zero_point) * scale"),
        Field("int32_t", "zero_point", "code of real zero"),
        Field("uint16_t", "input_element", "FLEET_ELEMENT_*"),
        Field("uint16_t", "output_element", "FLEET_ELEMENT_*"),
    ),
)

OP_GATED = Record(
    "op_gated",
    "LSTM, GRU: gates over the input and over what the step before gave, step by step.",
    (
        *_OP_BASE,
        *_RANGE,
        Field("uint32_t", "features", "input elements of a step"),
        Field("uint16_t", "units", "output elements of a step"),
        Field("uint16_t", "steps", "of one inference"),
        Field(
            "uint32_t",
            "hidden",
            "offset in the state buffer of (units) int8, what the step before gave; or FLEET_NO_OFFSET",
        ),
        Field("uint32_t", "cell", "offset in the state buffer of (units) int16; FLEET_NO_OFFSET where hidden is"),
        Field(
            "uint32_t",
            "table",
            "image offset of biases, with GIVEN_START (units) int16 cell and (units) int8 hidden state, weights over "
            "the input, weights over the hidden state",
        ),
        Field(
            "int32_t",
            "gate_multipliers",
            "Q31, of sums to Q3.12: of every gate over the input, then of every gate over the hidden state",
            2 * GATES,
        ),
        Field("int32_t", "output_multiplier", "Q31, of Q30 (GRU: Q15) to the output"),
        Field("int8_t", "gate_shifts", "power of two, positive = left", 2 * GATES),
        Field("int8_t", "output_shift", "power of two, positive = left"),
        Field("int8_t", "cell_power", "the cell's scale is 2^cell_power, FLEET_LEAST_CELL_POWER .. 0; GRU: -15"),
        Field("int16_t", "cell_clip", "the cell stays within +-cell_clip, 0: unbounded"),
    ),
)

RECORDS: dict[str, Record] = {
    r.name: r
    for r in (
        OP,
        OP_CONV,
        OP_POOL,
        OP_FULLY_CONNECTED,
        OP_ADD,
        OP_SOFTMAX,
        OP_RESCALE,
        OP_TRANSPOSE,
        OP_PAD,
        OP_CONCAT,
        OP_STRIDED_COPY,
        OP_RESAMPLE,
        OP_LUT,
        OP_PRELU,
        OP_BINARY,
        OP_REDUCE,
        OP_LOG_SOFTMAX,
        OP_STATE,
        OP_SVDF,
        OP_GATED,
        OP_FEATURES,
        OP_MATMUL,
        OP_TOP_K,
        OP_NORMALIZE,
        OP_L2_NORMALIZE,
        OP_CONV_INT16,
        OP_FULLY_CONNECTED_INT16,
        OP_POOL_INT16,
        OP_BINARY_INT16,
        OP_SOFTMAX_INT16,
        OP_SIGMOID_INT16,
        OP_LUT_INT16,
        OP_LEAKY_RELU_INT16,
        OP_RESCALE_INT16,
        OP_REDUCE_INT16,
        OP_CONV_F32,
        OP_POOL_F32,
        OP_FULLY_CONNECTED_F32,
        OP_BINARY_F32,
        OP_SOFTMAX_F32,
        OP_REDUCE_F32,
        OP_RESIZE_F32,
        OP_PAD_F32,
        OP_STRIDED_COPY_F32,
        OP_MATMUL_F32,
        OP_TOP_K_F32,
        OP_GATED_F32,
        OP_PRELU_F32,
        OP_UNARY_F32,
        OP_QUANTIZE,
    )
}
ALL_RECORDS: tuple[Record, ...] = (
    HEADER,
    CASCADE,
    ROW_LINK,
    STRIP,
    SECTION,
    IO,
    STATES,
    STATE,
    GOLDEN,
    *RECORDS.values(),
)
