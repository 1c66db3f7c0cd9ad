"""A short libFuzzer run of the patch decoder; give it hours by hand with the same target."""

import random
import shutil
from pathlib import Path

import pytest

from agent import cbuild
from tinyfleet_ota.delta import make_delta
from tinyfleet_ota.delta.header import HEADER

OLD = bytes((offset * 2654435761 >> 24) & 0xFF for offset in range(3000))


def seed(spacing: int, new: bytes) -> bytes:
    """Input of the target that decodes without error."""
    patch = make_delta(OLD, new, spacing=spacing)
    return bytes([patch[1], 4, 99]) + (len(new) - 1).to_bytes(2, "little") + patch[HEADER.size :]


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
def test_fuzz_delta(tmp_path):
    source = Path(__file__).with_name("fuzz_delta.c")
    target = cbuild.executable(
        "fuzz_delta",
        [source, cbuild.DEVICE_AGENT / "src/delta.c", cbuild.DEVICE_AGENT / "runtime/crc32.c"],
        compiler="clang",
        sanitize="fuzzer,address,undefined",
    )
    rng = random.Random(7)
    tuned = bytes((byte + rng.choice([0, 0, 0, 1, 255])) & 0xFF for byte in OLD)
    for number, one in enumerate(
        [seed(0, tuned), seed(512, tuned), seed(256, OLD[1000:] + OLD[:900]), seed(0, b"x" * 700)]
    ):
        (tmp_path / f"seed{number}").write_bytes(one)
    cbuild.fuzz(target, tmp_path, runs=15_000, max_len=4000)
