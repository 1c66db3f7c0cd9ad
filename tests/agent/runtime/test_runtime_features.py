"""FEATURES in C: the simulator's bytes for random front ends and signals; hostile records are refused."""

import shutil
from functools import cache

import numpy as np
import pytest

from agent.runtime.rig import Model
from tinyfleet_compiler import layout
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.operators import OPERATORS, OpCode
from tinyfleet_compiler.quantize.parameters import Quantization, from_range
from tinyfleet_compiler.simulate import simulate
from tinyfleet_service.cli.engines import cortex_m, run_image
from unit.compiler.front_ends import features_image, full_scale, random_front_end, signals

RECORD = layout.RECORDS[OPERATORS[OpCode.FEATURES].record]
MISSING = [tool for tool in cortex_m.TOOLS if shutil.which(tool) is None]


@cache
def image_and_signals(seed: int) -> tuple[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    front, samples = random_front_end(rng)
    codes = signals(rng, samples, wide=front.wide)
    real = front.features(codes * full_scale(front))
    result = from_range(float(np.quantile(real, 0.05)), float(np.quantile(real, 0.95)))
    return features_image(front, samples, result), codes


def run(model: Model, codes: np.ndarray) -> np.ndarray:
    return model.run(codes.view(np.int8))


@pytest.mark.parametrize("seed", range(16))
def test_bytes_are_the_simulators(seed: int) -> None:
    image, codes = image_and_signals(seed)
    model = Model(image)
    assert model.status == "OK"
    wanted = simulate(read_image(image), codes)["y"].reshape(len(codes), -1)
    for x, y in zip(codes, wanted, strict=True):
        np.testing.assert_array_equal(run(model, x), y)


def bent(image: bytes, name: str, value: int) -> bytes:
    """The image with another number in a field of its only record; checks of structure ignore the CRC."""
    data = bytearray(image)
    at = layout.HEADER.unpack(image)["ops_offset"]
    data[at : at + RECORD.size] = RECORD.pack(RECORD.unpack(image, at) | {name: value})
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("fft_log2", v) for v in (0, 3, 13, 255)),
        *(("frame", v) for v in (0, 5000)),
        *(("samples", v) for v in (0, 2**31, 10**6)),
        *(("frames", v) for v in (0, 65_535)),
        *(("mels", v) for v in (0, 257, 1)),
        *(("mel_weights", v) for v in (0, 65_535)),
        *(("input_bits", v) for v in (0, 30, -1)),
        *(("most_shift", v) for v in (-61, 32, 127)),
        *(("floor_exponent", v) for v in (2**31 - 1, -(2**31), 64)),
        *(("table", v) for v in (4, 2**31, 2**32 - 16)),
        *(("scratch", v) for v in (0, 2, 2**32 - 1)),
        *(("input_element", v) for v in (0, 3, 255)),
        ("output_element", 1),
        ("form", 8),
        ("coefficients", 0),
        ("hop", 0),
        ("pad", 2**32 - 1),
        ("energy_shift", 63),
        ("floor_mantissa", 2**31),
        ("scratch_bytes", 64),
        ("input", 1),
        ("reserved", 1),
    ],
)
def test_hostile_records_are_refused_alike(name: str, value: int) -> None:
    image, _ = image_and_signals(1)
    changed = bent(image, name, value)
    assert Model(changed).status in ("LAYOUT", "ARENA")
    with pytest.raises(Exception, match="not a readable image"):
        read_image(changed, check_crc=False)


@pytest.mark.parametrize("seed", range(16))
def test_what_opens_runs_safely_whatever_its_tables_hold(seed: int) -> None:
    image, codes = image_and_signals(seed)
    rng = np.random.default_rng(seed)
    data = bytearray(image)
    for at in rng.integers(layout.HEADER.unpack(image)["ops_offset"] + 28, len(image), 6):
        data[at] = rng.integers(0, 256)
    model = Model(bytes(data))
    if model.status == "OK":
        run(model, codes[int(rng.integers(0, len(codes)))])


def test_silence_is_the_floor() -> None:
    rng = np.random.default_rng(5)
    front, samples = random_front_end(rng)
    silence = np.zeros((1, samples), np.int32 if front.wide else np.int16)
    real = front.features(silence.astype(float))
    image = features_image(front, samples, Quantization(float(np.abs(real).max()) / 100, 0))
    got = run(Model(image), silence[0]) * (np.abs(real).max() / 100)
    np.testing.assert_allclose(got, real.reshape(-1), atol=float(np.abs(real).max()) / 100)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
def test_an_emulated_core_gives_the_same_bytes() -> None:
    image, codes = image_and_signals(2)
    result = run_image(image, codes[:3], "cortex-m4")
    np.testing.assert_array_equal(result.outputs["y"], simulate(read_image(image), codes[:3])["y"])
