"""`fleetctl model push | import | list | show | alias | gates | approve | diff | retry | cancel`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.dims import read_dims, state_pairs
from tinyfleet_service.cli.errors import EXIT_ERROR, EXIT_TIMEOUT
from tinyfleet_service.cli.gate_options import change_gates
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
    amount,
    front_end_text,
)
from tinyfleet_service.cli.output import (
    Column,
    cell,
    console,
    make_table,
    moment,
    percent,
    plain,
    print_document,
    print_rows,
    size,
)
from tinyfleet_service.fleet import split_reference

app = typer.Typer(help="Register models and look at their builds.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(app, name="model")


FINISHED = {"ready", "failed", "misfit", "cancelled", "awaiting-signature"}

BUILD_COLUMNS: list[Column] = [
    ("class", lambda build: build["device_class"]),
    ("build", lambda build: build["state"]),
    ("accuracy", lambda build: percent(_accuracy(build, "quantized"))),
    ("float", lambda build: percent(_accuracy(build, "float"))),
    ("arena", lambda build: size(build["report"].get("arena_bytes"))),
    ("image", lambda build: size(build.get("image_bytes"))),
    ("latency (est.)", lambda build: _latency(build)),
]
WIDE_BUILD_COLUMNS: list[Column] = [
    ("id", lambda build: build["id"]),
    ("release", lambda build: build.get("release_counter")),
    ("sha256", lambda build: build.get("image_sha256")),
    ("finished", lambda build: moment(build.get("finished_at"))),
]

TRANSFER_COLUMNS: list[Column] = [
    ("class", lambda row: row["device_class"]),
    ("devices run", lambda row: row["base"] or "-"),
    ("devices", lambda row: row["devices"]),
    ("travels as", lambda row: row["form"] + (", encrypted" if row["encrypted"] else "")),
    *((form, lambda row, form=form: size(row["choices"].get(form))) for form in ("raw", "packed", "delta")),
    ("at the broker", lambda row: "yes" if row["published"] else "no"),
]


Component = Annotated[
    str | None,
    typer.Option(help="where devices run it, model/0 to model/9; a model's first version fixes it (model/0)"),
]
DIFF_COLUMNS: list[Column] = [
    ("class", lambda row: row["device_class"]),
    ("image", lambda row: " -> ".join(size(each) for each in row["image_bytes"])),
    ("delta", lambda row: size(row["delta_bytes"])),
    ("accuracy", lambda row: " -> ".join(percent(each) for each in row["accuracy"])),
    ("arena", lambda row: " -> ".join(size(each) for each in row["arena_bytes"])),
    ("layers", lambda row: " -> ".join(str(each) for each in row["layers"])),
    ("changed", lambda row: ", ".join(row["layers_changed"]) or "weights only"),
]


@app.command("push")
def push_model(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION, e.g. model:v3")],
    model: Annotated[Path, typer.Argument(help="ONNX or TFLite file", exists=True, dir_okay=False)],
    calibration: Annotated[Path | None, typer.Option(help="NPZ with x: what the device sees", exists=True)] = None,
    evaluate: Annotated[Path | None, typer.Option(help="NPZ with x and y", exists=True)] = None,
    metric: Annotated[str | None, typer.Option(help="top1, mse, reconstruction, auc or agreement")] = None,
    front_end: FrontEnd = None,
    dim: Dimensions = None,
    state: States = None,
    element: ElementType = "int8",
    optimize: Annotated[str, typer.Option(help="balanced, ram, flash or speed")] = "balanced",
    prune_channels: PruneChannels = None,
    prune_weights: PruneWeights = None,
    search: Search = False,
    flash_budget: FlashBudget = None,
    arena_budget: ArenaBudget = None,
    accuracy_budget: AccuracyBudget = None,
    search_seconds: SearchSeconds = 120.0,
    component: Component = None,
    wait: Annotated[bool, typer.Option(help="wait for the builds and print their reports")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="seconds to wait")] = 600.0,
) -> None:
    """Register a version; a build starts for every device class of the project, each with these options."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    client = settings.client()
    options = {
        "type": element,
        "optimize": optimize,
        "front_end": front_end_text(front_end),
        "dims": read_dims(dim),
        "states": state_pairs(state),
        "prune_channels": amount("--prune-channels", prune_channels),
        "prune_weights": amount("--prune-weights", prune_weights),
        "search": search,
        "flash_budget": flash_budget,
        "arena_budget": arena_budget,
        "accuracy_budget": accuracy_budget,
        "search_seconds": search_seconds,
    }
    pushed = client.push_model(
        name,
        version,
        model,
        calibration=calibration,
        evaluation=evaluate,
        metric=metric,
        options=options,
        component=component,
    )
    show_pushed(settings, client, pushed, reference, timeout_s if wait else None)


