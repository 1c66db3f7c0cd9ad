"""Code, constants and stack of single kernels: their objects, and what the linker would keep of them for one entry.

Every file is compiled alone with the bench firmware's options; `ld -r --gc-sections` with one undefined symbol keeps
the functions and tables it reaches. libgcc, libm and libc are not in it. Stack is the deepest chain of frames of
GCC's call graph (`-fcallgraph-info`), up to calls through pointers; of functions in assembly, what they push.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

RUNTIME = Path(__file__).resolve().parents[1] / "device_agent" / "runtime"
CORES = {
    "cortex-m0plus": ("-mcpu=cortex-m0plus", "-mfloat-abi=soft"),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m55": ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
}
FLAGS = ("-std=c99", "-mthumb", "-ffunction-sections", "-fdata-sections", "-ffp-contract=off", "-fcallgraph-info=su")
_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*?(\d+) bytes')
_FUNCTION = re.compile(r"^[0-9a-f]+ <(\w+)>:\n((?:.*\n){3})", re.MULTILINE)
_PUSHED = re.compile(r"\t(push|stmdb|vpush|vstmdb|sub)\t(?:sp!?, )?(?:\{(.*)\}|#(\d+))")
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')


class Objects:
    """The compiled files of some sets of kernels for one core."""

    def __init__(self, folder: Path, core: str, optimise: str = "-O2", includes: Sequence[Path] = ()) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        paths = (RUNTIME.parent / "include", RUNTIME, *includes)
        self._command = ["arm-none-eabi-gcc", optimise, *FLAGS, *CORES[core], *(f"-I{path}" for path in paths), "-w"]

    def add(self, sources: Sequence[Path], *flags: str) -> None:
        """Compile more files."""

        def compile_one(source: Path) -> None:
            target = self.folder / f"{source.parent.name}-{source.stem}.o"
            _call(*self._command, *flags, "-c", source, "-o", target)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(compile_one, sources))

    def flash_bytes(self, entry: str, without: Sequence[str] = ()) -> int:
        """Code and constants that `entry` reaches, besides what the functions `without` reach."""
        place = self.folder / "linked"
        wraps = [f"--wrap={name}" for name in without]
        objects = sorted(self.folder.glob("*.o"))
        _call("arm-none-eabi-ld", "-r", "--gc-sections", "-u", entry, *wraps, *objects, "-o", place)
        text, data = _call("arm-none-eabi-size", place).splitlines()[1].split()[:2]
        return int(text) + int(data)

    def stack_bytes(self, entry: str) -> int:
        """Frames of the deepest chain of calls from `entry`."""
        frames, calls = self._call_graph

        def depth(name: str, above: frozenset[str]) -> int:
            below = (depth(callee, above | {name}) for callee in calls[name] if callee not in above)
            return frames.get(name, 0) + max(below, default=0)

        return depth(entry, frozenset({entry}))

    @cached_property
    def _call_graph(self) -> tuple[dict[str, int], dict[str, set[str]]]:
        frames: dict[str, int] = {}
        calls: dict[str, set[str]] = defaultdict(set)
        for path in self.folder.glob("*.ci"):
            text = path.read_text()
            found = {name: int(size) for name, size in _NODE.findall(text)}
            pushed = _pushed_bytes(path.with_suffix(".o")) if 0 in found.values() else {}
            frames |= {name: size or pushed.get(name.split(":")[-1], 0) for name, size in found.items()}
            for caller, callee in _EDGE.findall(text):
                calls[caller].add(callee)
        return frames, calls


def _pushed_bytes(file: Path) -> dict[str, int]:
    """What the first instructions of every function push."""
    listing = _call("arm-none-eabi-objdump", "-d", "--no-show-raw-insn", file)
    return {name: sum(map(_bytes_of, _PUSHED.findall(lines))) for name, lines in _FUNCTION.findall(listing)}


def _bytes_of(pushed: tuple[str, str, str]) -> int:
    operation, registers, bytes = pushed
    names = [name.strip() for name in registers.split(",") if name]
    count = 0
    for name in names:
        first, _, last = name.partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return int(bytes or 0) + count * (8 if operation.startswith("v") else 4)


def _call(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
