"""C source that needs nothing else: models, and of the runtime just what they call, in the form a build system takes.

Which files those are is read from the sources themselves: what an emitted model names, what that names, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyfleet_compiler import Image
from tinyfleet_compiler.emit.c_source import emit_c
from tinyfleet_service.cli.standalone_layouts import LAYOUTS
from tinyfleet_service.errors import InvalidInputError, StorageError

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


def c_names(images: Iterable[Image]) -> dict[str, Image]:
    """Prefix of the C names -> image: `model_` and the image's name.

    Raises InvalidInputError where two images have one name, or were compiled for unlike device classes.
    """
    found: dict[str, Image] = {}
    for image in images:
        prefix = "model_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in image.name.lower())
        if prefix in found:
            raise InvalidInputError(
                f"two images would be {prefix} in C", next="compile one of them with another --name"
            )
        found[prefix] = image
    classes = sorted({image.device_class for image in found.values()})
    if len(classes) > 1:
        raise InvalidInputError(
            f"the images are for the device classes {', '.join(classes)}", next="compile all of them for one"
        )
    return found


def write_standalone(images: Mapping[str, Image], agent: Path, out: Path, layout: str, kernels: str) -> list[str]:
    """Write the images, each under its prefix, and the runtime they need below `out`, as `layout` wants them.

    Returns the names of the files. Raises InvalidInputError for an unknown layout, StorageError.
    """
    if layout not in LAYOUTS:
        raise InvalidInputError(f"--layout {layout} is unknown", next=f"one of {', '.join(LAYOUTS)}")
    files = {name: text for prefix, image in images.items() for name, text in emit_c(image, prefix).items()}
    files["fleet_kernels.c"] = _kernel_table(images.values(), agent, kernels)
    files |= runtime_files(agent, files.values())
    laid_out = LAYOUTS[layout](images, files)
    for name, text in laid_out.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}", next="choose another folder") from error
    return sorted(laid_out)


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


def _kernel_table(images: Collection[Image], agent: Path, kernels: str) -> str:
    """A kernel table with the operators of these models alone, so that nothing else is linked."""
    text = (agent / "runtime" / _TABLE).read_text()
    ours, adapted = _VENDORS.get(kernels, (kernels, ()))
    names = {
        operator: plain or (f"fleet_{ours}_{name}" if ours in _FASTER[macro] else f"fleet_{name}")
        for operator, macro, name, plain in _ENTRY.findall(text)
    } | {operator: f"fleet_{kernels.replace('-', '_')}_{operator.lower()}" for operator in adapted}
    codes = sorted({op.code for image in images for op in image.ops})
    lines = [f"    [FLEET_OP_{code.name}] = {names[code.name]}," for code in codes]
    return "\n".join(
        [
            "/* The kernels that the models run on: the linker takes these and no others. */",
            *([_VENDOR_NOTE.format(vendor=kernels.upper())] if adapted else []),
            '#include "fleet_internal.h"\n',
            "const fleet_kernel_t fleet_kernel_table[FLEET_OP_LAST + 1u] = {",
            *lines,
            "};\n",
        ]
    )
