"""Builds the C programs of `device_agent/` on first use, into a cache whose key is their source."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tinyfleet_service.errors import StartError, UnavailableError

HOST_TOOLS = {"cmake": "cmake", "make": "make", "cc": "gcc libc6-dev"}
"""Program -> Debian packages that bring it."""
_PARTS = ("CMakeLists.txt", "include", "runtime", "src", "examples/runner", "ports/qemu")


def source_folder() -> Path:
    """`device_agent/`: beside this module in a wheel, at the root of the repository otherwise."""
    carried = Path(__file__).parent / "device_agent"
    if carried.is_dir():
        return carried
    found = Path(__file__).resolve().parents[4] / "device_agent"
    if not found.is_dir():
        raise StartError("the C sources (device_agent) are missing", next="install tinyfleet again")
    return found


def cache_folder() -> Path:
    """`TINYFLEET_CACHE`, or `~/.cache/tinyfleet`."""
    chosen = os.environ.get("TINYFLEET_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "tinyfleet"


def require_tools(tools: dict[str, str], purpose: str) -> None:
    """Raise UnavailableError naming the Debian packages of every missing program."""
    missing = [program for program in tools if shutil.which(program) is None]
    if missing:
        packages = " ".join(tools[program] for program in missing)
        raise UnavailableError(
            f"{purpose} needs {', '.join(missing)}", next=f"apt-get install {packages}", missing=missing
        )


def build(
    target: str, file_name: str, folder: str = ".", options: Sequence[str] = (), choices: Sequence[str] = ()
) -> Path:
    """Path of `file_name`, made by CMake target `target` of `device_agent/<folder>`; built when not in the cache.

    `options` and `choices` are arguments of CMake. Builds of the same folder and options keep their objects in one
    place, so that another target, or another choice of what is linked, compiles only what is not there yet. Raises
    StartError with the compiler's words when the build fails.
    """
    place = _place(f"{target}-{_digest(*options, *choices)}") / file_name
    objects = objects_folder(folder, options)
    with _alone(objects):
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            _compile(objects, folder, [*options, *choices], target)
            with tempfile.TemporaryDirectory(dir=place.parent) as copied:
                shutil.copy2(next(objects.rglob(file_name)), copied)
                (Path(copied) / file_name).replace(place)  # whoever finds it finds it whole
    return place


def objects_folder(folder: str, options: Sequence[str]) -> Path:
    """Where builds of `device_agent/<folder>` with these options keep what they compiled."""
    return _place(f"objects-{_digest(folder, *options)}")


def _compile(objects: Path, folder: str, options: Sequence[str], target: str) -> None:
    """CMake's two steps in `objects`; begin again after a build that was killed or another checkout's."""
    source = source_folder() / folder
    finished = objects / "finished"
    if objects.exists() and not (finished.exists() and finished.read_text() == str(source)):
        shutil.rmtree(objects)
    objects.mkdir(parents=True, exist_ok=True)
    finished.unlink(missing_ok=True)
    quiet = "-DCMAKE_RULE_MESSAGES=OFF"  # each would be a process of its own
    _call(["cmake", "-S", str(source), "-B", str(objects), quiet, *options])
    _call(["cmake", "--build", str(objects), "--target", target, "--parallel", str(os.cpu_count() or 1)])
    finished.write_text(str(source))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Processes that build in the same folder wait for each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _place(name: str) -> Path:
    return cache_folder() / "programs" / f"{_source_key(source_folder())}-{name}"


def _digest(*words: str) -> str:
    return hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:8]


@cache
def status_text(status: int) -> str:
    """What a status number of the C code means."""
    header = (source_folder() / "include" / "fleet_status.h").read_text(encoding="utf-8")
    found = re.search(rf'X\(\w+, {status},\s*"([^"]*)"', header)
    return found[1] if found else f"status {status}"


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise StartError(f"building a C program failed:\n{last}", next="check the compiler, then run it again")


def _source_key(source: Path) -> str:
    digest = hashlib.sha256()
    for path in _files(source):
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _files(source: Path) -> Iterator[Path]:
    for part in _PARTS:
        root = source / part
        yield from [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
