"""Delta codec in Python: round trips, size promises, hints that lie, damaged patches."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.delta.layered import LENGTH, layered_image
from tinyfleet_ota.delta import apply_delta, choose_transfer, codec, make_delta, patch_info
from tinyfleet_ota.delta.header import HEADER, IMAGE_BYTES_MAX, SIZE_BYTES, Header
from tinyfleet_ota.delta.models import CONTEXTS, code_exp_golomb, code_tree
from tinyfleet_ota.delta.pairing import Region, pair_images
from tinyfleet_ota.delta.plan import Tactics, plan_segments
from tinyfleet_ota.delta.range_coder import RangeDecoder, RangeEncoder
from tinyfleet_ota.delta.words import Grid, Rows, row_sum, scaled_to, scaled_word
from tinyfleet_ota.errors import DeltaError
from tinyfleet_ota.protocol import Codec


def int8_image(seed: int, size: int) -> bytes:
    return np.clip(np.random.default_rng(seed).normal(0, 30, size).round(), -127, 127).astype(np.int8).tobytes()


def tuned(image: bytes, seed: int, deviation: float) -> bytes:
    noise = np.random.default_rng(seed).normal(0, deviation, len(image)).round().astype(np.int64)
    return ((np.frombuffer(image, np.uint8).astype(np.int64) + noise) % 256).astype(np.uint8).tobytes()


BASE = int8_image(1, 20000)


@given(
    st.lists(st.tuples(st.integers(0, CONTEXTS - 1), st.integers(0, 1), st.integers(0, 31)), max_size=400), st.data()
)
def test_range_coder_gives_back_every_bit_and_stops_at_its_end(symbols, data):
    encoder = RangeEncoder(CONTEXTS)
    for context, bit, bits in symbols:
        encoder.bit(context, bit)
        encoder.direct((1 << bits) - 1 - bit if bits else 0, bits)
    coded = encoder.finish()
    decoder = RangeDecoder(CONTEXTS, coded + data.draw(st.binary(max_size=5)), 0)
    for context, bit, bits in symbols:
        assert decoder.bit(context) == bit
        assert decoder.direct(0, bits) == ((1 << bits) - 1 - bit if bits else 0)
    assert decoder.offset == len(coded)


@given(st.lists(st.integers(0, (1 << 24) - 2), max_size=50), st.lists(st.integers(0, 255), max_size=50))
def test_numbers_and_trees_round_trip(numbers, bytes_):
    encoder = RangeEncoder(CONTEXTS)
    for number in numbers:
        code_exp_golomb(encoder, 0, number, 24)
    for byte in bytes_:
        code_tree(encoder, 30, byte, 8)
    decoder = RangeDecoder(CONTEXTS, encoder.finish(), 0)
    assert [code_exp_golomb(decoder, 0, 0, 24) for _ in numbers] == numbers
    assert [code_tree(decoder, 30, 0, 8) for _ in bytes_] == bytes_


def test_long_carries_reach_back():
    """Improbable bits after a run of sure ones push the low end over many bytes of all ones."""
    for length in range(1, 60):
        encoder = RangeEncoder(2)
        bits = [1] * length + [0] + [1] * 40
        for bit in bits:
            encoder.direct(bit, 1)
        decoder = RangeDecoder(2, encoder.finish(), 0)
        assert [decoder.direct(0, 1) for _ in bits] == bits


@settings(deadline=None)
@given(st.data())
def test_any_images_and_any_hints_round_trip(data):
    old = data.draw(st.binary(max_size=400))
    new = data.draw(st.binary(min_size=1, max_size=400) | st.just(old or b"x"))
    section = st.fixed_dictionaries(
        {"offset": st.integers(0, 500), "size": st.integers(-3, 500), "kind": st.sampled_from([1, "weights", None])},
        optional={"rows": st.integers(0, 40), "row_length": st.integers(0, 40), "element": st.integers(0, 3)},
    )
    hints = st.lists(section, max_size=4)
    patch = make_delta(old, new, data.draw(hints), data.draw(hints), spacing=data.draw(st.sampled_from([0, 256])))
    assert apply_delta(old, patch) == new
    regions = pair_images(old, new, data.draw(hints), data.draw(hints))
    assert [region.offset for region in regions] == [sum(r.size for r in regions[:n]) for n in range(len(regions))]
    assert sum(region.size for region in regions) == len(new)


@pytest.mark.parametrize(("deviation", "share"), [(0.0, 0.01), (0.3, 0.20), (1.2, 0.40), (2.0, 0.45)])
def test_fine_tunes_cost_a_fraction(deviation, share):
    patch = make_delta(BASE, tuned(BASE, 2, deviation))
    assert len(patch) <= share * len(BASE)


def test_residuals_cost_little_more_than_their_entropy():
    new = tuned(BASE, 2, 1.2)
    residual = np.frombuffer(new, np.int8).astype(int) - np.frombuffer(BASE, np.int8).astype(int)
    counts = np.unique(residual, return_counts=True)[1]
    entropy_bytes = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert len(make_delta(BASE, new, spacing=0)) <= 1.03 * entropy_bytes + HEADER.size


def test_pruned_weights_use_the_old_magnitude():
    old = np.frombuffer(BASE, np.int8).astype(int)
    new = np.where(np.abs(old) < 20, 0, old).astype(np.int8).tobytes()
    assert len(make_delta(BASE, new)) <= 0.1 * len(BASE)


def test_moved_and_widened_sections_are_found():
    assert len(make_delta(BASE, BASE[7000:] + BASE[:7000])) <= 200
    rows = [BASE[at : at + 200] for at in range(0, len(BASE), 200)]
    wide = b"".join(row + int8_image(at, 40) for at, row in enumerate(rows))
    section = {"kind": 3, "offset": 0, "rows": 100, "element": 0, "packing": 0}
    old_sections = [section | {"size": len(BASE), "row_length": 200}]
    patch = make_delta(BASE, wide, old_sections, [section | {"size": len(wide), "row_length": 240}])
    assert apply_delta(BASE, patch) == wide
    assert len(patch) <= 0.22 * len(wide)


def test_words_are_coded_as_words():
    words = np.random.default_rng(3).integers(-(2**30), 2**30, 1000).astype("<i4")
    moved = (words + np.random.default_rng(4).integers(-500, 500, 1000)).astype("<i4")
    section = [{"kind": 4, "offset": 0, "size": 4000, "element": 2, "rows": 1, "row_length": 1000}]
    patch = make_delta(words.tobytes(), moved.tobytes(), section, section)
    assert patch_info(patch, words.tobytes())["segments"]["RESIDUAL32"]["bytes"] == 4000
    assert len(patch) <= 0.36 * 4000


@pytest.mark.parametrize(("step", "share"), [(0.0, 0.14), (1.0, 0.45)])
def test_layers_that_were_only_requantised_cost_little(step, share):
    """Activation scales moved: every multiplier and bias differs, and all of it follows from a few numbers a layer."""
    (old, old_sections), (new, new_sections) = layered_image(1), layered_image(1, range_step=0.1, weight_step=step)
    patch = make_delta(old, new, old_sections, new_sections)
    assert apply_delta(old, patch) == new
    segments = patch_info(patch, old)["segments"]
    assert segments["GRID32"]["bytes"] == segments["ROWSUM32"]["bytes"] == 4 * (64 + 48)
    channels = 2 * 4 * (64 + 48)
    weights = 0 if not step else len(make_delta(old[1100:], new[1100:])) - HEADER.size
    assert len(patch) <= weights + share * channels + 120


def test_biases_on_a_grid_around_old_ones_cost_little_in_channels_with_other_scales():
    """The compiler moves a bias on a grid around the base's, whatever the channel's scale: no multiplier scales it."""
    old, sections = layered_image(1, rows=(64, 64))
    at = {one["kind"]: one["offset"] + one["size"] // 2 for one in sections if one["kind"] != 3}
    at[3] = sections[-2]["offset"]
    new, rng = bytearray(old), np.random.default_rng(3)
    weights = np.frombuffer(old, np.int8, 64 * LENGTH, at[3]).reshape(64, LENGTH)
    tuned = np.clip(weights + rng.integers(-2, 3, weights.shape), -127, 127).astype(np.int8)
    sums = tuned.sum(axis=1, dtype=np.int64) - weights.sum(axis=1, dtype=np.int64)
    biases = np.frombuffer(old, "<i4", 64, at[4]) + 128 * sums + 64 * rng.integers(-1, 2, 64)
    multipliers = np.frombuffer(old, "<i4", 64, at[1]) + (rng.integers(0, 2, 64) << 23)
    for kind, values in ((3, tuned), (4, biases.astype("<i4")), (1, multipliers.astype("<i4"))):
        new[at[kind] : at[kind] + values.nbytes] = values.tobytes()
    patch = make_delta(old, bytes(new), sections, sections)
    assert apply_delta(old, patch) == bytes(new)
    assert patch_info(patch, old)["segments"]["ROWSUM32"]["count"] == 1
    plain = bytes(new[: at[4]]) + old[at[4] :]
    assert len(patch) - len(make_delta(old, plain, sections, sections)) <= 32, "half a byte a bias"


def test_layers_of_other_shapes_pair_by_their_channels():
    (old, old_sections), (new, new_sections) = layered_image(1), layered_image(1, rows=(80, 48))
    patch = make_delta(old, new, old_sections, new_sections)
    assert apply_delta(old, patch) == new
    assert len(patch) <= 0.35 * len(new)


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_layers_with_any_words_and_broken_hints_round_trip(data):
    (old, old_sections), (new, new_sections) = (
        layered_image(2),
        layered_image(3, rows=(64, data.draw(st.integers(1, 60)))),
    )
    spoilt = bytearray(new)
    for at in data.draw(st.lists(st.integers(0, len(new) - 1), max_size=30)):
        spoilt[at] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    section = data.draw(st.sampled_from(new_sections))
    section |= data.draw(
        st.fixed_dictionaries({}, optional={"rows": st.integers(-1, 99), "offset": st.integers(0, 900)})
    )
    patch = make_delta(old, bytes(spoilt), old_sections, new_sections, spacing=data.draw(st.sampled_from([0, 256])))
    assert apply_delta(old, patch) == bytes(spoilt)


@given(st.integers(0, 2**32 - 1), st.integers(1, 31), st.integers(2**39, 2**40 - 1), st.integers(1, 31))
def test_scaled_numbers_keep_their_highest_bits(value, bits, factor, result_bits):
    exact = (value % (1 << bits) | 1 << bits - 1) * factor
    result = scaled_to(value % (1 << bits) | 1 << bits - 1, bits, factor, result_bits)
    shift = exact.bit_length() - result_bits
    assert abs(result * 2**shift - exact) <= 2**shift // 2 + 2**10 if shift > 0 else result == exact << -shift


def test_rows_sum_as_int8_and_keep_inside():
    assert row_sum(bytes([1, 255, 128, 127])) == 1 - 1 - 128 + 127
    assert Rows(0, 0, 100, 100, 10).fits(10, 140, 140)
    assert not Rows(0, 0, 101, 100, 10).fits(10, 140, 140)
    assert not Rows(-1, 0, 100, 100, 10).fits(10, 140, 140)
    assert not Rows(0, 41, 100, 100, 10).fits(10, 140, 140)
    assert Grid(31, 1 << 39).number(1 << 30) == 1 << 30


@pytest.mark.parametrize("word", [0, 1, -1, 2**31 - 1, -(2**31), 12345])
@pytest.mark.parametrize("ratio", [1, 2**30, 2**30 + 1, 2**32 - 1])
def test_scaled_words_round_half_away_from_zero(word, ratio):
    exact = abs(word) * ratio * 2
    expected = (exact // 2**30 + 1) // 2 * (1 if word >= 0 else -1)
    assert scaled_word(word & 0xFFFFFFFF, ratio) == expected & 0xFFFFFFFF


def test_transfer_takes_the_smaller():
    fine, unrelated = tuned(BASE, 2, 1.0), random.Random(1).randbytes(3000)
    assert choose_transfer(BASE).codec == Codec.RAW
    delta = choose_transfer(fine, BASE)
    assert (delta.codec, apply_delta(BASE, delta.data)) == (Codec.DELTA, fine)
    assert delta.choices == {"raw": len(fine), "delta": len(delta.data)}
    packed = choose_transfer(BASE, pack=True)
    assert (packed.codec, apply_delta(b"", packed.data)) == (Codec.DELTA, BASE)
    assert packed.choices == {"raw": len(BASE), "packed": len(packed.data)}
    raw = choose_transfer(unrelated, BASE, [], [])
    assert (raw.codec, raw.data) == (Codec.RAW, unrelated)
    assert raw.choices["delta"] >= raw.choices["raw"]


def test_an_image_larger_than_patches_take_travels_raw():
    large = bytes(IMAGE_BYTES_MAX + 1)
    assert choose_transfer(large, BASE, pack=True).codec == choose_transfer(BASE, large).codec == Codec.RAW


def test_a_segment_may_span_any_number_of_checkpoints():
    old = b"".join(BASE[at:] + BASE[:at] for at in range(15))
    plan = plan_segments(old, old, [Region(0, len(old), 0)], 256, Tactics())
    assert [segment.old_offset for segment in plan] == list(range(0, len(old), 256))


def test_what_moved_is_found_throughout_a_large_image(monkeypatch):
    monkeypatch.setattr("tinyfleet_ota.delta.pairing.SEEDS_MAX", len(BASE) // 4)
    new = BASE[:15_000] + b"new" + BASE[15_000:]
    patch = make_delta(BASE, new)
    assert apply_delta(BASE, patch) == new
    assert len(patch) < 50


def test_info_names_sizes_and_segments():
    patch = make_delta(BASE, BASE + b"tail", spacing=4096)
    info = patch_info(patch)
    assert (info["new_bytes"], info["patch_bytes"]) == (len(BASE) + 4, len(patch))
    assert (info["spacing"], info["version"]) == (4096, 5)
    assert sum(one["bytes"] for one in patch_info(patch, BASE)["segments"].values()) == len(BASE) + 4


def test_a_size_that_stays_is_not_told():
    """It is that of the base; another one is refused as another base's, with a base of that size too."""
    same, other = make_delta(BASE, tuned(BASE, 2, 1.0)), make_delta(BASE, BASE + b"tail")
    assert patch_info(same)["new_bytes"] is None
    assert patch_info(same, BASE)["new_bytes"] == len(BASE)
    assert patch_info(other)["new_bytes"] == len(BASE) + 4
    spoilt = other[: HEADER.size] + (len(BASE) - 1).to_bytes(SIZE_BYTES, "little") + other[HEADER.size + SIZE_BYTES :]
    for base, patch in ((BASE, spoilt), (BASE + b"tail", other), (b"", same), (BASE[:-1], same)):
        with pytest.raises(DeltaError, match="another base"):
            apply_delta(base, patch)
    for end in range(HEADER.size, HEADER.size + SIZE_BYTES):
        with pytest.raises(DeltaError, match="cut short"):
            apply_delta(BASE, other[:end])


