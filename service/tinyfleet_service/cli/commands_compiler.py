"""`fleetctl check | compile`: the compiler, without a service. What only a compile needs is imported by it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_compiler import check_model, load_device_class
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.dims import read_dims, state_pairs
from tinyfleet_service.cli.element_type import checked_type
from tinyfleet_service.cli.errors import EXIT_ERROR, describe_problem
from tinyfleet_service.cli.model_options import (
    AccuracyBudget,
    ArenaBudget,
    Dimensions,
    ElementType,
    FlashBudget,
    FrontEnd,
    PruneChannels,
    PruneWeights,
    Search,
    SearchSeconds,
    States,
    front_end_text,
)
from tinyfleet_service.cli.output import cell, console, make_table, percent, print_document, size, wrap

ModelFile = Annotated[Path, typer.Argument(help="ONNX or TFLite file", exists=True, dir_okay=False)]
DeviceClassName = Annotated[
    str, typer.Option("--device-class", help="name of a shipped class, or a TOML file (see device-class)")
]


LOSSES = ("mse", "reconstruction")
FIT_WORDS = {True: "yes", False: "NO", None: "unknown"}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("check")(check)
    app.command("compile")(compile_)


def check(
    context: typer.Context,
    model: ModelFile,
    device_class: DeviceClassName,
    front_end: FrontEnd = None,
    dim: Dimensions = None,
    state: States = None,
    element: ElementType = "int8",
) -> None:
    """List everything that keeps a model off a device class; exit 0 when it fits, 1 when not."""
    settings: Context = context.obj
    text = front_end_text(front_end)
    kind, device = checked_type(element), load_device_class(device_class)
    report = check_model(model, device, text, read_dims(dim), state_pairs(state), kind)
    if not print_document(settings, report.to_json(), name=model.name):
        if report.fits:
            console().print(f"{model.name} fits {device_class}", markup=False)
        for problem in report.problems:
            console().print(wrap(describe_problem(problem), "  ", "- "), markup=False)
    if not report.fits:
        raise typer.Exit(EXIT_ERROR)


def compile_(
    context: typer.Context,
    model: ModelFile,
    device_class: DeviceClassName,
    out: Annotated[Path, typer.Option(help="folder for model.tfm, report.json and report.html")],
    calibration: Annotated[Path | None, typer.Option(help="NPZ with x", exists=True)] = None,
    evaluate: Annotated[Path | None, typer.Option(help="NPZ with x and y", exists=True)] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="top1, mse, reconstruction, auc, agreement or FILE.py:function; default by the type of y"),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="image whose scales are kept where ranges allow", exists=True)
    ] = None,
    front_end: FrontEnd = None,
    prune_channels: PruneChannels = None,
    prune_weights: PruneWeights = None,
    search: Search = False,
    flash_budget: FlashBudget = None,
    arena_budget: ArenaBudget = None,
    accuracy_budget: AccuracyBudget = None,
    dim: Dimensions = None,
    search_seconds: SearchSeconds = 120.0,
    emit: Annotated[
        str | None,
        typer.Option(help="c: also write C source that needs nothing else (but CMSIS-NN where the class says so)"),
    ] = None,
    profile_on: Annotated[
        str | None, typer.Option(help="emulated core whose instructions by operator go into the report: cortex-m4 ...")
    ] = None,
    layout: Annotated[str, typer.Option(help="of that source: flat, cmake, arduino, platformio or zephyr")] = "flat",
    optimize: Annotated[
        str, typer.Option(help="balanced, ram (row by row, in the smallest arena), flash (smallest image) or speed")
    ] = "balanced",
    element: ElementType = "int8",
    name: Annotated[str, typer.Option(help="model name inside the image")] = "model",
    version: Annotated[str, typer.Option(help="version inside the image")] = "dev",
    state: States = None,
) -> None:
    """Compile a model into a model image with its report."""
    from tinyfleet_service.cli.compile_model import compile_to_folder, search_budgets, search_rows
    from tinyfleet_service.cli.prune_options import pruning_rows, read_prune

    settings: Context = context.obj
    for_search = search and prune_channels is None and prune_weights is None
    prune = read_prune(prune_channels, prune_weights, None if for_search else accuracy_budget)
    report = compile_to_folder(
        model,
        device_class,
        out,
        calibration,
        evaluate,
        metric,
        base,
        emit,
        front_end=front_end,
        dims=read_dims(dim),
        profile_on=profile_on,
        budgets=search_budgets(search, flash_budget, arena_budget, accuracy_budget, search_seconds),
        layout=layout,
        prune=prune,
        optimize=optimize,
        name=name,
        version=version,
        states=state_pairs(state),
        element=element,
    )
    if not print_document(settings, report, name=str(out / "model.tfm")):
        _print_report(report, out)
        if found := report["quantization"].get("search"):
            console().print(make_table(["search", ""], search_rows(found)))
        if "pruning" in report:
            for title, rows in pruning_rows(report["pruning"]):
                console().print(make_table(title, rows))
            for note in report["pruning"]["notes"]:
                console().print(wrap(note, "  ", "- "), markup=False)
    if not all(report["fits"][part] for part in ("flash", "arena")):
        raise typer.Exit(EXIT_ERROR)


def _print_report(report: dict[str, Any], out: Path) -> None:
    accuracy = report.get("accuracy") or {}
    fits = {part: report["fits"].get(part) for part in ("flash", "arena", "shadow")}
    rows = [
        ["image", size(report["image_bytes"])],
        ["arena", f"{size(report['arena_bytes'])} (at least {size(report['arena_lower_bound_bytes'])})"],
        *([["state", size(report["state_bytes"])]] if report["state_bytes"] else []),
        ["MACs", f"{report['macs']:,}"],
        ["latency (estimate)", f"{report['estimate']['latency_ms']:.2f} ms"],
        *_accuracy_rows(accuracy),
        ["fits", ", ".join(f"{part} {FIT_WORDS[fit]}" for part, fit in fits.items())],
    ]
    console().print(make_table(["", str(report["device_class"])], rows))
    for reason in report["fits"].get("reasons", []):
        console().print(wrap(str(reason), "  ", "- "), markup=False)
    console().print(f"wrote {out}/model.tfm, report.json, report.html", markup=False)


def _accuracy_rows(accuracy: dict[str, Any]) -> list[list[str]]:
    """One row per figure there is: losses are numbers, the other metrics fractions."""
    if accuracy.get("float") is None:
        return [["accuracy", "not measured: give --evaluate"]]
    metric = str(accuracy["metric"])
    show = cell if metric in LOSSES else percent
    return [
        [f"{metric} float / quantised", f"{show(accuracy.get('float'))} / {show(accuracy.get('quantized'))}"],
        ["agreement", percent(accuracy.get("agreement"))],
    ]
