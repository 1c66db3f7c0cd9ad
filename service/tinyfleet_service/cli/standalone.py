"""C source that needs nothing else: the model, and of the runtime just what it calls, in the form a build system takes.

Which files those are is read from the sources themselves: what the emitted model names, what that names, and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyfleet_compiler import Image
from tinyfleet_service.errors import InvalidInputError, StorageError

LIBRARY = "fleet_model"
FOLDERS = ("dsp", "mve", "float", "vendor/cmsis_nn")
"""Kernel folders below `runtime/`."""
_NAME = re.compile(r"\bfleet_\w+")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINITION = re.compile(
    r"^(?!static\b|typedef\b)(?:__attribute__\(\(\w+\)\) )?"
    r"[a-z_][\w *]*?\b(fleet_\w+)(?:\([^;{]*\)\s*\{|\[[^;]*?\] = \{)",
    re.M,
)
_INCLUDE = re.compile(r'#include "((?:\.\./)*)(\w+\.h)"')
_ENTRY = re.compile(r"\[FLEET_OP_(\w+)\] = (?:(FAST|HELIUM)\((\w+)\)|(\w+)),")
_TABLE = "kernel_table.c"
_FASTER = {"FAST": ("dsp", "mve"), "HELIUM": ("mve",)}
"""Macro of the kernel table -> sets that have the kernel."""
_VENDORS = {"cmsis-nn": ("dsp", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"))}
"""Kernel set -> the set of the other operators, those whose kernels are adapters to the vendor's library."""
_VENDOR_NOTE = """/* Adapters call a library that is not here, {vendor}: its headers must be in the include path and
   its sources in the build (device_agent/runtime/README.md, "Vendor kernels"). */"""


@dataclass(frozen=True)
class Source:
    """A file of the runtime under the name it gets, its includes adapted."""

    name: str
    text: str
    defines: frozenset[str]
    uses: frozenset[str]
    includes: frozenset[str]


def write_standalone(
    image: Image, sources: Mapping[str, str], agent: Path, out: Path, layout: str, kernels: str
) -> None:
    """Write `sources` (model.c, model.h) and the runtime they need below `out`, as `layout` wants them.

    Raises InvalidInputError for an unknown layout, StorageError.
    """
    if layout not in LAYOUTS:
        raise InvalidInputError(f"--layout {layout} is unknown", next=f"one of {', '.join(LAYOUTS)}")
    files = dict(sources) | {"model_kernels.c": _kernel_table(image, agent, kernels)}
    files |= runtime_files(agent, files.values())
    for name, text in LAYOUTS[layout](image, files).items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}", next="choose another folder") from error


def runtime_files(agent: Path, texts: Iterable[str]) -> dict[str, str]:
    """Name -> text of the sources and headers that C texts need, directly or not. Function names decide."""
    runtime = agent / "runtime"
    folders = {runtime: "", agent / "include": ""} | {runtime / name: name.split("/")[-1] for name in FOLDERS}
    own = [(folder, name) for folder, name in folders.items() if folder != agent / "include"]
    private = {f"{name}/{path.name}".lstrip("/") for folder, name in own for path in folder.glob("*.h")}
    paths = [path for folder in folders for path in sorted(folder.glob("*.[ch]")) if path.name != _TABLE]
    known = [_read(path, folders[path.parent], private) for path in paths]
    owner = {name: source for source in known for name in source.defines if source.name.endswith(".c")}
    headers = {source.name: source for source in known if source.name.endswith(".h")}
    found: dict[str, Source] = {}
    waiting = [_parse("model", text, private) for text in texts]
    while waiting:
        source = waiting.pop()
        # A header declares far more than its readers call.
        called = () if source.name.endswith(".h") else source.uses
        needs = [owner[name] for name in called if name in owner]
        needs += [headers[name] for name in source.includes if name in headers]
        for needed in needs:
            if needed.name not in found:
                found[needed.name] = needed
                waiting.append(needed)
    return {name: found[name].text for name in sorted(found)}


def _read(path: Path, folder: str, private: set[str]) -> Source:
    return _parse(_flat_name(path.name, folder), path.read_text(), private, folder)


def _flat_name(name: str, folder: str) -> str:
    """Of a file in `runtime/<folder>` beside all the others."""
    if folder and name != f"{folder}.h":
        return f"fleet_{folder}_{name}"
    return name if name.startswith("fleet_") else f"fleet_{name}"


def _parse(name: str, text: str, private: set[str], folder: str = "") -> Source:
    def include(match: re.Match[str]) -> str:
        up, header = match[1], match[2]
        own = folder if folder and not up and f"{folder}/{header}" in private else ""
        known = f"{own}/{header}".lstrip("/") in private
        return f'#include "{_flat_name(header, own) if known else header}"'

    text = _INCLUDE.sub(include, text)
    code = _COMMENT.sub("", text)
    defines = frozenset(match[1] for match in _DEFINITION.finditer(code))
    return Source(
        name,
        text,
        defines,
        frozenset(_NAME.findall(code)) - defines,
        frozenset(header for _, header in _INCLUDE.findall(text)),
    )


