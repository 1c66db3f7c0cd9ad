"""The C patch decoder against the Python reference: any pieces, power cuts, failing flash, hostile patches."""

import random
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.delta.layered import layered_image
from agent.delta.rig import Device, ffi, lib
from tinyfleet_ota.delta import apply_delta, make_delta
from tinyfleet_ota.delta.header import HEADER, Header
from tinyfleet_ota.errors import DeltaError


def weights(seed: int, size: int) -> bytes:
    rng = random.Random(seed)
    return bytes(int(rng.gauss(0, 30)) & 0xFF for _ in range(size))


def tuned(image: bytes, seed: int, deviation: float) -> bytes:
    """A fine-tune: small differences everywhere, a rewritten head, some new bytes behind."""
    rng = random.Random(seed)
    body = bytearray((byte + round(rng.gauss(0, deviation))) & 0xFF for byte in image)
    body[:40] = rng.randbytes(40)
    return bytes(body)


OLD = weights(1, 9000)


def rescaled(image: bytes) -> bytes:
    """Words from 6064 on as after a change of an activation's scale: two layers, one word of another shift."""
    words = [int.from_bytes(image[at : at + 4], "little", signed=True) for at in range(6064, 8064, 4)]
    grown = [
        round(word * (0.9731 if n < 300 else 1.2 if -(2**30) < word < 2**30 else 0.6)) for n, word in enumerate(words)
    ]
    return image[:6064] + b"".join(word.to_bytes(4, "little", signed=True) for word in grown) + image[8064:]


PAIRS = {
    "rescaled": (OLD, rescaled(OLD)),
    "fine-tune": (OLD, tuned(OLD, 2, 1.2)),
    "same": (OLD, OLD),
    "longer": (OLD, tuned(OLD, 3, 0.3) + weights(4, 777)),
    "shorter": (OLD, tuned(OLD, 5, 0.3)[:5001]),
    "moved": (OLD, OLD[4000:] + OLD[:4000]),
    "unrelated": (OLD, weights(6, 9000)),
    "nothing before": (b"", OLD),
    "one byte": (b"\x01", b"\x02"),
    "pruned": (OLD, bytes(0 if byte < 24 or byte > 232 else byte for byte in OLD)),
}
SECTIONS = [
    {"kind": "weights", "offset": 64, "size": 6000, "element": "int8", "rows": 60, "row_length": 100},
    {"kind": "biases", "offset": 6064, "size": 2000, "element": "int32", "rows": 1, "row_length": 500},
]


def apply_in_pieces(
    old: bytes, patch: bytes, new_bytes: int, sizes: list[int], unit: int = 16, budget: int = 1 << 30
) -> Device:
    device = Device(old, new_bytes, len(patch), unit_bytes=unit)
    assert device.begin() == lib.FLEET_OK
    at = 0
    while at < len(patch) and not device.done:
        size = sizes[at % len(sizes)]
        assert device.push(patch[at : at + size], budget) == lib.FLEET_OK
        at += size
    return device


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("spacing", "sections"), [(0, []), (1024, []), (4096, SECTIONS)])
def test_whole_patch(name, spacing, sections):
    old, new = PAIRS[name]
    patch = make_delta(old, new, sections, sections, spacing=spacing)
    assert apply_delta(old, patch) == new
    device = apply_in_pieces(old, patch, len(new), [len(patch)])
    assert device.done
    assert bytes(device.new) == new


@cache
def fine_tune_patch() -> bytes:
    return make_delta(*PAIRS["fine-tune"], SECTIONS, SECTIONS, spacing=2048)


@pytest.mark.parametrize("sizes", [[1], [2, 3], [47], [48], [63, 64, 65], [1024]])
@pytest.mark.parametrize(("unit", "budget"), [(1, 4), (8, 7), (256, 1 << 20)])
def test_pieces_units_and_budgets_of_any_size(sizes, unit, budget):
    old, new = PAIRS["fine-tune"]
    patch = fine_tune_patch()
    device = apply_in_pieces(old, patch, len(new), sizes, unit, budget)
    assert device.done
    assert bytes(device.new) == new


LAYERED, LAYERED_SECTIONS = layered_image(1)
REQUANTISED = [
    layered_image(1, range_step=0.1),
    layered_image(1, range_step=-0.05, weight_step=1.0),
    layered_image(1, weight_step=0.2),
    layered_image(5),
]


PACES = [([1 << 20], 1 << 30), ([1], 8), ([7, 33], 64)]
"""Bytes that come at a time, and steps that the decoder may take for them."""


