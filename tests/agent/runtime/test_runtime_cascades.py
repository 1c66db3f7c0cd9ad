"""Cascades in C: every row equals the simulator's, and no image makes a row leave the arena.

The study models: test_compiler_cascades.py.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.runtime import rig
from agent.runtime.images import seal
from agent.runtime.rig import Model
from tinyfleet_compiler import ImageError, layout, read_image
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.simulate import collect_outputs, simulate
from unit.compiler.cascade_models import (
    bottleneck,
    compiled_for_ram,
    in_strips,
    load,
    row_graphs,
    sequence,
    with_cascades,
)
from unit.compiler.onnx_models import node

LINK = {field.name: at for at, field in layout.ROW_LINK.offsets()}


def check_every_row(image: Image, seed: int) -> None:
    model = Model(image.data)
    assert (model.status, model.verify(), model.golden()) == ("OK", "OK", "OK")
    (tensor,) = image.inputs
    x = np.random.default_rng(seed).integers(-128, 128, tensor.size_bytes).astype(np.int8)
    arena = np.zeros((1, image.arena_bytes), np.int8)
    arena[0, tensor.offset : tensor.offset + tensor.size_bytes] = x
    for mine, theirs in zip(model.step_outputs(x), collect_outputs(image, arena), strict=True):
        np.testing.assert_array_equal(mine, theirs.ravel())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row_graphs(), st.integers(0, 2**16))
def test_random_graphs(tmp_path: Path, drawn: Any, seed: int) -> None:
    compiled = compiled_for_ram(load(tmp_path / "m.onnx", drawn))
    for made in (compiled, in_strips(compiled, 2), in_strips(compiled, 3)):
        check_every_row(made.image, seed)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two convolutions and their sum with a third: with a per-channel constant behind: five ops, one cascade."""
    rng = np.random.default_rng(5)
    weights: dict[str, Any] = {f"w{i}": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for i in range(3)}
    nodes = [
        node("Conv", ["x", "w0"], "a", pads=[1] * 4),
        node("Conv", ["a", "w1"], "b", pads=[1] * 4),
        node("Conv", ["b", "w2"], "c", pads=[1] * 4),
        node("Add", ["a", "c"], "s"),
        node("Add", ["s", "k"], "y"),
    ]
    constants = weights | {"k": rng.normal(size=(4, 1, 1)).astype(np.float32)}
    folder = tmp_path_factory.mktemp("chain")
    return with_cascades(compiled_for_ram(load(folder / "m.onnx", (nodes, constants, ["y"]))), (0, 5)).data


def test_the_chain_is_good(chain: bytes) -> None:
    check_every_row(read_image(chain), 3)


def with_head(image: bytes, field: int, value: int) -> bytes:
    at = layout.HEADER.unpack(image)["cascades_offset"] + 4 * field
    return _patched(image, at, "<I", value)


def with_link(image: bytes, member: int, name: str, value: int) -> bytes:
    at = layout.HEADER.unpack(image)["cascades_offset"] + layout.CASCADE.size + member * layout.ROW_LINK.size
    return _patched(image, at + LINK[name], "<H", value)


def _patched(image: bytes, at: int, form: str, value: int) -> bytes:
    data = bytearray(image)
    struct.pack_into(form, data, at, value)
    return seal(bytes(data))


@pytest.mark.parametrize(
    ("member", "name", "value"),
    [
        (0, "rows", 8),
        (0, "rows", 0),
        (0, "ring_rows", 0),
        (0, "ring_rows", 10),
        (0, "ring_rows", 0xFFFF),
        (0, "slide_rows", 0),
        (1, "slide_rows", 9),
        (0, "source", 0),  # itself
        (1, "source", 2),  # a later one
        (1, "source", 77),
        (1, "source_b", 0),  # has no second input
        (3, "source_b", 4),
        (4, "rows", 7),  # does not divide
        (4, "rows", 0xFFFF),
        (2, "width", 0),
        (2, "width", 4),
        (0, "width", 0xFFFF),
    ],
)
def test_bad_links_are_refused_by_both_readers(chain: bytes, member: int, name: str, value: int) -> None:
    image = with_link(chain, member, name, value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError, match="again"):
        read_image(image)


def test_a_workspace_that_an_op_writes_is_refused(chain: bytes) -> None:
    """An op that could rewrite its own record could go anywhere."""
    image = read_image(chain)
    for index in range(5):
        moved = with_head(chain, 2, image.ops[index].output & ~3)
        assert Model(moved).status == "LAYOUT"
        with pytest.raises(ImageError, match="workspace"):
            read_image(moved)
    for value in (1, image.arena_bytes - 70, 0xFFFFFFFC):
        assert Model(with_head(chain, 2, value)).status == "LAYOUT"
        with pytest.raises(ImageError, match="workspace"):
            read_image(with_head(chain, 2, value))


