"""The calls an application makes: description, labels, inputs, steps, CRC, golden vectors, quantisation, top-1."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime import rig, small_model
from agent.runtime.images import golden_input, seal
from agent.runtime.rig import Model
from tinyfleet_compiler import layout, numerics
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import Element, OpCode
from tinyfleet_compiler.simulate import golden_bytes, golden_crc


def text(pointer: object) -> str:
    return rig.load()[0].string(pointer).decode()


def tensor_of(model: Model, index: int = 0, output: bool = False) -> object:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *")
    ask = lib.fleet_model_output_info if output else lib.fleet_model_input_info
    assert ask(model.handle, index, tensor) == 0
    return tensor


def test_description() -> None:
    _, lib = rig.load()
    model = Model(small_model.build())
    info = model.info
    assert [text(info.name), text(info.version), text(info.device_class)] == ["small", "v7", "host"]
    assert (info.arena_bytes, info.state_bytes, info.op_count, info.label_count) == (416, 0, 9, 3)
    assert tuple(text(lib.fleet_model_label(model.handle, i)) for i in range(3)) == small_model.LABELS
    assert lib.fleet_model_label(model.handle, 3) == rig.load()[0].NULL


def test_tensors() -> None:
    ffi, lib = rig.load()
    model = Model(small_model.build())
    image, out = tensor_of(model), tensor_of(model, output=True)
    assert (text(image.name), image.size_bytes, image.rank, list(image.dims)) == ("image", 72, 3, [6, 6, 2, 1])
    assert (image.zero_point, round(image.scale, 6)) == (-10, 0.05)
    assert (text(out.name), out.size_bytes, out.zero_point) == ("probabilities", 3, -128)
    for ask in (lib.fleet_model_input_info, lib.fleet_model_output_info):
        assert rig.NAMES[ask(model.handle, 1, ffi.new("fleet_tensor_t *"))] == "ARGUMENT"
    assert lib.fleet_model_output(model.handle, 1, model.arena) == ffi.NULL


def test_steps_name_the_ops_and_end() -> None:
    ffi, lib = rig.load()
    model = Model(small_model.build())
    cursor, step, codes = ffi.new("fleet_cursor_t *"), ffi.new("fleet_step_t *"), []
    for _ in range(9):
        assert lib.fleet_model_step(model.handle, cursor, model.arena, 416, step) == 0
        codes.append(step.code)
    assert sorted(codes) == [code for code in sorted(OpCode) if code <= OpCode.TRANSPOSE]
    assert rig.NAMES[lib.fleet_model_step(model.handle, cursor, model.arena, 416, step)] == "ARGUMENT"


def test_steps_and_run_agree() -> None:
    model = Model(small_model.build())
    x = golden_input(99, 72)
    np.testing.assert_array_equal(model.step_outputs(x)[-1], model.run(x))


@pytest.mark.parametrize(
    ("index", "size", "arena", "status"), [(0, 71, 416, "ARGUMENT"), (1, 72, 416, "ARGUMENT"), (0, 72, 415, "ARENA")]
)
def test_wrong_input_is_refused(index: int, size: int, arena: int, status: str) -> None:
    _, lib = rig.load()
    model = Model(small_model.build())
    given_data = bytes(size)
    assert rig.NAMES[lib.fleet_model_set_input(model.handle, index, given_data, size, model.arena, arena)] == status


def test_small_arena_is_refused_untouched() -> None:
    ffi, lib = rig.load()
    model = Model(small_model.build())
    step = ffi.new("fleet_step_t *")
    assert rig.NAMES[lib.fleet_model_invoke(model.handle, model.arena, 415)] == "ARENA"
    assert rig.NAMES[lib.fleet_model_golden(model.handle, model.arena, 415)] == "ARENA"
    cursor = ffi.new("fleet_cursor_t *")
    assert rig.NAMES[lib.fleet_model_step(model.handle, cursor, model.arena, 0, step)] == "ARENA"
    assert bytes(ffi.buffer(model.arena, 416)) == bytes(416)


def test_verify_refuses_every_flipped_bit_that_open_lets_pass() -> None:
    image = small_model.build()
    for bit in range(0, 8 * len(image), 7):  # every byte, changing bits
        data = bytearray(image)
        data[bit // 8] ^= 1 << bit % 8
        model = Model(bytes(data))
        assert model.status != "OK" or model.verify() == "CRC"


def test_golden_notices_a_changed_weight() -> None:
    image = small_model.build()
    header = layout.HEADER.unpack(image)
    weights = header["shifts_offset"] + 16
    for offset in range(weights, header["biases_offset"], 5):
        data = bytearray(image)
        data[offset] ^= 0x40
        model = Model(seal(bytes(data)))
        assert model.verify() == "OK"
        if read_image(model.image).data[offset] != 0x40:  # padding between sections changes nothing
            golden = read_image(image).golden
            expected = golden_crc(read_image(model.image), golden.seeds) == golden.crc32
            assert model.golden() == ("OK" if expected else "GOLDEN")


def test_golden_vectors_are_those_of_the_simulator() -> None:
    image = small_model.build()
    parsed = read_image(image)
    assert len(parsed.golden.seeds) > 1
    assert golden_crc(parsed, parsed.golden.seeds) == parsed.golden.crc32
    np.testing.assert_array_equal(golden_input(5, 200), golden_bytes(5, 200)[0])


@pytest.mark.parametrize("at", range(8, 12 + 4 * len(small_model.SEEDS), 4))
def test_golden_of_a_wrong_crc_or_seed(at: int) -> None:
    """Each vector counts, the last one too."""
    image = bytearray(small_model.build())
    image[layout.HEADER.unpack(bytes(image))["golden_offset"] + at] ^= 1
    assert Model(seal(bytes(image))).golden() == "GOLDEN"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=20),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(-128, 127),
)
def test_quantize_as_the_compiler(values: list[float], scale: float, zero_point: int) -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *", {"scale": scale, "zero_point": zero_point})
    real = np.array(values, np.float32)
    out, back = ffi.new("int8_t[]", len(real)), ffi.new("float[]", len(real))
    lib.fleet_quantize(tensor, ffi.from_buffer("float[]", real), len(real), out)
    expected = numerics.quantize(real, scale, zero_point)
    np.testing.assert_array_equal(np.array(list(out), np.int8), expected)
    lib.fleet_dequantize(tensor, out, len(real), back)
    np.testing.assert_array_equal(np.array(list(back), np.float32), numerics.dequantize(expected, scale, zero_point))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.floats(2.0**-30, 2.0**10, width=32))
def test_quantize_to_int16_as_the_compiler(values: list[float], scale: float) -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *", {"scale": scale, "element": 1, "size_bytes": 2 * len(values)})
    real = np.array(values, np.float32)
    out, back = ffi.new("int16_t[]", len(real)), ffi.new("float[]", len(real))
    lib.fleet_quantize(tensor, ffi.from_buffer("float[]", real), len(real), out)
    expected = numerics.quantize(real, scale, 0, np.int16)
    np.testing.assert_array_equal(np.array(list(out), np.int16), expected)
    lib.fleet_dequantize(tensor, out, len(real), back)
    np.testing.assert_array_equal(np.array(list(back), np.float32), numerics.dequantize(expected, scale, 0))
    assert lib.fleet_top1(tensor, out).index == int(expected.argmax())
    assert lib.fleet_tensor_elements(tensor) == len(values)


def test_quantize_rounds_halves_away_from_zero() -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *", {"scale": 1.0, "zero_point": 0})
    real = [0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 1e30, -1e30, float("nan")]
    out = ffi.new("int8_t[]", len(real))
    lib.fleet_quantize(tensor, real, len(real), out)
    assert list(out) == [1, -1, 2, 3, -3, 0, 127, -128, 0]


@pytest.mark.parametrize(
    ("scale", "zero_point", "values", "index", "confidence"),
    [
        (1 / 256, -128, [-128, 64, 63], 1, 0.75),
        (1 / 256, -128, [5, 5, 5], 0, 133 / 256),
        (1.0, 0, [-7, -3], 1, 0.0),  # logits: clamped, still the right class
        (1.0, 0, [90, -3], 0, 1.0),
    ],
)
def test_top1(scale: float, zero_point: int, values: list[int], index: int, confidence: float) -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *", {"scale": scale, "zero_point": zero_point, "size_bytes": len(values)})
    best = lib.fleet_top1(tensor, ffi.new("int8_t[]", values))
    assert (best.index, best.confidence) == (index, pytest.approx(confidence))


@pytest.mark.parametrize(
    ("values", "index", "confidence"),
    [
        ([np.nan, 0.5], 0, 0.0),
        ([0.25, np.nan], 0, 0.25),
        ([-np.inf, -0.5], 1, 0.0),
        ([0.5, np.inf], 1, 1.0),
        ([3e38, 1e-45], 0, 1.0),
    ],
)
def test_top1_of_real_numbers_is_a_share_whatever_they_are(values: list[float], index: int, confidence: float) -> None:
    ffi, lib = rig.load()
    tensor = ffi.new("fleet_tensor_t *", {"element": Element.FLOAT32, "size_bytes": 4 * len(values)})
    best = lib.fleet_top1(tensor, ffi.new("float[]", values))
    assert (best.index, best.confidence) == (index, confidence)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_crc32_as_zlib(first: bytes, second: bytes) -> None:
    _, lib = rig.load()
    assert lib.fleet_crc32(lib.fleet_crc32(0, first, len(first)), second, len(second)) == zlib.crc32(first + second)


def test_every_status_has_a_text() -> None:
    ffi = rig.cffi.FFI()
    ffi.cdef("const char *fleet_status_text(int status);")
    lib = ffi.dlopen(str(rig.cbuild.shared_library("runtime", rig.cbuild.runtime_sources())))
    texts = {status: ffi.string(lib.fleet_status_text(status)).decode() for status in rig.NAMES}
    assert len(set(texts.values())) == len(rig.NAMES)
    assert all(status == 0 or len(line) > 15 for status, line in texts.items())
    assert "unknown" in ffi.string(lib.fleet_status_text(-9999)).decode()