@pytest.mark.parametrize("number", range(len(REQUANTISED)))
def test_layers_decode_as_in_python_and_resume(number):
    new, sections = REQUANTISED[number]
    patch = make_delta(LAYERED, new, LAYERED_SECTIONS, sections, spacing=1024)
    assert apply_delta(LAYERED, patch) == new
    for unit, (sizes, budget) in product([1, 16, 256], PACES):
        device = apply_in_pieces(LAYERED, patch, len(new), sizes, unit, budget)
        assert device.done
        assert bytes(device.new) == new


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_random_images_in_random_pieces(data):
    old = data.draw(st.binary(max_size=600) | st.integers(0, 2000).map(lambda size: weights(size, size)))
    edits = data.draw(st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=40)), max_size=8))
    new = bytearray(old)
    for at, text in edits:
        new[at : at + data.draw(st.integers(0, 40))] = text
    new = bytes(new) or b"\x00"
    sections = data.draw(
        st.sampled_from([[], [{"kind": "weights", "offset": 3, "size": 400, "rows": 1, "row_length": 100}]])
    )
    patch = make_delta(old, new, sections, sections, spacing=data.draw(st.sampled_from([0, 256, 512])))
    sizes = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=7))
    device = apply_in_pieces(old, patch, len(new), sizes, data.draw(st.sampled_from([1, 4, 16, 256])))
    assert device.done
    assert bytes(device.new) == new == apply_delta(old, patch)


@pytest.mark.parametrize("name", ["fine-tune", "unrelated", "nothing before"])
def test_resume_at_every_checkpoint(name):
    old, new = PAIRS[name]
    patch = make_delta(old, new, [], [], spacing=1024)
    device = Device(old, len(new), len(patch))
    device.begin()
    seen = set()
    for at in range(0, len(patch), 50):
        assert device.push(patch[at : at + 50]) == lib.FLEET_OK
        input_offset, output_offset, spacing = device.checkpoint
        if input_offset == 0 or input_offset in seen:
            continue
        seen.add(input_offset)
        assert len(device.new) >= output_offset
        again = Device(old, len(new), len(patch))
        again.before = new[:output_offset]
        assert again.resume(input_offset, output_offset, spacing) == lib.FLEET_OK
        for start in range(input_offset, len(patch), 77):
            assert again.push(patch[start : start + 77]) == lib.FLEET_OK
        assert again.done
        assert bytes(again.new) == new[output_offset:]
    assert len(seen) == (len(new) - 1) // 1024


def test_resume_from_nothing_and_from_nonsense():
    old, new = PAIRS["fine-tune"]
    patch = make_delta(old, new, spacing=1024)
    device = Device(old, len(new), len(patch))
    assert device.resume(0, 0, 0) == lib.FLEET_OK
    assert device.push(patch) == lib.FLEET_OK
    assert bytes(device.new) == new
    for nonsense in [
        (3, 1024, 1024),
        (len(patch), 1024, 1024),
        (50, 1000, 1024),
        (50, 0, 1024),
        (50, 1024, 0),
        (50, 9216, 1024),
    ]:
        assert device.resume(*nonsense) == lib.FLEET_ERR_ARGUMENT


def test_a_cut_patch_wants_more_and_a_longer_one_is_not_read():
    old, new = PAIRS["fine-tune"]
    patch = make_delta(old, new)
    device = Device(old, len(new), len(patch))
    device.begin()
    assert device.push(patch[:-1]) == lib.FLEET_OK
    assert not device.done
    assert lib.fleet_delta_wants_input(device.delta)
    assert device.push(patch[-1:] + b"more") == lib.FLEET_OK
    assert device.done


def test_wrong_sizes_another_base_and_damaged_heads_are_refused_before_flash():
    old, new = PAIRS["fine-tune"]
    patch = make_delta(old, new)
    for device in (
        Device(old[:-1], len(new), len(patch)),
        Device(old, len(new) - 1, len(patch)),
        Device(old, len(new), len(patch) + 1),
        Device(old, len(new), len(patch), base_id=b"another."),
    ):
        device.begin()
        assert device.push(patch) == lib.FLEET_ERR_PATCH_BASE
        assert device.push(b"") == lib.FLEET_ERR_PATCH_BASE
        assert not device.new
    for position in range(HEADER.size):
        damaged = bytearray(patch)
        damaged[position] ^= 0x40
        device = Device(old, len(new), len(patch))
        device.begin()
        expected = lib.FLEET_ERR_PATCH if position < 2 else lib.FLEET_ERR_PATCH_BASE
        assert device.push(bytes(damaged)) == expected
        assert not device.new


def test_failing_flash_stops_the_decoder():
    old, new = PAIRS["fine-tune"]
    patch = make_delta(old, new)
    for device in (
        Device(old, len(new), len(patch), fail_write_at=4096),
        Device(old, len(new), len(patch), fail_read_at=4096),
    ):
        device.begin()
        assert device.push(patch) == lib.FLEET_ERR_STORAGE
        assert device.push(patch) == lib.FLEET_ERR_STORAGE
        assert not device.done
        assert len(device.new) <= 4096 + 32


