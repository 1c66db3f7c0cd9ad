"""A million hostile patches at the decoder, under sanitizers. `make bench-delta-fuzz`; RUNS=n for another number."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = os.environ.get("RUNS", "1000000")


def main() -> int:
    if shutil.which("clang") is None:
        print("clang is not there: apt-get install clang", file=sys.stderr)
        return 1
    target = ROOT / "build" / "fuzz_delta"
    target.parent.mkdir(exist_ok=True)
    sources = [
        ROOT / "tests" / "agent" / "delta" / "fuzz_delta.c",
        *(ROOT / "device_agent" / name for name in ("src/delta.c", "runtime/crc32.c")),
    ]
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    include = f"-I{ROOT / 'device_agent' / 'include'}"
    subprocess.run(["clang", *flags, include, *map(str, sources), "-o", str(target)], check=True)
    with tempfile.TemporaryDirectory() as corpus:
        command = [str(target), f"-runs={RUNS}", "-max_len=4000", "-timeout=20", "-print_final_stats=1", corpus]
        return subprocess.run(command, cwd=corpus, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
