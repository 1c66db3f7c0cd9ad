"""Device classes: what the compiler must know of a part, one TOML file each. Keys: README.md, "Add a device class"."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tinyfleet_compiler.errors import DeviceClassError, Problem

BUILT_IN_FOLDER = Path(__file__).parent / "device_classes"
FEATURES = frozenset({"dsp", "fpu", "mve", "simd"})
KERNELS = ("portable", "dsp", "mve", "cmsis-nn")
_KERNELS_NEED = {"dsp": "dsp", "mve": "mve", "cmsis-nn": "dsp"}
"""The feature that the instructions of a kernel set are."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class DeviceClass:
    """One class of parts. Sizes in bytes, energy in picojoules per instruction."""

    name: str
    """1 to 31 of a-z, 0-9 and '-'; devices enrol under it."""
    description: str
    cpu: str
    features: tuple[str, ...]
    """What the CPU has, of FEATURES."""
    clock_hz: int
    flash_slot_bytes: int
    """Room for one image, whole erase blocks."""
    arena_bytes: int
    """RAM an application gives to inference."""
    erase_bytes: int
    program_bytes: int
    abi: int
    """Runtime ABI the firmware of this class speaks."""
    kernels: str
    """Kernel set the firmware is built with, of KERNELS: decides packing and scratch."""
    energy_pj_per_instruction: float
    instructions_per_mac: float
    cycles_per_instruction: float

    @classmethod
    def from_toml(cls, text: str) -> "DeviceClass":
        """Parse one TOML document. Raises `DeviceClassError` naming every wrong key at once."""
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers, brackets without end
            raise DeviceClassError(f"the device class is not TOML: {error}; compare with a shipped class") from error
        problems = list(_problems(data))
        if problems:
            raise DeviceClassError("the device class has wrong keys", problems)
        return cls(**{f.name: _convert(f.name, data[f.name]) for f in fields(cls)})


def load_device_class(name_or_path: str | Path) -> DeviceClass:
    """A shipped class by name, or a TOML file by path. Raises `DeviceClassError`."""
    path = Path(name_or_path)
    built_in = BUILT_IN_FOLDER / f"{name_or_path}.toml"
    if _NAME.fullmatch(str(name_or_path)) and built_in.is_file():
        path = built_in
    try:
        return DeviceClass.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(device_class_names())
        raise DeviceClassError(f"no device class '{name_or_path}'; use one of {known}, or a TOML file") from error


def device_class_text(name: str) -> str:
    """The TOML of a shipped class, to start one's own from. Raises `DeviceClassError`."""
    if name not in device_class_names():
        raise DeviceClassError(f"no device class '{name}' is shipped; use one of {', '.join(device_class_names())}")
    return (BUILT_IN_FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def device_class_names() -> tuple[str, ...]:
    """Names of the shipped classes."""
    return tuple(sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.toml")))


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "description": (str,),
    "cpu": (str,),
    "features": (list,),
    "kernels": (str,),
    "energy_pj_per_instruction": (int, float),
    "instructions_per_mac": (int, float),
    "cycles_per_instruction": (int, float),
}
_LIMITS: dict[str, tuple[int, int]] = {
    "clock_hz": (1_000, 10_000_000_000),
    "flash_slot_bytes": (1_024, 1 << 30),
    "arena_bytes": (64, 1 << 30),
    "erase_bytes": (1, 1 << 24),
    "program_bytes": (1, 256),
    "abi": (1, 65_535),
}


_Rule = tuple[tuple[str, ...], Callable[[dict[str, Any]], bool], str, str]
_RULES: tuple[_Rule, ...] = (
    (
        ("flash_slot_bytes", "erase_bytes"),
        lambda d: d["flash_slot_bytes"] % d["erase_bytes"] == 0,
        "is {flash_slot_bytes}, no whole number of erase blocks of {erase_bytes}",
        "a slot starts and ends at an erase block; round it",
    ),
    (
        ("program_bytes", "erase_bytes"),
        lambda d: d["erase_bytes"] % d["program_bytes"] == 0,
        "is {program_bytes}, an erase block of {erase_bytes} holds no whole number of them",
        "take both from the part's flash manual",
    ),
    (
        ("kernels", "features"),
        lambda d: d["kernels"] == "portable" or _KERNELS_NEED[d["kernels"]] in d["features"],
        "is {kernels}, features {features} lack it",
        "add it to features, or use portable kernels",
    ),
)
"""(keys, what must hold between them, reason, help); the first key is blamed, wrong keys are not judged twice."""


def _problems(data: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    names = [f.name for f in fields(DeviceClass)]
    for key in names:
        if key not in data:
            found.append(Problem(key, "device class", "is missing", "add the key"))
        elif reason := _wrong(key, data[key]):
            found.append(Problem(key, "device class", reason, "correct the value"))
    for key in sorted(data.keys() - set(names)):
        found.append(Problem(key, "device class", "is unknown", f"use only {', '.join(names)}"))
    wrong = {problem.node for problem in found}
    for keys, holds, reason, help in _RULES:
        if not wrong & set(keys) and not holds(data):
            found.append(Problem(keys[0], "device class", reason.format(**data), help))
    return found


def _wrong(key: str, value: Any) -> str:
    kinds = _KINDS.get(key, (int,))
    if isinstance(value, bool) or type(value) not in kinds:
        return f"is {type(value).__name__}, expected {kinds[-1].__name__}"
    if kinds == (str,) and not value.strip():
        return "is empty"
    if key == "name" and not _NAME.fullmatch(value):
        return "must be 1 to 31 of a-z, 0-9 and '-'"
    if key == "kernels" and value not in KERNELS:
        return f"must be one of {', '.join(KERNELS)}"
    if key == "features" and (not {str(item) for item in value} <= FEATURES or len(set(map(str, value))) < len(value)):
        return f"may list only {', '.join(sorted(FEATURES))}, each once"
    if key in _LIMITS and not _LIMITS[key][0] <= value <= _LIMITS[key][1]:
        return f"is {value}, allowed are {_LIMITS[key][0]} to {_LIMITS[key][1]}"
    if float in kinds and not 0 < value < 1e9:
        return f"is {value}, expected a positive number"
    return ""


def _convert(key: str, value: Any) -> Any:
    if key == "features":
        return tuple(str(item) for item in value)
    return float(value) if float in _KINDS.get(key, ()) else value
