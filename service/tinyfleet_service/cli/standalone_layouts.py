"""The forms in which build systems take the C source of models: path below the folder -> text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from tinyfleet_compiler import Image
from tinyfleet_compiler.emit.c_source import named

LIBRARY = "fleet_model"
Files = dict[str, str]
Images = Mapping[str, Image]
"""Prefix of its C names -> image."""
_SKETCH = """/* One inference on an input of zeros; answers with the class of the largest output. */
#include "HEADER"

static uint8_t arena[NAME_ARENA_BYTES] __attribute__((aligned(16)));
STATESstatic name_input_t input[NAME_INPUT_BYTES / sizeof(name_input_t)];

int fleet_example_run(void);

int fleet_example_run(void)
{
    fleet_model_t model;
    const name_output_t *output = 0;
    int best = 0;
    if (name_open(ARGUMENTS) != FLEET_OK || name_run(&model, input, arena, &output) != FLEET_OK) {
        return -1;
    }
    for (unsigned i = 1; i < NAME_OUTPUT_0_BYTES / sizeof(name_output_t); i++) {
        best = output[i] > output[best] ? (int)i : best;
    }
    return best;
}
"""

_STATE = "static uint8_t state[NAME_STATE_BYTES] __attribute__((aligned(16)));\n"

_SKETCH_INO = """extern "C" int fleet_example_run(void);

void setup() {
  Serial.begin(115200);
}

void loop() {
  Serial.println(fleet_example_run());
  delay(1000);
}
"""


def _example(images: Images) -> str:
    """C of one inference of the first model."""
    prefix, image = next(iter(images.items()))
    state, arguments = (_STATE, "&model, state") if image.state_bytes else ("", "&model")
    text = _SKETCH.replace("STATES", state).replace("ARGUMENTS", arguments).replace("HEADER", f"{prefix}.h")
    return "\n".join(named(text, prefix)) + "\n"


def _title(images: Images) -> str:
    """The models by name and version."""
    listed = ", ".join(f"{_plain(image.name)} {_plain(image.version)}" for image in images.values())
    return f"The model{'s' if len(images) > 1 else ''} {listed}"


def _headers(images: Images) -> list[str]:
    return [f"{prefix}.h" for prefix in images]


def _flat(images: Images, files: Files) -> Files:
    return files


def _below_src(files: Files) -> Files:
    return {f"{LIBRARY}/src/{name}": text for name, text in files.items()}


def _c_files(files: Files) -> list[str]:
    return sorted(name for name in files if name.endswith(".c"))


def _cmake(images: Images, files: Files) -> Files:
    listed = "\n".join(f"    src/{name}" for name in _c_files(files))
    text = f"""# The model as a library: add_subdirectory({LIBRARY}), then link {LIBRARY}. Kernels gain from -O2.
cmake_minimum_required(VERSION 3.16)
project({LIBRARY} C)
add_library({LIBRARY} STATIC
{listed})
target_include_directories({LIBRARY} PUBLIC src)
target_compile_features({LIBRARY} PUBLIC c_std_99)
{_vendor_target(files)}add_library({LIBRARY}_example STATIC EXCLUDE_FROM_ALL example/example.c)
target_link_libraries({LIBRARY}_example PUBLIC {LIBRARY})
"""
    own = {f"{LIBRARY}/CMakeLists.txt": text, f"{LIBRARY}/example/example.c": _example(images)}
    return _below_src(files) | own


def _vendor_target(files: Files) -> str:
    if not any(name.startswith("fleet_cmsis_nn") for name in files):
        return ""
    return f"""# CMSIS-NN is not here: a target or library of yours with its headers (Include) and its code (Source).
target_link_libraries({LIBRARY} PUBLIC cmsis_nn)
"""


def _arduino(images: Images, files: Files) -> Files:
    properties = {
        "name": LIBRARY,
        "version": "1.0.0",
        "author": "tinyfleet",
        "maintainer": "tinyfleet",
        "sentence": f"{_title(images)}.",
        "paragraph": "Made by fleetctl, layout arduino.",
        "category": "Data Processing",
        "url": "https://example.invalid/tinyfleet",
        "architectures": "*",
        "includes": ",".join(_headers(images)),
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    sketch = f"{LIBRARY}/examples/Run"
    own = {
        f"{LIBRARY}/library.properties": text,
        f"{sketch}/Run.ino": _SKETCH_INO,
        f"{sketch}/example.c": _example(images),
    }
    return _below_src(files) | own


def _platformio(images: Images, files: Files) -> Files:
    document = {
        "name": LIBRARY,
        "version": "1.0.0",
        "description": f"{_title(images)}.",
        "frameworks": "*",
        "platforms": "*",
        "headers": _headers(images),
        "build": {"flags": ["-O2"], "srcDir": "src", "includeDir": "src"},
    }
    own = {
        f"{LIBRARY}/library.json": json.dumps(document, indent=2) + "\n",
        f"{LIBRARY}/examples/run/example.c": _example(images),
    }
    return _below_src(files) | own


def _zephyr(images: Images, files: Files) -> Files:
    listed = "\n".join(f"    src/{name}" for name in _c_files(files))
    module = "name: fleet-model\nbuild:\n  cmake: .\n  kconfig: Kconfig\n"
    kconfig = f'config FLEET_MODEL\n\tbool "{_title(images)}, and the runtime"\n\tdefault y\n'
    cmake = f"""if(CONFIG_FLEET_MODEL)
  zephyr_include_directories(src)
  zephyr_library()
  zephyr_library_sources(
{listed})
endif()
"""
    own = {
        f"{LIBRARY}/zephyr/module.yml": module,
        f"{LIBRARY}/Kconfig": kconfig,
        f"{LIBRARY}/CMakeLists.txt": cmake,
        f"{LIBRARY}/samples/run/example.c": _example(images),
    }
    return _below_src(files) | own


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


LAYOUTS: dict[str, Callable[[Images, Files], Files]] = {
    "flat": _flat,
    "cmake": _cmake,
    "arduino": _arduino,
    "platformio": _platformio,
    "zephyr": _zephyr,
}
