"""Device classes: the shipped ones, and every way one of the user's own can be wrong."""

from pathlib import Path
from typing import Any

import pytest

from tinyfleet_compiler import DeviceClass, DeviceClassError, device_class_names, device_class_text, load_device_class
from tinyfleet_compiler.device_class import KERNELS

SHIPPED = {"cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "esp32-s3", "rv32imc", "host"}
GOOD = device_class_text("cortex-m4")
KEYS = [line.split(" = ")[0] for line in GOOD.splitlines() if " = " in line]


def with_value(key: str, value: str) -> str:
    """GOOD with another value of a key, as TOML."""
    return "\n".join(f"{key} = {value}" if line.startswith(f"{key} =") else line for line in GOOD.splitlines())


def problems(text: str) -> dict[str, str]:
    """Key -> reason."""
    with pytest.raises(DeviceClassError) as caught:
        DeviceClass.from_toml(text)
    return {problem.node: problem.reason for problem in caught.value.problems}


def test_every_shipped_class_loads_under_its_own_name() -> None:
    assert set(device_class_names()) >= SHIPPED
    for name in device_class_names():
        assert load_device_class(name).name == name
        assert load_device_class(name).kernels in KERNELS


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(f"{key} ="))
    assert problems(text) == {key: "is missing"}


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_type_is_named(key: str) -> None:
    for value in ("true", "{a = 1}", "1979-05-27", '"text"' if "_" in key or key in ("abi", "features") else "3"):
        found = problems(with_value(key, value))
        assert found.keys() == {key}
        assert "expected" in found[key]


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("name", '""', "is empty"),
        ("name", '"../m4"', "1 to 31"),
        ("name", '"' + "a" * 32 + '"', "1 to 31"),
        ("cpu", '"  "', "is empty"),
        ("description", '""', "is empty"),
        ("features", '["dsp", "neon"]', "may list only"),
        ("features", '["dsp", "dsp"]', "each once"),
        ("features", "[1]", "may list only"),
        ("kernels", '"avx"', "portable, dsp, mve, cmsis-nn"),
        ("clock_hz", "0", "allowed are 1000"),
        ("clock_hz", "-120000000", "allowed are 1000"),
        ("flash_slot_bytes", "512", "allowed are 1024"),
        ("flash_slot_bytes", "9223372036854775807", "allowed are 1024"),
        ("arena_bytes", "-1", "allowed are 64"),
        ("arena_bytes", "1.5", "expected int"),
        ("erase_bytes", "0", "allowed are 1"),
        ("program_bytes", "512", "allowed are 1 to 256"),
        ("abi", "0", "allowed are 1"),
        ("energy_pj_per_instruction", "-40.0", "positive"),
        ("instructions_per_mac", "nan", "positive"),
        ("cycles_per_instruction", "inf", "positive"),
        ("cycles_per_instruction", "0", "positive"),
        ("flash_slot_bytes", "10000", "whole number of erase blocks"),
        ("program_bytes", "24", "whole number of them"),
        ("features", '["fpu"]', ""),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: str, word: str) -> None:
    found = problems(with_value(key, value))
    # Kernels that the features do not carry are the kernels' fault.
    assert found.keys() == ({"kernels"} if value == '["fpu"]' else {key})
    assert word in next(iter(found.values()))


def test_everything_wrong_is_named_at_once() -> None:
    text = GOOD.replace("arena_bytes", "arena").replace("abi = 1", "clock = 3").replace("120000000", '"fast"')
    assert problems(text).keys() == {"arena", "arena_bytes", "abi", "clock", "clock_hz"}


def test_what_is_no_toml_says_so() -> None:
    for text in ("= nonsense", "name = 'a'\nname = 'b'", "[name", "\x00", "a = " + "[" * 5000, "a = " + "1" * 5000):
        assert "not TOML" in next(iter(problems(text).values()))


def test_files_that_cannot_be_read_name_the_shipped_classes(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in (tmp_path / "binary.toml", tmp_path / "absent.toml", tmp_path, "cortex-m99", ""):
        with pytest.raises(DeviceClassError, match="cortex-m0plus"):
            load_device_class(name)
    with pytest.raises(DeviceClassError, match="is shipped; use one of"):
        device_class_text("../secret")


def test_a_class_of_ones_own_loads_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD.replace('"cortex-m4"', '"my-board"', 1))
    mine: Any = load_device_class(tmp_path / "mine.toml")
    assert mine.name == "my-board"
    assert {**vars(mine), "name": "cortex-m4"} == vars(load_device_class("cortex-m4"))


def test_cmsis_nn_needs_the_dsp_extension() -> None:
    text = GOOD.replace('kernels = "dsp"', 'kernels = "cmsis-nn"')
    assert DeviceClass.from_toml(text).kernels == "cmsis-nn"
    assert "lack it" in problems(text.replace('"dsp", "fpu"', '"fpu"'))["kernels"]
    assert DeviceClass.from_toml(text.replace('"dsp", "fpu"', '"dsp", "fpu", "mve"')).kernels == "cmsis-nn"
