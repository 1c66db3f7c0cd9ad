"""Say what a file is: a model image, a release manifest, an assignment, a root or a patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from tinyfleet_compiler import CompilerError, describe_image
from tinyfleet_ota import OtaError, describe_message, patch_info
from tinyfleet_service.errors import InvalidInputError

READERS: dict[str, Callable[[bytes], Any]] = {
    "model image": describe_image,
    "patch": patch_info,
    "message": describe_message,
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
        "this is none of our files", next="give a .tfm image, a manifest, an assignment, a root or a patch", **refused
    )