def test_unusable_arguments_are_refused():
    used = ffi.new("size_t *")
    device = Device(OLD, 10, 100)
    assert lib.fleet_delta_push(device.delta, b"x", 1, 100, used) == lib.FLEET_ERR_ARGUMENT
    assert lib.fleet_delta_init(ffi.NULL, device.config) == lib.FLEET_ERR_ARGUMENT
    assert lib.fleet_delta_init(device.delta, ffi.NULL) == lib.FLEET_ERR_ARGUMENT
    for name, value in [
        ("unit_bytes", 0),
        ("unit_bytes", 48),
        ("unit_bytes", 512),
        ("new_bytes", 0),
        ("old_bytes", 1 << 25),
    ]:
        broken = Device(OLD, 10, 100)
        setattr(broken.config, name, value)
        assert broken.begin() == lib.FLEET_ERR_ARGUMENT
    assert device.begin() == lib.FLEET_OK
    assert lib.fleet_delta_push(device.delta, ffi.NULL, 1, 100, used) == lib.FLEET_ERR_ARGUMENT
    assert lib.fleet_delta_push(device.delta, b"x", 1, 3, used) == lib.FLEET_ERR_ARGUMENT


@given(data=st.data())
def test_a_stored_image_passes_as_it_is_from_any_checkpoint(data: Any) -> None:
    """Any portions, any unit; checkpoints at erase blocks only, and what follows each is all that a resume needs."""
    unit, block = data.draw(st.sampled_from([(1, 256), (16, 512), (256, 1024)]))
    image = data.draw(st.binary(min_size=1, max_size=3000))
    device = stored(image, unit, block)
    assert device.begin() == lib.FLEET_OK
    seen, at = set(), 0
    while at < len(image):
        size = data.draw(st.integers(1, 700))
        assert device.push(image[at : at + size], budget=data.draw(st.sampled_from([4, 100, 1 << 20]))) == lib.FLEET_OK
        at += size
        seen.add(device.checkpoint[:2])
    assert device.done
    assert device.new == image
    assert {out % block for _, out in seen} <= {0}
    for offset, output in seen - {(0, 0)}:
        assert offset == output
        again = stored(image, unit, block)
        assert again.resume(offset, output, 256) == lib.FLEET_OK
        assert again.push(image[offset:]) == lib.FLEET_OK
        assert again.done
        assert again.new == image[output:]


def stored(image: bytes, unit: int = 16, block: int = 256, patch_bytes: int | None = None) -> Device:
    device = Device(b"", len(image), len(image) if patch_bytes is None else patch_bytes, unit)
    device.config.checkpoint_align_bytes = block
    device.config.stored = True
    return device


def test_a_stored_image_of_another_size_never_ends_well() -> None:
    image = bytes(range(256)) * 4
    long = stored(image, patch_bytes=len(image) + 1)
    assert long.begin() == lib.FLEET_OK
    assert long.push(image + b"x") == lib.FLEET_ERR_PATCH
    assert not long.done
    short = stored(image, patch_bytes=len(image) - 4)
    assert short.begin() == lib.FLEET_OK
    assert short.push(image[:-4]) == lib.FLEET_ERR_PATCH
    assert not short.done


def test_a_patch_for_more_than_it_can_refer_to_is_refused() -> None:
    patch = make_delta(b"", bytes(100))
    device = Device(b"", (1 << 24) + 1, len(patch))
    assert device.begin() == lib.FLEET_OK
    assert device.push(patch) == lib.FLEET_ERR_PATCH
    assert device.new == b""


def hostile(rng: random.Random, old: bytes, patch: bytes) -> bytes:
    """A patch whose body is damaged, cut, lengthened or random under a good header."""
    header = Header.unpack(patch, len(old))
    body = bytearray(patch[header.head_bytes :])
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    elif kind == 1:
        del body[rng.randrange(len(body)) :]
    elif kind == 2:
        body[rng.randrange(len(body)) :] = rng.randbytes(rng.randint(1, 400))
    else:
        body = bytearray(rng.randbytes(rng.randint(1, 600)))
    return header.pack(old, len(body)) + bytes(body)


@pytest.mark.parametrize("seed", range(5))
def test_hostile_patches_end_as_in_python_and_stay_inside(seed):
    rng = random.Random(seed)
    old, new = PAIRS[rng.choice(list(PAIRS))]
    good = make_delta(old, new, SECTIONS, SECTIONS, spacing=rng.choice([0, 1024]))
    if seed > 2:
        old, (new, sections) = LAYERED, REQUANTISED[seed - 3]
        good = make_delta(old, new, LAYERED_SECTIONS, sections, spacing=0)
    for _ in range(20):  # a million: `make bench-delta-fuzz`
        patch = hostile(rng, old, good)
        try:
            expected = apply_delta(old, patch)
        except DeltaError:
            expected = None
        device = Device(old, len(new), len(patch), unit_bytes=rng.choice([1, 16, 256]))
        device.begin()
        status = lib.FLEET_OK
        for at in range(0, len(patch), 33):
            status = device.push(patch[at : at + 33]) or status
        assert len(device.new) <= len(new)
        assert device.done == (expected is not None)
        assert (status == lib.FLEET_ERR_PATCH) == (expected is None)
        if expected is not None:
            assert bytes(device.new) == expected


def test_state_is_small():
    assert ffi.sizeof("fleet_delta_t") <= 2560