@app.command("import")
def import_model(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS, or mlflow://NAME/VERSION")],
    reference: Annotated[str, typer.Argument(help="NAME:VERSION here")],
    calibration: Annotated[Path | None, typer.Option(help="NPZ with x: what the device sees", exists=True)] = None,
    evaluate: Annotated[Path | None, typer.Option(help="NPZ with x and y", exists=True)] = None,
    metric: Annotated[str | None, typer.Option(help="top1, mse, reconstruction, auc or agreement")] = None,
    tracking: Annotated[str, typer.Option(help="address of the registry; else MLFLOW_TRACKING_URI")] = "",
    component: Component = None,
    wait: Annotated[bool, typer.Option(help="wait for the builds and print their reports")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="seconds to wait")] = 600.0,
) -> None:
    """Register a version of an MLflow registry: its ONNX or TFLite file, run, metrics, parameters and dataset hash."""
    from tinyfleet_service.cli.mlflow_source import fetch_version

    settings: Context = context.obj
    name, version = split_reference(reference)
    client = settings.client()
    with tempfile.TemporaryDirectory(prefix="tinyfleet-mlflow-") as folder:
        found = fetch_version(source, Path(folder), tracking)
        pushed = client.push_model(
            name,
            version,
            found.model,
            calibration=calibration,
            evaluation=evaluate,
            metric=metric,
            lineage=found.lineage,
            component=component,
        )
    show_pushed(settings, client, pushed, reference, timeout_s if wait else None)


@app.command("list")
def list_models(context: typer.Context) -> None:
    """List models and their versions."""
    settings: Context = context.obj
    client = settings.client()
    rows = [
        {"name": f"{model['name']}:{version['version']}", "component": model["component"], **version}
        for model in client.models()
        for version in client.model(model["name"])["versions"]
    ]
    columns: list[Column] = [
        ("model", lambda row: row["name"]),
        ("bytes", lambda row: size(row["model_bytes"])),
        ("builds", lambda row: ", ".join(f"{b['device_class']} {b['state']}" for b in row.get("builds", []))),
        ("pushed", lambda row: moment(row["created_at"])),
    ]
    wide: list[Column] = [
        ("component", lambda row: row["component"]),
        ("sha256", lambda row: row["model_sha256"]),
        ("file", lambda row: row["file_name"]),
    ]
    empty = "no models yet: `fleetctl model push NAME:v1 FILE`"
    print_rows(settings, rows, columns, wide=wide, name=lambda row: row["name"], empty=empty)


