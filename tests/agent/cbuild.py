"""Builds C for tests: shared libraries for cffi and executables, sanitizers on, cached by content.

    lib = cbuild.shared_library("journal", [cbuild.DEVICE_AGENT / "src" / "journal.c"])
    ffi.dlopen(str(lib))
    exe = cbuild.executable("fuzz", [...], compiler="clang", sanitize="fuzzer,address,undefined")

A library carries UBSan always, and ASan where its runtime is in this process, which tests/agent/conftest.py sees
to. A finding ends the process with a report.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEVICE_AGENT = ROOT / "device_agent"
INCLUDE = DEVICE_AGENT / "include"
RUNTIME = DEVICE_AGENT / "runtime"

# The same list is in device_agent/CMakeLists.txt.
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    *("-Wstrict-prototypes", "-Wmissing-prototypes", "-Wcast-qual", "-Wundef"),
)
SANITIZER_VARIABLES = ("LD_PRELOAD", "ASAN_OPTIONS")
KEPT_S = 30 * 86400  # after the last use
COMMON = ("-std=c99", "-g1", "-O1", "-ffp-contract=off", "-fno-omit-frame-pointer")


def shared_library(
    name: str,
    sources: Iterable[Path],
    *,
    include: Iterable[Path] = (),
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
    compiler: str = "gcc",
) -> Path:
    """Path of a shared library made of `sources`."""
    sanitize = "address,undefined" if asan_is_loaded() and compiler == "gcc" else "undefined"
    return _build(f"{name}.so", compiler, sources, include, ("-fPIC", *flags), ("-shared", *libraries), sanitize)


def plain_library(
    name: str,
    sources: Iterable[Path],
    *,
    include: Iterable[Path] = (),
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """As shared_library, without sanitizers: for benchmarks."""
    return _build(f"{name}.so", "gcc", sources, include, ("-fPIC", *flags), ("-shared", *libraries), "")


def executable(
    name: str,
    sources: Iterable[Path],
    *,
    include: Iterable[Path] = (),
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
    compiler: str = "gcc",
    sanitize: str = "address,undefined",
) -> Path:
    """Path of an executable made of `sources`; position-independent, as libraries are, to share their objects."""
    return _build(name, compiler, sources, include, ("-fPIC", *flags), libraries, sanitize)


def fuzz(target: Path, corpus: Path, *, runs: int, max_len: int) -> None:
    """Run a libFuzzer `target` from the seeds in `corpus`; a finding or an early end is an AssertionError.

    The limit on the resident size is off: Linux hands the peak of the process that started the target on to it,
    and a test process has gigabytes behind it. What the target itself takes is bounded at each allocation.
    """
    options = [f"-runs={runs}", f"-max_len={max_len}", "-seed=1", "-timeout=20"]
    command = [str(target), *options, "-rss_limit_mb=0", "-malloc_limit_mb=256", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_env(), cwd=corpus)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {runs} runs" in done.stderr


def runtime_sources() -> list[Path]:
    """Every C file of the model runtime."""
    return sorted([*RUNTIME.glob("*.c"), *(RUNTIME / "float").glob("*.c")])


def machine() -> str:
    """This processor's name, `x86_64` or another."""
    return platform.machine()


def cdef(*headers: Path) -> str:
    """Declarations of our headers in the form cffi reads: preprocessed, standard headers and bodies left out."""
    text = "".join(f'#include "{header}"\n' for header in headers)
    command = ["gcc", "-std=c99", "-E", "-DFLEET_CDEF", f"-I{INCLUDE}", "-x", "c", "-"]
    expanded = subprocess.run(command, input=text, capture_output=True, text=True, check=True, env=clean_env()).stdout
    return _our_declarations(expanded)


def clean_env() -> dict[str, str]:
    """The environment without the preloaded sanitizer: for compilers and servers."""
    return {key: value for key, value in os.environ.items() if key not in SANITIZER_VARIABLES}


@cache
def asan_is_loaded() -> bool:
    """True where the ASan runtime came into this process before everything else."""
    return "libasan" in Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else False


@cache
def asan_runtime() -> Path | None:
    """gcc's shared ASan runtime, to be preloaded; None where there is none."""
    if shutil.which("gcc") is None:
        return None
    answer = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    path = Path(answer.strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


def _build(
    name: str,
    compiler: str,
    sources: Iterable[Path],
    include: Iterable[Path],
    flags: tuple[str, ...],
    link: Sequence[str],
    sanitize: str,
) -> Path:
    files = [str(path) for path in sources]
    options = [*COMMON, *WARNINGS, f"-I{INCLUDE}", *(f"-I{path}" for path in include), *flags]
    if sanitize:
        options += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    target = _cache_folder() / f"{_key([compiler, *options, *files, *link], files)}-{name}"
    with _alone(target):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                built = Path(folder) / name
                objects = _objects([compiler, *options], files)
                _run([compiler, *options, *objects, "-o", str(built), *link])
                built.replace(target)
        target.touch()
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Test processes that want the same target wait for the first of them."""
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _objects(compile_one: list[str], files: list[str]) -> list[str]:
    """One object per file, on all processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(partial(_object, compile_one), files))


def _object(compile_one: list[str], file: str) -> str:
    """The file compiled, or what was compiled from the same text: knobs of one file leave the others' objects alone.

    Definitions and folders are in that text, so only the other options count beside it.
    """
    text = _run([*compile_one, "-E", file])
    options = [option for option in compile_one if not option.startswith(("-D", "-I"))]
    target = _cache_folder() / f"{hashlib.sha256(chr(0).join([*options, text]).encode()).hexdigest()[:32]}.o"
    with _alone(target):
        if not target.exists():
            half = target.with_suffix(".half")
            _run([*compile_one, "-c", file, "-o", str(half)])
            half.replace(target)
        target.touch()
    return str(target)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def _key(command: list[str], files: list[str]) -> str:
    """Changes with the command, the sources and every header they may include."""
    digest = hashlib.sha256("\0".join(command).encode())
    folders = {Path(file).parent for file in files} | {INCLUDE}
    headers = [header for folder in sorted(folders) for header in sorted(folder.glob("*.h"))]
    for path in [*map(Path, files), *headers]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path:
    base = os.environ.get("TINYFLEET_CACHE")
    return _tidied((Path(base) if base else Path.home() / ".cache" / "tinyfleet") / "tests")


@cache
def _tidied(folder: Path) -> Path:
    """Once a process, what nobody used for long goes: every change of a header leaves what was built before it."""
    folder.mkdir(parents=True, exist_ok=True)
    long_ago = time.time() - KEPT_S
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process tidies too
            if path.stat().st_mtime < long_ago:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def _our_declarations(expanded: str) -> str:
    """Keep the lines that come from device_agent, drop static inline functions and compile-time checks."""
    lines, ours = [], False
    for line in expanded.splitlines():
        if line.startswith("# "):
            ours = str(DEVICE_AGENT) in line
        elif ours and not line.startswith("#") and "[(" not in line:
            lines.append(line)
    return "\n".join(lines)
