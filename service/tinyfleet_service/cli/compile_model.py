"""Compile to a folder: `model.tfm`, `report.json`, `report.html` and, when asked, C source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyfleet_compiler import Budgets, CompileOptions, PruneOptions, compile_model, load_device_class, read_image
from tinyfleet_compiler.options import OPTIMIZE
from tinyfleet_ota import make_delta
from tinyfleet_service.cli.commands_delta import image_sections
from tinyfleet_service.cli.element_type import checked_type
from tinyfleet_service.cli.engines.programs import source_folder
from tinyfleet_service.cli.metric_file import read_metric
from tinyfleet_service.cli.model_options import front_end_text
from tinyfleet_service.cli.profile import with_profile
from tinyfleet_service.cli.standalone import write_standalone
from tinyfleet_service.errors import InvalidInputError


def search_budgets(
    search: bool, flash: int | None, arena: int | None, accuracy: float | None, seconds: float
) -> Budgets | None:
    """Budgets of a search, None without one. Raises InvalidInputError for a byte budget without `--search`."""
    if search:
        return Budgets(flash, arena, accuracy, seconds)
    if flash is not None or arena is not None:
        raise InvalidInputError("a byte budget without --search", next="add --search, or leave the budget out")
    return None


def search_rows(found: dict[str, Any]) -> list[list[str]]:
    """What a search did, in a few lines: its budget of time, what it judged by, what it took and what it missed."""
    missed = [name for name, met in found["met"].items() if not met]
    return [
        ["CPU seconds", f"{found['seconds']:.0f} of {found['budgets']['seconds']:.0f}"],
        ["judged by", f"{found['metric']} on {found['judged_on']}"],
        ["tried", f"{len(found['steps'])} (all in report.html)"],
        ["int16 tensors of", ", ".join(found["int16_layers"]) or "none"],
        ["int4 weights of", ", ".join(found["int4_layers"]) or "none"],
        ["budgets not reached", ", ".join(missed) or "none"],
    ]


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
    front_end: Path | None = None,
    dims: dict[str, int] | None = None,
    profile_on: str | None = None,
    budgets: Budgets | None = None,
    layout: str = "flat",
    prune: PruneOptions | None = None,
    optimize: str = "balanced",
    name: str,
    version: str,
    states: tuple[tuple[str, str], ...] = (),
    element: str = "int8",
) -> dict[str, Any]:
    """Compile `model` and write the products below `out`; returns the report.

    Raises CompilerError for what the compiler refuses, InvalidInputError for an unknown `emit`, `layout`, `optimize`
    or `element`, or a wrong metric file.
    """
    if emit not in (None, "c"):
        raise InvalidInputError(f"--emit {emit} is unknown", next="use --emit c")
    if optimize not in OPTIMIZE:
        raise InvalidInputError(f"--optimize {optimize} is unknown", next=f"one of {', '.join(OPTIMIZE)}")
    element, chosen_metric = checked_type(element), read_metric(metric)
    if budgets is not None and element == "float32":
        raise InvalidInputError("--search chooses integer types", next="leave --type float32 out, or --search")
    options = CompileOptions(
        base=base.read_bytes() if base else None,
        measure_delta=delta_meter(base.read_bytes()) if base else None,
        front_end=front_end_text(front_end),
        dims=dims or {},
        prune=prune or PruneOptions(),
        optimize=optimize,
        states=states,
        search=budgets,
        type=element,
    )
    device = load_device_class(device_class)
    result = compile_model(
        model,
        device,
        name=name,
        version=version,
        calibration=calibration,
        evaluation=evaluation,
        metric=chosen_metric,
        options=options,
    )
    if profile_on is not None:
        result = with_profile(result, profile_on)
    result.write(out)
    if emit is not None:
        write_standalone({"model": read_image(result.image)}, source_folder(), out, layout, device.kernels)
    return result.report


def delta_meter(base: bytes) -> Callable[[bytes], int]:
    """What counts the bytes of the patch from `base` to an image."""
    sections = image_sections(base)
    return lambda image: len(make_delta(base, image, sections, image_sections(image)))
