"""`fleetctl check | compile | run | inspect`: the compiler and the runtimes, without a service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tinyfleet_compiler import check_model, load_device_class
from tinyfleet_service.cli.engines import run_image
from tinyfleet_service.cli.errors import EXIT_ERROR
from tinyfleet_service.cli.inspect import inspect_file
from tinyfleet_service.cli.output import console, make_table, percent, size
from tinyfleet_service.errors import InvalidInputError

ModelFile = Annotated[Path, typer.Argument(help="ONNX file", exists=True, dir_okay=False)]
DeviceClassName = Annotated[str, typer.Option("--device-class", help="name of a shipped class, or a TOML file")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on stdout and nothing else there")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("check")(check)
    app.command("compile")(compile_)
    app.command("run")(run)
    app.command("inspect")(inspect)


def check(model: ModelFile, device_class: DeviceClassName, as_json: AsJson = False) -> None:
    """List everything that keeps a model off a device class; exit 0 when it fits, 1 when not."""
    report = check_model(model, load_device_class(device_class))
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    elif report.fits:
        console().print(f"{model.name} fits {device_class}")
    else:
        for problem in report.problems:
            console().print(f"- {problem}")
    if not report.fits:
        raise typer.Exit(EXIT_ERROR)


def compile_(
    model: ModelFile,
    device_class: DeviceClassName,
    out: Annotated[Path, typer.Option(help="folder for model.tfm, report.json and report.html")],
    calibration: Annotated[Path | None, typer.Option(help="NPZ with x", exists=True)] = None,
    evaluate: Annotated[Path | None, typer.Option(help="NPZ with x and y", exists=True)] = None,
    metric: Annotated[
        str | None, typer.Option(help="top1, mse, reconstruction, auc, agreement or FILE.py:function")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="image whose scales are kept where ranges allow", exists=True)
    ] = None,
    emit: Annotated[str | None, typer.Option(help="c: also write model.c and model.h")] = None,
    name: Annotated[str, typer.Option(help="model name inside the image")] = "model",
    version: Annotated[str, typer.Option(help="version inside the image")] = "dev",
    as_json: AsJson = False,
) -> None:
    """Compile a model into a model image with its report."""
    from tinyfleet_service.cli.compile_model import compile_to_folder

    report = compile_to_folder(
        model, device_class, out, calibration, evaluate, metric, base, emit, name=name, version=version
    )
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report, out)
    if not all(report["fits"][part] for part in ("flash", "arena")):
        raise typer.Exit(EXIT_ERROR)


def run(
    image: Annotated[Path, typer.Argument(help="model image (.tfm)", exists=True, dir_okay=False)],
    inputs: Annotated[Path, typer.Option("--input", help="NPZ with x", exists=True)],
    out: Annotated[Path, typer.Option(help="NPZ for the outputs")],
    on: Annotated[str, typer.Option(help="simulator, host, cortex-m4, ...")] = "host",
    as_json: AsJson = False,
) -> None:
    """Run an image on one of our engines; every engine gives the same bytes."""
    data = image.read_bytes()
    with np.load(inputs, allow_pickle=False) as arrays:
        if "x" not in arrays.files:
            raise InvalidInputError(f"{inputs} holds no array x", next="save inputs as np.savez(FILE, x=...)")
        x = arrays["x"]
    result = run_image(data, x, on)
    named = {f"y_{name}": value for name, value in result.outputs.items()}
    if len(named) == 1:
        named["y"] = next(iter(named.values()))
    np.savez_compressed(out, **named)  # type: ignore[arg-type]
    figures = {
        key: getattr(result, key)
        for key in ("instructions", "arena_bytes", "state_bytes", "stack_bytes", "runtime_flash_bytes")
    }
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        console().print(f"{len(x)} inputs on {on}, outputs in {out}")
        for key, value in figures.items():
            console().print(f"  {key:20} {'-' if value is None else f'{value:,}'}")


def inspect(
    file: Annotated[Path, typer.Argument(help="model image, release manifest, assignment, root or patch", exists=True)],
    as_json: AsJson = False,
) -> None:
    """Say what a file is and what is in it."""
    document = inspect_file(file.read_bytes())
    if as_json or not sys.stdout.isatty():
        print(json.dumps(document, indent=2, default=str))
        return
    _print_tree(document)


def _print_report(report: dict[str, Any], out: Path) -> None:
    accuracy = report.get("accuracy") or {}
    rows = [
        ["image", size(report["image_bytes"])],
        ["arena", f"{size(report['arena_bytes'])} (at least {size(report['arena_lower_bound_bytes'])})"],
        ["MACs", f"{report['macs']:,}"],
        ["latency (estimate)", f"{report['estimate']['latency_ms']:.2f} ms"],
        ["accuracy float / int8", f"{percent(accuracy.get('float'))} / {percent(accuracy.get('quantized'))}"],
        ["fits", ", ".join(f"{part} {'yes' if fit else 'NO'}" for part, fit in report["fits"].items())],
    ]
    console().print(make_table(["", str(report["device_class"])], rows))
    console().print(f"wrote {out}/model.tfm, report.json, report.html")


def _print_tree(document: Any, indent: int = 0) -> None:
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        if isinstance(value, dict | list) and value:
            console().print(f"{'  ' * indent}[bold]{key}[/]")
            _print_tree(value, indent + 1)
        else:
            console().print(f"{'  ' * indent}{key}: {value}")
