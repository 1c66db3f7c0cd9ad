"""Compile to a folder: `model.tfm`, `report.json`, `report.html` and, when asked, C source."""

from __future__ import annotations

import json
from dataclasses import replace
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
    """Compile `model` and write the products below `out`, all of them or none; returns the report.

    Raises CompilerError for what the compiler refuses, InvalidInputError for an unknown `emit`.
    """
    if emit not in (None, "c"):
        raise InvalidInputError(f"--emit {emit} is unknown", next="use --emit c")
    options = CompileOptions()
    if base is not None:
        options = replace(options, base=base.read_bytes())
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
    products: dict[str, bytes] = {
        "model.tfm": result.image,
        "report.json": (json.dumps(result.report, indent=2) + "\n").encode(),
        "report.html": result.report_html.encode(),
    }
    if emit == "c":
        products |= {file: text.encode() for file, text in result.c_sources.items()}
    out.mkdir(parents=True, exist_ok=True)
    for file, data in products.items():
        (out / file).write_bytes(data)
    return result.report
