"""fleet_model_open refuses what it cannot honour, and whatever it accepts runs inside its arena."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import cbuild
from agent.runtime import rig, small_model
from agent.runtime.images import seal
from agent.runtime.rig import Model
from tinyfleet_compiler import layout
from tinyfleet_compiler.operators import OPERATORS, OpCode

HEADER = {field.name: (at, field) for at, field in layout.HEADER.offsets()}
FORMATS = {"uint32_t": "<I", "int32_t": "<i", "uint16_t": "<H", "uint8_t": "<B", "int8_t": "<b", "float": "<f"}


def patched(image: bytes, offset: int, ctype: str, value: Any) -> bytes:
    data = bytearray(image)
    struct.pack_into(FORMATS[ctype], data, offset, value)
    return seal(bytes(data))


def with_header(name: str, value: int) -> bytes:
    offset, field = HEADER[name]
    return patched(small_model.build(), offset, field.ctype, value)


def with_op(code: OpCode, name: str, value: int) -> bytes:
    """The small model with one field of its `code` record changed."""
    image = small_model.build()
    header = layout.HEADER.unpack(image)
    at = header["ops_offset"]
    while layout.RECORDS["op"].unpack(image, at)["code"] != code:
        at += layout.RECORDS["op"].unpack(image, at)["record_bytes"]
    fields = {field.name: (offset, field) for offset, field in layout.RECORDS[OPERATORS[code].record].offsets()}
    offset, field = fields[name]
    return patched(image, at + offset, field.ctype, value)


def with_io(index: int, name: str, value: Any) -> bytes:
    image = small_model.build()
    offset, field = {field.name: (offset, field) for offset, field in layout.IO.offsets()}[name]
    at = layout.HEADER.unpack(image)["io_offset"] + index * layout.IO.size + offset
    return patched(image, at, field.ctype, value)


def test_a_good_image_opens() -> None:
    model = Model(small_model.build())
    assert (model.status, model.verify(), model.golden()) == ("OK", "OK", "OK")


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("magic", 0x54464D31, "MAGIC"),  # the other byte order
        ("format_version", 2, "VERSION"),
        ("header_bytes", 164, "VERSION"),
        ("abi", 2, "ABI"),
        ("kernel_set", 9, "KERNEL_SET"),
        ("kernel_set_version", 9, "KERNEL_SET"),
        ("image_bytes", 0xFFFFFFF0, "TRUNCATED"),
        ("image_bytes", 16, "TRUNCATED"),
        ("flags", 1, "LAYOUT"),
        ("arena_bytes", 8, "LAYOUT"),
        ("arena_bytes", 0xFFFFFFFF, "LAYOUT"),
        ("state_bytes", 4, "LAYOUT"),
        ("scratch_bytes", 0xFFFFFFFF, "LAYOUT"),
        ("op_count", 0, "LAYOUT"),
        ("op_count", 8, "LAYOUT"),
        ("op_count", 10, "LAYOUT"),
        ("op_count", 0xFFFFFFFF, "LAYOUT"),
        ("ops_offset", 0xFFFFFFFC, "LAYOUT"),
        ("ops_bytes", 0xFFFFFFFC, "LAYOUT"),
        ("section_count", 0xFFFFFFFF, "LAYOUT"),
        ("sections_offset", 2, "LAYOUT"),
        ("input_count", 0, "LAYOUT"),
        ("input_count", 0xFFFFFFFF, "LAYOUT"),
        ("output_count", 0xFFFFFFFF, "LAYOUT"),
        ("io_offset", 0xFFFFFFF0, "LAYOUT"),
        ("channel_count", 0xFFFFFFFF, "LAYOUT"),
        ("multipliers_offset", 0xFFFFFFF0, "LAYOUT"),
        ("shifts_offset", 8, "LAYOUT"),
        ("biases_offset", 0xFFFFFFF0, "LAYOUT"),
        ("golden_bytes", 0, "LAYOUT"),
        ("golden_bytes", 260, "LAYOUT"),
        ("golden_offset", 0xFFFFFFF0, "LAYOUT"),
        ("strings_bytes", 0, "LAYOUT"),
        ("strings_offset", 0xFFFFFFFC, "LAYOUT"),
        ("name_offset", 0, "LAYOUT"),
        ("version_offset", 0xFFFFFFFF, "LAYOUT"),
        ("labels_offset", 4, "LAYOUT"),
        ("label_count", 0xFFFFFFFF, "LAYOUT"),
    ],
)
def test_header_field(name: str, value: int, status: str) -> None:
    assert Model(with_header(name, value)).status == status


@pytest.mark.parametrize(
    ("code", "name", "value", "status"),
    [
        (OpCode.CONV_2D, "code", 0, "OPERATOR"),
        (OpCode.CONV_2D, "code", 10, "OPERATOR"),
        (OpCode.CONV_2D, "code", OpCode.ADD, "LAYOUT"),
        (OpCode.CONV_2D, "record_bytes", 0, "LAYOUT"),
        (OpCode.CONV_2D, "record_bytes", 66, "LAYOUT"),
        (OpCode.CONV_2D, "flags", 1, "LAYOUT"),
        (OpCode.CONV_2D, "packing", 7, "PACKING"),
        (OpCode.CONV_2D, "input", 400, "LAYOUT"),
        (OpCode.CONV_2D, "output", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.CONV_2D, "output", 8, "LAYOUT"),  # overlaps its input from above
        (OpCode.CONV_2D, "scratch", 500, "LAYOUT"),
        (OpCode.CONV_2D, "scratch_bytes", 4, "LAYOUT"),
        (OpCode.CONV_2D, "activation_min", 127, "OK"),
        (OpCode.CONV_2D, "activation_max", -128, "OK"),
        (OpCode.CONV_2D, "kernel_h", 0, "LAYOUT"),
        (OpCode.CONV_2D, "kernel_w", 65535, "LAYOUT"),
        (OpCode.CONV_2D, "stride_w", 0, "LAYOUT"),
        (OpCode.CONV_2D, "dilation_h", 0, "LAYOUT"),
        (OpCode.CONV_2D, "groups", 0, "LAYOUT"),
        (OpCode.CONV_2D, "groups", 3, "LAYOUT"),
        (OpCode.CONV_2D, "in_c", 65535, "LAYOUT"),
        (OpCode.CONV_2D, "out_h", 65535, "LAYOUT"),
        (OpCode.CONV_2D, "weights", 0xFFFFFFF0, "LAYOUT"),
        (OpCode.CONV_2D, "weights", 2, "LAYOUT"),
        (OpCode.CONV_2D, "channel", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.DEPTHWISE_CONV_2D, "groups", 2, "LAYOUT"),
        (OpCode.MAX_POOL_2D, "out_c", 3, "LAYOUT"),
        (OpCode.MAX_POOL_2D, "pad_top", 2, "LAYOUT"),
        (OpCode.MAX_POOL_2D, "out_h", 4, "LAYOUT"),
        (OpCode.AVERAGE_POOL_2D, "dilation_w", 2, "LAYOUT"),
        (OpCode.AVERAGE_POOL_2D, "kernel_h", 65535, "OK"),
        (OpCode.AVERAGE_POOL_2D, "flags", 2, "OK"),
        (OpCode.ADD, "input_b", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.ADD, "size_b", 0, "LAYOUT"),
        (OpCode.ADD, "size", 0, "LAYOUT"),
        (OpCode.ADD, "size", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.ADD, "input_multiplier", -1, "LAYOUT"),
        (OpCode.ADD, "output_shift", 31, "LAYOUT"),
        (OpCode.ADD, "input_b_shift", -32, "LAYOUT"),
        (OpCode.ADD, "overlap_bytes", 4, "LAYOUT"),
        (OpCode.FULLY_CONNECTED, "in_features", 0, "LAYOUT"),
        (OpCode.FULLY_CONNECTED, "in_features", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.FULLY_CONNECTED, "out_features", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.FULLY_CONNECTED, "rows", 0x80000000, "LAYOUT"),
        (OpCode.SOFTMAX, "columns", 0, "LAYOUT"),
        (OpCode.SOFTMAX, "columns", 4097, "LAYOUT"),
        (OpCode.SOFTMAX, "left_shift", 32, "LAYOUT"),
        (OpCode.SOFTMAX, "left_shift", -1, "LAYOUT"),
        (OpCode.SOFTMAX, "diff_min", 1, "LAYOUT"),
        (OpCode.SOFTMAX, "multiplier", -5, "LAYOUT"),
        (OpCode.RESCALE, "shift", 31, "LAYOUT"),
        (OpCode.RESCALE, "multiplier", -(2**31), "LAYOUT"),
        (OpCode.TRANSPOSE, "dims", 0, "LAYOUT"),
        (OpCode.TRANSPOSE, "dims", 0xFFFFFFFF, "LAYOUT"),
        (OpCode.TRANSPOSE, "dims", 2, "LAYOUT"),
    ],
)
def test_op_field(code: OpCode, name: str, value: int, status: str) -> None:
    model = Model(with_op(code, name, value))
    assert model.status == status
    if status == "OK":
        model.run(np.zeros(72, np.int8))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arena_offset", 400),
        ("size_bytes", 73),
        ("element", 1),
        ("rank", 0),
        ("rank", 5),
        ("dims", 0),
        ("scale", 0.0),
        ("scale", -1.0),
        ("scale", float("nan")),
        ("scale", float("inf")),
        ("zero_point", 128),
        ("zero_point", -129),
        ("source_layout", 2),
        ("name_offset", 0),
    ],
)
def test_io_field(name: str, value: float) -> None:
    assert Model(with_io(0, name, value)).status == "LAYOUT"


def test_bad_channel_parameters_are_for_verify_and_harm_nobody_before() -> None:
    image = small_model.build()
    header = layout.HEADER.unpack(image)
    bad = [patched(image, header["multipliers_offset"], "int32_t", value) for value in (-1, -(2**31))]
    bad += [patched(image, header["shifts_offset"], "int8_t", shift) for shift in (31, -32, 127, -128)]
    for data in bad:
        model = Model(data)
        assert (model.status, model.verify()) == ("OK", "LAYOUT")
        _exercise(model, np.full(1 << 12, 77, np.int8))  # sanitizers watch


def test_strings_must_end() -> None:
    image = small_model.build()
    header = layout.HEADER.unpack(image)
    last = header["strings_offset"] + header["strings_bytes"] - 1
    assert Model(patched(image, last, "uint8_t", 65)).status == "LAYOUT"


def test_every_truncation_is_refused() -> None:
    image = small_model.build()
    for size in range(len(image)):
        assert Model(image[:size]).status == "TRUNCATED"


def test_trailing_bytes_are_no_harm() -> None:
    """A slot is larger than its image."""
    assert Model(small_model.build() + b"\xff" * 100).golden() == "OK"


@pytest.mark.parametrize("offset", [1, 2, 4, 8])
def test_misalignment_is_refused(offset: int) -> None:
    ffi, lib = rig.load()
    image = small_model.build()
    place = rig.buffer(len(image), image, offset)
    assert rig.NAMES[lib.fleet_model_open(ffi.new("fleet_model_t *"), place, len(image))] == "ALIGNMENT"
    model = Model(image)
    arena = rig.buffer(model.info.arena_bytes, b"", offset)
    assert rig.NAMES[lib.fleet_model_invoke(model.handle, arena, model.info.arena_bytes)] == "ALIGNMENT"


def test_null_arguments_are_refused() -> None:
    ffi, lib = rig.load()
    model = Model(small_model.build())
    assert rig.NAMES[lib.fleet_model_open(ffi.NULL, model.memory, 4)] == "ARGUMENT"
    assert rig.NAMES[lib.fleet_model_open(model.handle, ffi.NULL, 4)] == "ARGUMENT"
    assert rig.NAMES[lib.fleet_model_golden(model.handle, ffi.NULL, 0)] == "ARGUMENT"
    assert rig.NAMES[lib.fleet_model_invoke(ffi.NULL, model.arena, 416)] == "ARGUMENT"


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_whatever_opens_runs_safely(changes: list[tuple[int, int]], seed: int) -> None:
    """Mutations are aimed at the front part, where structure is; sanitizers watch image and arena."""
    image = bytearray(small_model.build())
    front = layout.HEADER.unpack(bytes(image))["multipliers_offset"]
    for position, value in changes:
        image[position % front] = value
    model = Model(bytes(image))
    if model.status == "OK" and model.info.arena_bytes < 1 << 20:
        x = np.random.default_rng(seed).integers(-128, 128, 1 << 12).astype(np.int8)
        _exercise(model, x)


def _exercise(model: Model, x: np.ndarray) -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *")
    for index in range(model.info.input_count):
        assert lib.fleet_model_input_info(model.handle, index, tensor) == 0
        data = x[: tensor.size_bytes].tobytes().ljust(tensor.size_bytes, b"\0")
        status = lib.fleet_model_set_input(
            model.handle, index, data, tensor.size_bytes, model.arena, model.info.arena_bytes
        )
        assert status == 0
    assert lib.fleet_model_invoke(model.handle, model.arena, model.info.arena_bytes) == 0
    assert model.golden() in ("OK", "GOLDEN")
    for index in range(min(model.info.label_count, 50)):
        label = lib.fleet_model_label(model.handle, index)
        assert label == ffi.NULL or ffi.string(label) is not None


def test_fuzz_target_finds_nothing_in_a_short_run(tmp_path: Any) -> None:
    """libFuzzer on open, golden and every accessor; `-runs` is small here, run the binary by hand for longer.

    Not optimised: it runs for a second, and Clang's optimiser with these sanitizers would take twenty more.
    """
    program = cbuild.executable(
        "fuzz_model",
        [cbuild.ROOT / "tests/agent/runtime/fuzz_model.c", *cbuild.runtime_sources()],
        compiler="clang",
        flags=("-O0",),
        sanitize="fuzzer,address,undefined",
    )
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "small").write_bytes(small_model.build())
    cbuild.fuzz(program, corpus, runs=20_000, max_len=4096)
