"""What each operator of an image costs on an emulated core: rows for documents, reports and people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.compile import CompileResult
from tinyfleet_compiler.describe_op import describe_op, op_macs
from tinyfleet_compiler.image import Image, read_image
from tinyfleet_compiler.report_html import render_report
from tinyfleet_service.cli.engines import run_image
from tinyfleet_service.cli.engines.result import RunResult
from tinyfleet_service.cli.output import console, make_table
from tinyfleet_service.errors import InvalidInputError, StorageError


def profile_rows(image: Image, result: RunResult, on: str) -> list[dict[str, Any]]:
    """One row an operator, in execution order: index, operator, shape, instructions, share, macs, instructions_per_mac.

    Raises InvalidInputError for an engine that counts nothing.
    """
    if result.layer_instructions is None:
        raise InvalidInputError(f"{on} counts no instructions", next="profile on an emulated core: --on cortex-m4")
    total = max(1, sum(result.layer_instructions))
    return [
        _row(index, op, count, total)
        for index, (op, count) in enumerate(zip(image.ops, result.layer_instructions, strict=True))
    ]


def _row(index: int, op: Any, count: int, total: int) -> dict[str, Any]:
    macs = op_macs(op)
    return {
        "index": index,
        "operator": op.code.name,
        "shape": describe_op(op).removeprefix(op.code.name).strip(),
        "instructions": count,
        "share": round(count / total, 4),
        "macs": macs,
        "instructions_per_mac": round(count / macs, 3) if macs else None,
    }


def with_profile(result: CompileResult, on: str) -> CompileResult:
    """A compile whose report also says what one inference, on an input of zeros, costs on an emulated core."""
    image = read_image(result.image)
    zeros = {t.name: np.zeros((1, *t.source_shape), t.dtype) for t in image.inputs}
    run = run_image(result.image, zeros, on)
    rows = profile_rows(image, run, on)
    named = [row | {"name": layer["name"]} for row, layer in zip(rows, result.report["layers"], strict=True)]
    profile = {"on": on, "instructions": run.instructions, "stack_bytes": run.stack_bytes, "layers": named}
    report = result.report | {"profile": profile}
    return replace(result, report=report, report_html=render_report(report))


def print_profile(rows: list[dict[str, Any]]) -> None:
    """The table, on stderr: stdout belongs to the document."""
    cells = [
        [
            str(row["index"]),
            row["operator"],
            row["shape"],
            f"{row['instructions']:,}",
            f"{row['share']:.1%}",
            f"{row['macs']:,}" if row["macs"] else "-",
            f"{row['instructions_per_mac']:.2f}" if row["macs"] else "-",
        ]
        for row in rows
    ]
    titles = ["#", "operator", "shape", "instructions", "share", "macs", "per mac"]
    console(stderr=True).print(make_table(titles, cells))


def write_profile(path: Path, rows: list[dict[str, Any]], on: str) -> None:
    """The rows as JSON, `{"on", "instructions", "layers"}`. Raises StorageError."""
    document = {"on": on, "instructions": sum(row["instructions"] for row in rows), "layers": rows}
    try:
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", next="choose another file") from error
