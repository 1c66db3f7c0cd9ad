"""A byte too far of what a test hands to C ends the process with a report, however small it is."""

import os
import subprocess
import sys

import pytest

from agent import cbuild

PROGRAM = """
from agent.runtime import rig
ffi, lib = rig.load()
for size in (4, 5):
    lib.fleet_crc32(0, {memory}, size)
    print("took", size, flush=True)
"""
FOUR_BYTES = {"bytes": "b'abcd'", "array": "ffi.new('uint8_t[]', b'abcd')", "structure": "ffi.new('uint32_t *')"}


@pytest.mark.skipif(not cbuild.asan_is_loaded(), reason="runs with AddressSanitizer: only tests/agent is asked for")
@pytest.mark.parametrize("memory", FOUR_BYTES.values(), ids=FOUR_BYTES)
def test_a_byte_too_far_is_seen(memory: str) -> None:
    paths = os.pathsep.join(str(cbuild.ROOT / name) for name in ("tests", "compiler", "ota", "service"))
    options = {"LD_PRELOAD": str(cbuild.asan_runtime()), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": paths}
    command = [sys.executable, "-c", PROGRAM.format(memory=memory)]
    done = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=False)
    assert done.stdout == "took 4\n"
    assert "heap-buffer-overflow" in done.stderr
