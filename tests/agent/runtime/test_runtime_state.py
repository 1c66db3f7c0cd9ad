"""The state buffer and the operators that use it: streams, resets, buffers too small, hostile records and tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import rig
from agent.runtime.bend import assert_refused, assert_safe
from agent.runtime.images import ImageBuilder, Io, Op, seal
from agent.runtime.rig import Model
from agent.runtime.test_runtime_kernels import EXAMPLES
from tinyfleet_compiler import ImageError, layout, simulate
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.numerics import quantize
from tinyfleet_compiler.operators import Element, OpCode
from unit.compiler.streaming_models import compiled, stream, streaming_cnn


def entry(offset: int, size: int, element: Element = Element.INT8, fill: int = 0) -> dict[str, Any]:
    values = {"state_offset": offset, "size_bytes": size, "element": element, "fill": fill}
    return values | {"data": layout.NO_OFFSET}


def table_at(image: bytes) -> int:
    """Where the entries of the state table begin."""
    header = layout.HEADER.unpack(image)
    return int(header["golden_offset"] + header["golden_bytes"] + layout.STATES.size)


def delay(*states: dict[str, Any]) -> ImageBuilder:
    """y = what x was one inference ago: read into the output's place, then the input is written."""
    read = {"input": 8, "output": 8, "overlap_bytes": 0, "state": 0, "size": 8}
    write = read | {"input": 0, "output": 0}
    ops = [Op(OpCode.STATE_READ, read), Op(OpCode.STATE_WRITE, write)]
    return ImageBuilder(16, [Io(0, (8,))], [Io(8, (8,))], ops, states=states or (entry(0, 8, fill=-3),))


def test_what_is_written_is_read_by_the_next_inference() -> None:
    model, x = Model(delay().build()), np.arange(24, dtype=np.int8).reshape(3, 8)
    assert (model.state_bytes() == -3).all()
    assert (model.run(x[0]) == -3).all()
    assert (model.run(x[1]) == x[0]).all()
    model.reset()
    assert (model.run(x[2]) == -3).all()


def test_two_handles_of_one_image_have_states_of_their_own() -> None:
    image, x = delay().build(), np.arange(16, dtype=np.int8).reshape(2, 8)
    first, second = Model(image), Model(image)
    first.run(x[0])
    assert (second.run(x[1]) == -3).all()
    assert (first.run(x[1]) == x[0]).all()


@pytest.mark.parametrize("fill", [-32768, -1, 0, 258, 32767])
def test_halfwords_begin_with_their_value(fill: int) -> None:
    model = Model(delay(entry(0, 8), entry(8, 6, Element.INT16, fill)).build())
    assert model.state_bytes()[8:14].view("<i2").tolist() == [fill] * 3


def test_initial_bytes_come_from_the_image() -> None:
    builder = delay()
    image = bytearray(builder.build())
    at = table_at(bytes(image))
    image += bytes(range(1, 17))
    start = len(image) - 16
    image[at : at + layout.STATE.size] = layout.STATE.pack(
        entry(0, 8) | {"data": start, "name_offset": layout.STATE.unpack(bytes(image), at)["name_offset"]}
    )
    header = layout.HEADER.unpack(bytes(image)) | {"image_bytes": len(image)}
    image[: layout.HEADER.size] = layout.HEADER.pack(header)
    sealed = seal(bytes(image))
    assert Model(sealed).run(np.zeros(8, np.int8)).tolist() == list(range(1, 9))
    assert read_image(sealed).initial_state.tolist() == list(range(1, 9))


