"""Say what a file is: a model image, a release manifest, an assignment, a root or a patch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from enum import IntEnum
from typing import Any

from tinyfleet_compiler import CompilerError, read_image
from tinyfleet_compiler.operators import Function
from tinyfleet_ota import OtaError, describe_message, patch_info
from tinyfleet_service.errors import InvalidInputError


def describe_image(data: bytes) -> dict[str, Any]:
    """Header, operators, sections and tensors of a model image by names. Raises ImageError."""
    image = read_image(data)
    header = {key: value for key, value in image.header.items() if isinstance(value, int)}
    return {
        "name": image.name,
        "version": image.version,
        "device_class": image.device_class,
        "labels": list(image.labels),
        "inputs": [_tensor(tensor) for tensor in image.inputs],
        "outputs": [_tensor(tensor) for tensor in image.outputs],
        "states": [asdict(state) | {"element": state.element.name} for state in image.states],
        "ops": [{"code": op.code.name, **_numbers(op.fields)} for op in image.ops],
        "sections": [
            {key: value.name if isinstance(value, IntEnum) else value for key, value in asdict(section).items()}
            for section in image.sections
        ],
        "golden": asdict(image.golden),
        "header": header,
    }


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain numbers of a record; an infinite bound is none."""
    found = {k: v for k, v in fields.items() if isinstance(v, (int, float)) and math.isfinite(v)}
    return found | ({"function": Function(fields["function"]).name} if "function" in fields else {})


def _tensor(tensor: Any) -> dict[str, Any]:
    names = {"source_layout": tensor.source_layout.name, "element": tensor.element.name}
    return {**asdict(tensor), "shape": list(tensor.shape), **names}


READERS: dict[str, Callable[[bytes], Any]] = {
    "model image": describe_image,
    "message": describe_message,
    "patch": patch_info,
}


def inspect_file(data: bytes) -> dict[str, Any]:
    """What `data` is, with its content by names. Signatures are shown, not checked: inspecting needs no keys.

    Raises InvalidInputError when no reader knows it, with what each said.
    """
    refused: dict[str, str] = {}
    for kind, reader in READERS.items():
        try:
            document = reader(data)
        except (CompilerError, OtaError, ValueError) as error:
            refused[kind] = str(error)
            continue
        return {
            "kind": kind,
            **(asdict(document) if is_dataclass(document) and not isinstance(document, type) else document),
        }
    raise InvalidInputError(
        "this is none of our files",
        next="give a .tfm image, a manifest, an assignment, a root or a patch",
        problems=[f"no {kind}: {why}" for kind, why in refused.items()],
    )
