"""Compile to a folder: `model.tfm`, `report.json`, `report.html` and, when asked, C source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyfleet_compiler import CompileOptions, compile_model, load_device_class
from tinyfleet_service.errors import InvalidInputError


def compile_to_folder(
    model: Path,
    device_class: str,
    out: Path,
    calibration: Path | None,
    evaluation: Path | None,
    metric: str | None,
    base: Path | None,
    emit: str | None,
    *,
    name: str,
    version: str,
) -> dict[str, Any]:
    """Compile `model` and write the products below `out`; returns the report.

    Raises CompilerError for what the compiler refuses, InvalidInputError for an unknown `emit`.
    """
    if emit not in (None, "c"):
        raise InvalidInputError(f"--emit {emit} is unknown", next="use --emit c")
    options = CompileOptions(base=base.read_bytes() if base else None, emit_c=emit == "c")
    result = compile_model(
        model,
        load_device_class(device_class),
        name=name,
        version=version,
        calibration=calibration,
        evaluation=evaluation,
        metric=metric,
        options=options,
    )
    result.write(out)
    return result.report