def test_encoder_refuses_what_devices_refuse():
    with pytest.raises(DeltaError):
        make_delta(BASE, b"")
    for spacing in (-256, 100, 128, 768, 1 << 25):
        with pytest.raises(DeltaError, match="spacing"):
            make_delta(BASE, BASE, spacing=spacing)


def test_damaged_and_foreign_patches_are_refused():
    patch = make_delta(BASE, tuned(BASE, 2, 1.0), spacing=4096)
    for broken in (b"", patch[:6], patch[:-1], patch + b"x", b"X" + patch[1:], patch[:3] + b"X" + patch[4:]):
        with pytest.raises(DeltaError):
            apply_delta(BASE, broken)
    with pytest.raises(DeltaError, match="base"):
        apply_delta(BASE[:-1] + b"?", patch)
    with pytest.raises(DeltaError, match="version 6"):
        apply_delta(BASE, bytes([patch[0] + 1]) + patch[1:])


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 3000), st.sampled_from([0, 256, 1024]))
def test_random_bodies_end_in_an_error_or_in_the_declared_size(body, new_bytes, spacing):
    old = BASE[:2000]
    patch = Header(spacing, new_bytes).pack(old, len(body)) + body
    try:
        new = apply_delta(old, patch)
    except DeltaError:
        return
    assert len(new) == new_bytes