def test_no_inference_without_a_state_buffer_of_the_right_size() -> None:
    ffi, lib = rig.load()
    model, x = Model(delay().build()), bytes(8)
    fresh = ffi.new("fleet_model_t *")
    assert lib.fleet_model_open(fresh, model.memory, len(model.image)) == 0
    assert lib.fleet_model_set_input(fresh, 0, x, 8, model.arena, 16) == 0
    cursor, step = ffi.new("fleet_cursor_t *"), ffi.new("fleet_step_t *")
    statuses = [
        lib.fleet_model_invoke(fresh, model.arena, 16),
        lib.fleet_model_step(fresh, cursor, model.arena, 16, step),
        lib.fleet_model_golden(fresh, model.arena, 16),
        lib.fleet_model_reset_state(fresh),
        lib.fleet_model_attach_state(fresh, model.state, 7),
    ]
    assert [rig.NAMES[s] for s in statuses] == ["STATE"] * 5
    assert rig.NAMES[lib.fleet_model_attach_state(fresh, ffi.NULL, 8)] == "ARGUMENT"
    assert rig.NAMES[lib.fleet_model_attach_state(ffi.NULL, model.state, 8)] == "ARGUMENT"
    assert rig.NAMES[lib.fleet_model_reset_state(ffi.NULL)] == "ARGUMENT"
    off = rig.buffer(16, offset=1)
    assert rig.NAMES[lib.fleet_model_attach_state(fresh, off, 8)] == "ALIGNMENT"
    assert lib.fleet_model_attach_state(fresh, model.state, 8) == 0
    assert lib.fleet_model_invoke(fresh, model.arena, 16) == 0


def test_golden_vectors_run_on_the_initial_state_and_leave_it(tmp_path: Path) -> None:
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    model, x = Model(image.data), np.moveaxis(stream(3, 8), 1, -1)
    codes = simulate(image, x)["y"]
    assert model.golden() == "OK"
    quantized = _codes(image, x)
    assert (model.run(quantized[0]) == codes[0]).all()
    assert model.golden() == "OK"
    for one in image.states:  # the bytes between two variables are nobody's
        owned = slice(one.offset, one.offset + one.size_bytes)
        assert (model.state_bytes()[owned] == image.initial_state[owned]).all()
    assert (model.run(quantized[0]) == codes[0]).all()


def _codes(image: Any, x: np.ndarray) -> np.ndarray:
    tensor = image.inputs[0]
    return quantize(x, tensor.scale, tensor.zero_point)


def test_a_stream_gives_the_simulators_bytes(tmp_path: Path) -> None:
    image = compiled(tmp_path, streaming_cnn(tmp_path / "m.onnx"))
    model, x = Model(image.data), np.moveaxis(stream(20, 9), 1, -1)
    got = np.stack([model.run(sample) for sample in _codes(image, x)])
    assert (got == simulate(image, x)["y"]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", 1),
        ("state", 4),
        ("state", 8),
        ("state", 0xFFFFFFFC),
        ("size", 0),
        ("size", 9),
        ("size", 0xFFFFFFFF),
        ("input", 9),
        ("input", 0),
        ("output", 0),
        ("flags", 1),
    ],
)
def test_a_bent_record_is_refused(name: str, value: int) -> None:
    assert_refused(delay(), name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state_offset", 4),
        ("state_offset", 2),
        ("state_offset", 0xFFFFFFFC),
        ("size_bytes", 0),
        ("size_bytes", 12),
        ("size_bytes", 0xFFFFFFFF),
        ("element", 4),
        ("element", 0xFFFFFFFF),
        ("fill", 128),
        ("fill", -129),
        ("data", 8),
        ("data", 0xFFFFFFF0),
        ("name_offset", 0),
        ("name_offset", 0xFFFFFFFF),
    ],
)
def test_a_bent_table_is_refused(name: str, value: int) -> None:
    builder = delay(entry(0, 8) | {name: value})
    builder.header = {"state_bytes": 8}
    image = builder.build()
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(image)


def _with_header(image: bytes, **values: int) -> bytes:
    header = layout.HEADER.unpack(image) | values
    return layout.HEADER.pack(header) + image[layout.HEADER.size :]


@pytest.mark.parametrize(
    "values",
    [{"state_bytes": 0}, {"state_bytes": 0x80000000}, {"state_bytes": 4}],
)
def test_a_bent_header_is_refused(values: dict[str, int]) -> None:
    image = seal(_with_header(delay().build(), **values))
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(image)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255))))
def test_whatever_opens_runs_safely(changes: list[tuple[int, int]]) -> None:
    assert_safe(delay().build(), changes)


@pytest.mark.parametrize("count", [0, 2, 1000, 0xFFFFFFFF])
def test_a_bent_count_is_refused(count: int) -> None:
    image = bytearray(delay().build())
    at = table_at(bytes(image)) - layout.STATES.size
    image[at : at + 4] = layout.STATES.pack({"count": count})
    assert Model(seal(bytes(image))).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(seal(bytes(image)))