@pytest.mark.parametrize(("field", "value"), [(0, 1), (0, 9), (0, 0xFFFFFFFF), (1, 0), (1, 1), (1, 6), (1, 0xFFFFFFFF)])
def test_bad_heads_are_refused_by_both_readers(chain: bytes, field: int, value: int) -> None:
    image = with_head(chain, field, value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError, match="again"):
        read_image(image)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two cascades of three ops in strips."""
    made = compiled_for_ram(bottleneck(tmp_path_factory.mktemp("patches")), arena_bytes=4000)
    assert [len(cascade.links) for cascade in made.image.cascades] == [3, 3]
    return made.data


def test_patches_are_good(patches: bytes) -> None:
    check_every_row(read_image(patches), 3)


def test_a_sequence_runs_step_by_step(tmp_path: Path) -> None:
    check_every_row(compiled_for_ram(sequence(tmp_path)).image, 3)


def with_strip(image: bytes, strip: int, member: int, field: int, value: int) -> bytes:
    """One column number of the first cascade."""
    at = layout.HEADER.unpack(image)["cascades_offset"] + layout.CASCADE.size + 3 * layout.ROW_LINK.size
    return _patched(image, at + (strip * 3 + member) * layout.STRIP.size + 2 * field, "<H", value)


@pytest.mark.parametrize(
    ("strip", "member", "field", "value"),
    [
        (0, 0, 1, 0),  # no columns
        (0, 2, 1, 25),  # more than the output has
        (1, 2, 0, 24),
        (1, 1, 0, 0xFFFF),
        (0, 0, 1, 1),  # the second op reads two
        (1, 0, 0, 20),  # begins behind what is read
    ],
)
def test_bad_strips_are_refused_by_both_readers(
    patches: bytes, strip: int, member: int, field: int, value: int
) -> None:
    image = with_strip(patches, strip, member, field, value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError, match="again"):
        read_image(image)


@pytest.mark.parametrize("value", [0, 1, 65, 0xFFFFFFFF])
def test_a_wrong_number_of_strips_is_refused(patches: bytes, value: int) -> None:
    image = with_head(patches, 3, value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(image)


@pytest.mark.parametrize("value", [2, 0x7FFFFFFC, 0xFFFFFFFC])
def test_a_place_to_gather_lies_in_the_arena(patches: bytes, value: int) -> None:
    image = with_head(patches, 4, value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError, match="workspace"):
        read_image(image)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_strips_say_no_pixel_leaves_the_arena(patches: bytes, data: st.DataObject) -> None:
    """The sanitizers watch; both readers must agree."""
    image = patches
    strips = len(read_image(patches).cascades[0].strips)
    for _ in range(data.draw(st.integers(1, 3))):
        strip, member = data.draw(st.integers(0, strips - 1)), data.draw(st.integers(0, 2))
        value = data.draw(st.sampled_from([0, 1, 2, 3, 5, 8, 11, 12, 13, 23, 24, 0x7FFF, 0xFFFF]))
        image = with_strip(image, strip, member, data.draw(st.integers(0, 1)), value)
    agree(image)


@pytest.mark.parametrize("name", ["cascades_offset", "cascades_bytes"])
@pytest.mark.parametrize("value", [4, 0x7FFFFFFC, 0xFFFFFFFC, 0xFFFFFFFF, 3])
def test_a_table_elsewhere_is_refused(chain: bytes, name: str, value: int) -> None:
    at = next(at for at, field in layout.HEADER.offsets() if field.name == name)
    image = _patched(chain, at, "<I", value)
    assert Model(image).status == "LAYOUT"
    with pytest.raises(ImageError):
        read_image(image)


def test_a_ring_that_forgets_too_early_is_an_error_not_a_read(chain: bytes) -> None:
    image = with_link(with_link(chain, 0, "ring_rows", 2), 0, "slide_rows", 2)
    model = Model(image)
    assert model.status == "OK"
    assert model.golden() == "LAYOUT"
    _, lib = rig.load()
    assert rig.NAMES[lib.fleet_model_invoke(model.handle, model.arena, model.info.arena_bytes)] == "LAYOUT"
    with pytest.raises(ImageError, match="drops rows"):
        simulate(read_image(image), np.zeros((1, 9, 5, 4), np.int8))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_links_say_no_row_leaves_the_arena(chain: bytes, data: st.DataObject) -> None:
    """The sanitizers watch; both readers must agree."""
    image = chain
    for _ in range(data.draw(st.integers(1, 3))):
        member = data.draw(st.integers(0, 4))
        name = data.draw(st.sampled_from(sorted(LINK)))
        image = with_link(image, member, name, data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 9, 0x7FFF, 0xFFFF])))
    agree(image)


def agree(image: bytes) -> None:
    """Both readers refuse an image, or both take it."""
    model = Model(image)
    try:
        read_image(image)
    except ImageError:
        assert model.status != "OK"
        return
    assert model.status == "OK"
    assert model.golden() in ("OK", "GOLDEN", "LAYOUT")