@app.command("show")
def show_model(context: typer.Context, reference: Annotated[str, typer.Argument(help="NAME:VERSION")]) -> None:
    """Show one version, the report of each of its builds, and the bytes it takes to devices, by what they run."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    shown = settings.client().version(name, version)
    if not print_document(settings, shown, name=reference):
        console().print(f"[bold]{plain(reference)}[/]  sha256 {shown['model_sha256']}")
        _print_builds(settings, shown)
        if shown["transfers"]:
            console().print()
            rows = [[cell(value(row)) for _, value in TRANSFER_COLUMNS] for row in shown["transfers"]]
            console().print(make_table([title for title, _ in TRANSFER_COLUMNS], rows))


def show_pushed(
    settings: Context, client: Any, pushed: dict[str, Any], reference: str, timeout_s: float | None
) -> None:
    """Print a version that was registered; with `timeout_s` once its builds ended. A failed one makes the exit code."""
    if timeout_s is not None:
        pushed = _wait_for_builds(client, *split_reference(reference), timeout_s)
    if not print_document(settings, pushed, name=reference):
        console().print(f"[bold]{plain(reference)}[/] registered, sha256 {str(pushed['model_sha256'])[:12]}")
        _print_builds(settings, pushed)
    if any(build["state"] in ("failed", "misfit") for build in pushed["builds"]):
        raise typer.Exit(EXIT_ERROR)


def _wait_for_builds(client: Any, name: str, version: str, timeout_s: float) -> dict[str, Any]:
    until = time.monotonic() + timeout_s
    while True:
        shown: dict[str, Any] = client.version(name, version)
        if all(build["state"] in FINISHED for build in shown["builds"]):
            return shown
        if time.monotonic() > until:
            console(stderr=True).print(
                f"still building after {timeout_s:.0f} s; `fleetctl model show {name}:{version}`",
                markup=False,
            )
            raise typer.Exit(EXIT_TIMEOUT)
        time.sleep(0.3)


def _print_builds(settings: Context, version: dict[str, Any]) -> None:
    print_rows(
        settings,
        version["builds"],
        BUILD_COLUMNS,
        wide=WIDE_BUILD_COLUMNS,
        name=lambda build: str(build["id"]),
        empty="no builds",
    )
    for build in version["builds"]:
        if build.get("error"):
            console(stderr=True).print(f"{build['device_class']}: {build['error']}", markup=False)


def _accuracy(build: dict[str, Any], kind: str) -> float | None:
    accuracy: dict[str, float | None] = build["report"].get("accuracy") or {}
    return accuracy.get(kind)


def _latency(build: dict[str, Any]) -> str:
    estimate = build["report"].get("estimate") or {}
    latency = estimate.get("latency_ms")
    return "-" if latency is None else f"{latency:.2f} ms"


@app.command("alias")
def set_alias(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION")],
    alias: Annotated[str, typer.Argument(help="the name that is to mean it, e.g. champion")],
) -> None:
    """Let NAME@ALIAS mean this version, whatever it meant before."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    made = settings.client().set_alias(name, alias, version)
    if not print_document(settings, made, name=f"{name}@{alias}"):
        console().print(f"{plain(name)}@{plain(alias)} is {plain(name)}:{plain(version)}")


@app.command("gates")
def set_gates(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="a model, without a version")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="GATE=POLICY", help="as `rollout --gate`, e.g. accuracy=proxy; GATE- for the default"),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="forget what was set before")] = False,
) -> None:
    """Show what the gates are in rollouts of a model that do not ask otherwise, or change it.

    `rollout --gate` goes before it; rollouts under way keep what they began with.
    """
    settings: Context = context.obj
    client = settings.client()
    shown = client.model_gates(model)
    if clear or changes:
        shown = client.set_model_gates(model, change_gates({} if clear else shown["own"], changes or []))
    if not print_document(settings, shown, name=model):
        rows = [[gate, policy, shown["gates_from"][gate]] for gate, policy in shown["gates"].items()]
        console().print(make_table(["gate", "policy", "from"], rows))


@app.command("approve")
def approve_version(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION")],
    reject: Annotated[bool, typer.Option("--reject", help="say that it must not go out")] = False,
) -> None:
    """Approve a version for rollouts, or reject it; needs the approver's role."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    state = settings.client().set_approval(name, version, "rejected" if reject else "approved")
    if not print_document(settings, state, name=reference):
        console().print(f"{plain(reference)} is {state['approval']} by {plain(state['approved_by'])}")


@app.command("diff")
def diff_versions(
    context: typer.Context,
    old: Annotated[str, typer.Argument(help="NAME:VERSION or NAME@ALIAS")],
    new: Annotated[str, typer.Argument(help="another version of the same model")],
) -> None:
    """Show what one version would change against another: size, delta, accuracy, memory, layers."""
    settings: Context = context.obj
    name, version = split_reference(old)
    found = settings.client().diff_versions(name, version, split_reference(new)[1])
    print_rows(settings, found["classes"], DIFF_COLUMNS, name=lambda row: str(row["device_class"]), empty="no builds")


@app.command("retry")
def retry_build(context: typer.Context, build: Annotated[int, typer.Argument(help="its id (-o wide)")]) -> None:
    """Queue a build that failed, did not fit or was cancelled again."""
    settings: Context = context.obj
    _print_build(settings, settings.client().retry_build(build))


@app.command("cancel")
def cancel_build(context: typer.Context, build: Annotated[int, typer.Argument(help="its id (-o wide)")]) -> None:
    """Cancel a build that waits or runs."""
    settings: Context = context.obj
    _print_build(settings, settings.client().cancel_build(build))


def _print_build(settings: Context, build: dict[str, Any]) -> None:
    if not print_document(settings, build, name=str(build["id"])):
        console().print(f"build {build['id']} is {build['state']}")