def _kernel_table(image: Image, agent: Path, kernels: str) -> str:
    """A kernel table with the operators of this model alone, so that nothing else is linked."""
    text = (agent / "runtime" / _TABLE).read_text()
    ours, adapted = _VENDORS.get(kernels, (kernels, ()))
    names = {
        operator: plain or (f"fleet_{ours}_{name}" if ours in _FASTER[macro] else f"fleet_{name}")
        for operator, macro, name, plain in _ENTRY.findall(text)
    } | {operator: f"fleet_{kernels.replace('-', '_')}_{operator.lower()}" for operator in adapted}
    lines = [f"    [FLEET_OP_{code.name}] = {names[code.name]}," for code in sorted({op.code for op in image.ops})]
    return "\n".join(
        [
            "/* The kernels that this model runs on: the linker takes these and no others. */",
            *([_VENDOR_NOTE.format(vendor=kernels.upper())] if adapted else []),
            '#include "fleet_internal.h"\n',
            "const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u] = {",
            *lines,
            "};\n",
        ]
    )


# ---- layouts: path below the folder -> text

_SKETCH = """/* One inference on an input of zeros; answers with the class of the largest output. */
#include "model.h"

static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
static model_input_t input[MODEL_INPUT_BYTES / sizeof(model_input_t)];

int fleet_example_run(void);

int fleet_example_run(void)
{
    fleet_model_t model;
    const model_output_t *output = 0;
    int best = 0;
    if (model_open(&model) != FLEET_OK || model_run(&model, input, arena, &output) != FLEET_OK) {
        return -1;
    }
    for (unsigned i = 1; i < MODEL_OUTPUT_0_BYTES / sizeof(model_output_t); i++) {
        best = output[i] > output[best] ? (int)i : best;
    }
    return best;
}
"""

_SKETCH_INO = """extern "C" int fleet_example_run(void);

void setup() {
  Serial.begin(115200);
}

void loop() {
  Serial.println(fleet_example_run());
  delay(1000);
}
"""

Files = dict[str, str]


def _flat(image: Image, files: Files) -> Files:
    return files


def _below_src(files: Files) -> Files:
    return {f"{LIBRARY}/src/{name}": text for name, text in files.items()}


def _c_files(files: Files) -> list[str]:
    return sorted(name for name in files if name.endswith(".c"))


def _cmake(image: Image, files: Files) -> Files:
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
    own = {f"{LIBRARY}/CMakeLists.txt": text, f"{LIBRARY}/example/example.c": _SKETCH}
    return _below_src(files) | own


def _vendor_target(files: Files) -> str:
    if not any(name.startswith("fleet_cmsis_nn") for name in files):
        return ""
    return f"""# CMSIS-NN is not here: a target or library of yours with its headers (Include) and its code (Source).
target_link_libraries({LIBRARY} PUBLIC cmsis_nn)
"""


def _arduino(image: Image, files: Files) -> Files:
    properties = {
        "name": LIBRARY,
        "version": "1.0.0",
        "author": "tinyfleet",
        "maintainer": "tinyfleet",
        "sentence": f"The model {_plain(image.name)} {_plain(image.version)}.",
        "paragraph": "Made by fleetctl compile --emit c --layout arduino.",
        "category": "Data Processing",
        "url": "https://example.invalid/tinyfleet",
        "architectures": "*",
        "includes": "model.h",
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    sketch = f"{LIBRARY}/examples/Run"
    own = {f"{LIBRARY}/library.properties": text, f"{sketch}/Run.ino": _SKETCH_INO, f"{sketch}/example.c": _SKETCH}
    return _below_src(files) | own


def _platformio(image: Image, files: Files) -> Files:
    document = {
        "name": LIBRARY,
        "version": "1.0.0",
        "description": f"The model {_plain(image.name)} {_plain(image.version)}.",
        "frameworks": "*",
        "platforms": "*",
        "headers": "model.h",
        "build": {"flags": ["-O2"], "srcDir": "src", "includeDir": "src"},
    }
    own = {
        f"{LIBRARY}/library.json": json.dumps(document, indent=2) + "\n",
        f"{LIBRARY}/examples/run/example.c": _SKETCH,
    }
    return _below_src(files) | own


def _zephyr(image: Image, files: Files) -> Files:
    listed = "\n".join(f"    src/{name}" for name in _c_files(files))
    module = "name: fleet-model\nbuild:\n  cmake: .\n  kconfig: Kconfig\n"
    kconfig = f'config FLEET_MODEL\n\tbool "The model {_plain(image.name)} and its runtime"\n\tdefault y\n'
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
        f"{LIBRARY}/samples/run/example.c": _SKETCH,
    }
    return _below_src(files) | own


def _plain(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


LAYOUTS: dict[str, Callable[[Image, Files], Files]] = {
    "flat": _flat,
    "cmake": _cmake,
    "arduino": _arduino,
    "platformio": _platformio,
    "zephyr": _zephyr,
}