def test_what_stays_is_one_copy_across_sections_and_a_small_patch_has_no_checkpoints():
    sections = [
        {"kind": 9, "offset": at, "size": 1000, "element": 0, "rows": 1, "row_length": 1000}
        for at in range(0, len(BASE), 1000)
    ]
    new = BASE[:9000] + bytes(value ^ 1 for value in BASE[9000:10_000]) + BASE[10_000:]
    patch = make_delta(BASE, new, sections, sections)
    assert apply_delta(BASE, patch) == new
    info = patch_info(patch, BASE)
    assert info["segments"]["COPY"] == {"count": 2, "bytes": len(BASE) - 1000}
    assert info["spacing"] == 0
    assert patch_info(make_delta(BASE, new, spacing=1024))["spacing"] == 1024, "what is asked for is kept"


def test_the_smallest_plan_is_taken():
    (old, old_sections), (new, new_sections) = layered_image(1), layered_image(1, range_step=0.1, weight_step=1.0)
    regions = pair_images(old, new, old_sections, new_sections)
    plans = [
        plan_segments(old, new, regions, 0, Tactics(fresh=fresh, channels=channels))
        for fresh in (True, False)
        for channels in (True, False)
    ]
    sizes = [len(codec._encode(old, new, plan, 0)) for plan in plans]
    assert len(make_delta(old, new, old_sections, new_sections, spacing=0)) <= min(sizes) < max(sizes)
