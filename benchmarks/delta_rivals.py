"""Patches of other tools for one pair of images, as JSON: {tool: {"bytes": n, "small": applies in about 5 KB of RAM}}.

Run by bench_delta.py in an environment of its own (requirements/bench.txt): `delta_rivals.py OLD NEW`. xdelta3 and zstd
are programs; what is not installed is left out and named on stderr.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bsdiff4
import detools
import hdiffpatch

Tool = tuple[str, bool, Callable[[bytes, bytes], int]]
IN_PLACE = {"patch_type": "in-place", "memory_size": 1 << 18, "segment_size": 4096}


def detools_bytes(old: bytes, new: bytes, **options: object) -> int:
    patch = io.BytesIO()
    detools.create_patch(io.BytesIO(old), io.BytesIO(new), patch, use_mmap=False, **options)
    return len(patch.getvalue())


def detools_modes() -> Iterator[Tool]:
    small = {"crle": {}, "none": {}}
    for window, ahead in ((8, 7), (11, 4)):
        sizes = {"heatshrink_window_sz2": window, "heatshrink_lookahead_sz2": ahead}
        small[f"heatshrink {window},{ahead}"] = {"compression": "heatshrink", **sizes}
    small |= {"lzma": {"compression": "lzma"}}
    for name, options in small.items():
        given = {"compression": name, **options}
        for kind, more in (("", {}), ("in-place ", IN_PLACE), ("hdiffpatch ", {"patch_type": "hdiffpatch"})):
            # LZMA needs a dictionary, the hdiffpatch type the whole old image at hand: neither fits 5 KB for certain.
            fits = name != "lzma" and "hdiff" not in kind
            algorithm = {"algorithm": "hdiffpatch"} if "hdiff" in kind else {}
            if kind and name in ("crle", "none") and "hdiff" in kind:
                continue
            yield (
                f"detools {kind}{name}",
                fits,
                lambda old, new, all_=given | more | algorithm: detools_bytes(old, new, **all_),
            )


def hdiffpatch_modes() -> Iterator[Tool]:
    kinds = hdiffpatch
    for name in ("NONE", "LZMA", "ZSTD"):
        kind = getattr(kinds, f"COMPRESSION_{name}")
        yield f"hdiffpatch {name.lower()}", False, lambda old, new, k=kind: len(kinds.diff(old, new, compression=k))
    yield "hpatchlite none", True, lambda old, new: len(kinds.diff_lite(old, new))
    for size in (1024, 4096):
        for line in (False, True):
            config = kinds.TuzConfig(dict_size=size, literal_line=line)
            name = f"hpatchlite tinyuz {size}{' literal-line' if line else ''}"
            yield name, True, lambda old, new, c=config: len(kinds.diff_lite(old, new, compression=c))
    for window in (8, 10, 11):
        tamp = kinds.TampConfig(window=window)
        yield f"hpatchlite tamp {window}", True, lambda old, new, c=tamp: len(kinds.diff_lite(old, new, compression=c))


def program_bytes(command: list[str], old: bytes, new: bytes) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").write_bytes(old)
        (folder / "new").write_bytes(new)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return (folder / "patch").stat().st_size


def programs() -> Iterator[Tool]:
    commands = {
        f"xdelta3 -9 -S {second}": ["xdelta3", "-e", "-9", "-S", second, "-A", "-n", "-s", "old", "new", "patch"]
        for second in ("none", "djw", "lzma")
    }
    commands["zstd --patch-from -19"] = ["zstd", "-19", "--patch-from=old", "new", "-o", "patch"]
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            print(f"{command[0]} is not installed: left out", file=sys.stderr)
            continue
        yield name, False, lambda old, new, c=command: program_bytes(c, old, new)


def tools() -> Iterator[Tool]:
    yield "bsdiff4", False, lambda old, new: len(bsdiff4.diff(old, new))
    yield from detools_modes()
    yield from hdiffpatch_modes()
    yield from programs()


def main() -> int:
    old, new = (Path(name).read_bytes() for name in sys.argv[1:3])
    result = {name: {"bytes": measure(old, new), "small": small} for name, small, measure in tools()}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
