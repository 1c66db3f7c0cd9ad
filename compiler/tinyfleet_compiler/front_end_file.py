"""The declarative front-end file: one TOML document that says which features a model was trained on."""

import math
import tomllib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyfleet_compiler.errors import ModelError, Problem
from tinyfleet_compiler.front_end import MOST_FFT, MOST_MELS, FrontEnd, count_frames
from tinyfleet_compiler.mel import SCALES, WINDOWS, dct_matrix, make_window, mel_filters

_LOGARITHMS = {"natural": 1.0, "log10": 1.0 / math.log(10.0), "db": 10.0 / math.log(10.0)}
_MOST_SAMPLES = 1 << 20
_INTEGERS = {
    "samples": (16, _MOST_SAMPLES),
    "frame": (2, MOST_FFT),
    "hop": (1, 65_535),
    "fft": (16, MOST_FFT),
    "mels": (1, MOST_MELS),
    "coefficients": (1, MOST_MELS),
}
_MOST = 1e30
_REALS = {"rate_hz": (1.0, 1e7), "low_hz": (0.0, 1e7), "high_hz": (0.0, 1e7), "floor": (1e-30, _MOST)}
_WORDS = {
    "sample_type": ("int16", "int32"),
    "window": WINDOWS,
    "spectrum": ("power", "magnitude"),
    "mel_scale": SCALES,
    "mel_norm": ("none", "slaney"),
    "floor_rule": ("add", "max"),
    "logarithm": tuple(_LOGARITHMS),
}
_DEFAULTS: dict[str, Any] = {
    "sample_type": "int16",
    "window": "hann",
    "spectrum": "power",
    "mel_scale": "htk",
    "mel_norm": "none",
    "low_hz": 0.0,
    "floor": 1e-6,
    "floor_rule": "add",
    "logarithm": "natural",
}
_OPTIONAL = ("coefficients", "mean", "std", "high_hz", "fft", *_DEFAULTS)
_KEYS = (*_INTEGERS, *_REALS, *_WORDS, "mean", "std")


def read_front_end(text: str) -> tuple[FrontEnd, int]:
    """The front end of a TOML document and the samples of one inference. Raises `ModelError` naming every wrong key."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: numbers without end, brackets without end
        raise ModelError(f"the front-end file is not TOML: {error}; compare with compiler/README.md") from error
    problems = list(_problems(data))
    if not problems:
        data = _filled(data)
        problems = list(_misfits(data))
    if problems:
        raise ModelError("the front-end file has wrong keys", problems)
    return _make(data), data["samples"]


def _filled(data: dict[str, Any]) -> dict[str, Any]:
    data = _DEFAULTS | data
    data.setdefault("fft", max(16, 1 << (data["frame"] - 1).bit_length()))
    data.setdefault("high_hz", data["rate_hz"] / 2.0)
    return data


def _problem(key: str, reason: str, help: str) -> Problem:
    return Problem(key, "front end", reason, help)


def _problems(data: dict[str, Any]) -> Iterator[Problem]:
    for key in _KEYS:
        if key not in data and key not in _OPTIONAL:
            yield _problem(key, "is missing", "add the key")
    for key, value in data.items():
        if key not in _KEYS:
            yield _problem(key, "is unknown", f"use only {', '.join(_KEYS)}")
        elif reason := _wrong(key, value):
            yield _problem(key, reason, "correct the value")


def _wrong(key: str, value: Any) -> str:
    if key in _WORDS:
        return "" if value in _WORDS[key] else f"must be one of {', '.join(_WORDS[key])}"
    if key in ("mean", "std"):
        good = (
            isinstance(value, list)
            and all(_is_number(v) for v in value)
            and (key == "mean" or min(value, default=1) >= 1 / _MOST)
        )
        return "" if good and value else "must be a list of numbers" + (" above 0" if key == "std" else "")
    low, high = _INTEGERS.get(key) or _REALS[key]
    if not _is_number(value) or (key in _INTEGERS and not isinstance(value, int)):
        return f"must be {'a whole number' if key in _INTEGERS else 'a number'}"
    return "" if low <= value <= high else f"is {value}, allowed are {low} to {high}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST


def _misfits(data: dict[str, Any]) -> Iterator[Problem]:
    features = data.get("coefficients", data["mels"])
    if data["fft"] & (data["fft"] - 1):
        yield _problem("fft", f"is {data['fft']}", "use a power of two; frames are padded with zeros to it")
    if data["frame"] > data["fft"]:
        yield _problem("frame", "is longer than fft", "use a larger fft")
    if data["samples"] < data["frame"]:
        yield _problem("samples", "are less than one frame", "give an inference at least one frame")
    if not data["low_hz"] < data["high_hz"] <= data["rate_hz"] / 2.0:
        yield _problem("high_hz", "is not above low_hz, or above half of rate_hz", "correct the frequencies")
    if features > data["mels"]:
        yield _problem("coefficients", "are more than mels", "keep at most as many as there are filters")
    for key in ("mean", "std"):
        if key in data and len(data[key]) not in (1, features):
            yield _problem(key, f"has {len(data[key])} numbers", f"give 1 or {features}")


def _make(data: dict[str, Any]) -> FrontEnd:
    mels, frame, fft = data["mels"], data["frame"], data["fft"]
    filters = mel_filters(
        mels, fft, data["rate_hz"], data["low_hz"], data["high_hz"], data["mel_scale"], data["mel_norm"] == "slaney"
    )
    front = FrontEnd(
        window=make_window(data["window"], frame),
        hop=data["hop"],
        fft=fft,
        frames=count_frames(data["samples"], frame, data["hop"]),
        pad=0,
        mel=filters,
        floor=float(data["floor"]),
        floor_adds=data["floor_rule"] == "add",
        magnitude=data["spectrum"] == "magnitude",
        matrix=np.eye(mels) * _LOGARITHMS[data["logarithm"]],
        offset=np.zeros(mels),
        wide=data["sample_type"] == "int32",
    )
    if "coefficients" in data:
        front = front.then(dct_matrix(data["coefficients"], mels), np.zeros(data["coefficients"]))
    width = len(front.offset)
    deviation = np.broadcast_to(np.asarray(data.get("std", 1.0), np.float64), (width,))
    mean = np.broadcast_to(np.asarray(data.get("mean", 0.0), np.float64), (width,))
    return front.then(np.diag(1.0 / deviation), -mean / deviation)
