"""`fleetctl rollout NAME:VERSION --canary 5%`, and the verbs of a rollout under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from typer.core import TyperGroup

from tinyfleet_service.cli.ask import ask
from tinyfleet_service.cli.context import Context
from tinyfleet_service.cli.errors import EXIT_HELD, EXIT_OK, EXIT_ROLLED_BACK, EXIT_TIMEOUT
from tinyfleet_service.cli.gate_options import split_gates
from tinyfleet_service.cli.output import Column, console, moment, print_document, print_rows, size
from tinyfleet_service.cli.rollout_view import fit_rollout, print_decisions, print_plan, render_rollout, status_line
from tinyfleet_service.cli.spec_file import merge, read_spec
from tinyfleet_service.errors import InvalidInputError, UnavailableError
from tinyfleet_service.fleet import split_reference
from tinyfleet_service.words import reason_words

if TYPE_CHECKING:
    from tinyfleet_service.client import Client

FINAL = {"promoted": EXIT_OK, "rolled_back": EXIT_ROLLED_BACK, "aborted": EXIT_ROLLED_BACK}
WAITING_FOR_A_PERSON = {"held", "paused", "pending"}
LOOK_S = 0.5
PATIENCE_S = 30.0


class RolloutGroup(TyperGroup):
    """A first word that is no verb is a model reference: `rollout model:v3` means `rollout start model:v3`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Insert the implied verb; a slip of the pen in a verb is left to the answer that names it."""
        word = args[0] if args else "-"
        named = ":" in word or "@" in word
        if named or not (word.startswith("-") or get_close_matches(word, self.commands)):
            args = ["start", *args]
        return super().resolve_command(ctx, args)


rollout_app = typer.Typer(
    cls=RolloutGroup,
    no_args_is_help=True,
    help="Roll a model version out: `rollout NAME:VERSION --canary 5%`; then watch and steer it.",
)


def register(root: typer.Typer) -> None:
    """Add this module's commands."""
    root.add_typer(rollout_app, name="rollout")
    root.command("freeze")(freeze)
    root.command("thaw")(thaw)


RolloutId = Annotated[int | None, typer.Argument(help="rollout number; the newest when left out")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


@rollout_app.command("start")
def start(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="NAME:VERSION")],
    canary: Annotated[
        str | None, typer.Option(help="first share of the fleet, e.g. 10%, or a count (default 5%)")
    ] = None,
    waves: Annotated[str | None, typer.Option(help="cumulative shares after the canary, e.g. 25%,100%")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="GATE=required|advisory|off, or accuracy=proxy where no labels come; goes before `fleetctl model "
            "gates`; may be repeated"
        ),
    ] = None,
    spec_file: Annotated[
        Path | None,
        typer.Option(
            "--spec", exists=True, dir_okay=False, help="YAML or JSON with any field of the API; options go before it"
        ),
    ] = None,
    where: Annotated[str | None, typer.Option(help="selector of the devices, e.g. 'site=lyon'")] = None,
    margin: Annotated[float | None, typer.Option(help="accuracy the candidate may lose, a fraction")] = None,
    min_labels: Annotated[int | None, typer.Option(help="labelled inferences before accuracy may decide")] = None,
    disagreement: Annotated[
        float | None, typer.Option(help="with accuracy=proxy: share of answers that may differ in shadow, a fraction")
    ] = None,
    soak_s: Annotated[float | None, typer.Option("--soak", help="shortest time in a stage, seconds")] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline", help="a stage undecided for so many seconds is held for a person")
    ] = None,
    confirm_min_inferences: Annotated[
        int | None,
        typer.Option("--confirm-inferences", help="answers without a fault after which a device confirms the version"),
    ] = None,
    confirm_timeout_s: Annotated[
        int | None,
        typer.Option("--confirm-timeout", help="a device that has not confirmed after so many seconds goes back"),
    ] = None,
    skip_class: Annotated[list[str] | None, typer.Option(help="leave this device class out; may be repeated")] = None,
    on_harm: Annotated[
        str | None, typer.Option(help="class: undo only the class that was harmed; all: undo everything")
    ] = None,
    approval: Annotated[bool, typer.Option("--approval", help="wait until a second person approves")] = False,
    supersede: Annotated[
        bool, typer.Option("--supersede", help="abort rollouts under way on the same devices and take their place")
    ] = False,
    window: Annotated[
        str | None, typer.Option(help="begin updates in each device's local time only, e.g. 22:00-05:00")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="devices that update at the same time")] = None,
    max_bytes_per_hour: Annotated[int | None, typer.Option(help="bytes of transfers begun within an hour")] = None,
    start_spread_s: Annotated[
        int | None, typer.Option("--start-spread", help="devices of a stage start within so many seconds")
    ] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop")] = False,
    watch: Annotated[bool, typer.Option(help="follow the rollout to its end")] = False,
    timeout_s: Annotated[float | None, typer.Option("--timeout", help="stop watching after so many seconds")] = None,
) -> None:
    """Plan, show the plan, ask, start. The word `start` may be left out: `rollout model:v3 --canary 5%`."""
    settings: Context = context.obj
    name, version = split_reference(reference)
    asked: dict[str, Any] = {
        "model": name,
        "version": version,
        "canary": canary,
        "waves": waves,
        "gates": split_gates(gate or []),
        "where": where,
        "margin": margin,
        "min_labels": min_labels,
        "disagreement": disagreement,
        "soak_s": soak_s,
        "deadline_s": deadline_s,
        "confirm_min_inferences": confirm_min_inferences,
        "confirm_timeout_s": confirm_timeout_s,
        "on_harm": on_harm,
        "skip_class": skip_class or None,
        "approval": approval or None,
        "supersede": supersede or None,
        "window": window,
        "max_in_flight": max_in_flight,
        "max_bytes_per_hour": max_bytes_per_hour,
        "start_spread_s": start_spread_s,
    }
    asked = {key: value for key, value in asked.items() if value not in (None, {})}
    spec = merge(read_spec(spec_file), asked) if spec_file else asked
    client = settings.client()
    with console(stderr=True).status("planning, and making deltas that are not there yet"):
        plan = client.plan_rollout(spec)
    if dry_run:
        if not print_document(settings, plan, name=reference):
            print_plan(plan)
        return
    if not settings.wants_document:
        print_plan(plan)
    ask(yes, f"Roll {reference} out?", "add --yes to start, or --dry-run to look")
    view = client.start_rollout(spec)
    number = int(view["id"])
    if not watch:
        if not print_document(settings, view, name=str(number)):
            console().print(f"rollout {number} started; `fleetctl rollout status {number}` follows it")
        return
    verdict = follow(settings, number, timeout_s)
    if settings.wants_document:
        print_document(settings, client.rollout(number), name=str(number))
    raise typer.Exit(verdict)


@rollout_app.command("list")
def list_rollouts(context: typer.Context) -> None:
    """List rollouts, the newest first."""
    settings: Context = context.obj
    columns: list[Column] = [
        ("rollout", lambda row: row["id"]),
        ("version", lambda row: row["version"]),
        ("state", lambda row: row["state"]),
        ("stage", lambda row: row["stage"]),
        ("reason", lambda row: row["reason"]),
    ]
    wide: list[Column] = [
        ("devices", lambda row: row["devices"]),
        ("canaries", lambda row: row["canary_devices"]),
        ("sent", lambda row: size(row["bytes_sent"])),
        ("full", lambda row: size(row["bytes_full"])),
        ("by", lambda row: row["created_by"]),
        ("started", lambda row: moment(row["created_at"])),
    ]
    rows = settings.client().rollouts()
    print_rows(settings, rows, columns, wide=wide, name=lambda row: str(row["id"]), empty="no rollouts yet")


@rollout_app.command("status")
def status(
    context: typer.Context,
    rollout: RolloutId = None,
    watch: Annotated[bool, typer.Option(help="follow until it ends; --no-watch prints once")] = True,
    timeout_s: Annotated[float | None, typer.Option("--timeout", help="seconds to follow at most")] = None,
) -> None:
    """Follow a rollout; the exit code is the verdict: 0 promoted, 3 rolled back, 4 held or paused, 5 timeout.

    `--no-watch` and `-o json|yaml|name` look once; the exit code is 0 then while the rollout still runs.
    """
    settings: Context = context.obj
    number = _newest(settings, rollout)
    if watch and not settings.wants_document:
        raise typer.Exit(follow(settings, number, timeout_s))
    view = settings.client().rollout(number)
    if not print_document(settings, view, name=str(number)):
        console().print(render_rollout(view), soft_wrap=False)
    raise typer.Exit(EXIT_HELD if view["state"] in WAITING_FOR_A_PERSON else FINAL.get(view["state"], EXIT_OK))


@rollout_app.command("pause")
def pause(context: typer.Context, rollout: RolloutId = None) -> None:
    """Stop widening; devices already assigned finish."""
    _request(context.obj, rollout, "pause")


@rollout_app.command("resume")
def resume(context: typer.Context, rollout: RolloutId = None) -> None:
    """Go on after a pause or a hold."""
    _request(context.obj, rollout, "resume")


@rollout_app.command("promote")
def promote(context: typer.Context, rollout: RolloutId = None, yes: Yes = False) -> None:
    """Go to the next stage although a gate holds."""
    _request(context.obj, rollout, "promote", yes, "Go on with {} past the gates of this stage?")


@rollout_app.command("approve")
def approve(context: typer.Context, rollout: RolloutId = None) -> None:
    """Let a rollout begin that somebody else asked for with --approval."""
    _request(context.obj, rollout, "approve")


@rollout_app.command("retry")
def retry(context: typer.Context, rollout: RolloutId = None) -> None:
    """Give devices that rejected the version a fresh start."""
    _request(context.obj, rollout, "retry")


@rollout_app.command("abort")
def abort(context: typer.Context, rollout: RolloutId = None, yes: Yes = False) -> None:
    """Stop; devices that confirmed the version keep it, the others go back."""
    question = "Abort {}? Devices that confirmed the new version keep it; use `undo` to take it back from them too."
    _request(context.obj, rollout, "abort", yes, question)


@rollout_app.command("undo")
def undo(context: typer.Context, rollout: RolloutId = None, yes: Yes = False) -> None:
    """Take the version back from every device, to the one before."""
    _request(context.obj, rollout, "undo", yes, "Take back {} from every device?")


@rollout_app.command("history")
def history(context: typer.Context, rollout: RolloutId = None) -> None:
    """Everything that happened, in order."""
    settings: Context = context.obj
    columns: list[Column] = [
        ("at", lambda row: moment(row["at"])),
        ("what", lambda row: row["kind"]),
        ("device", lambda row: row.get("device_id")),
        ("detail", lambda row: _detail(row.get("detail") or {})),
    ]
    rows = settings.client().rollout_history(_newest(settings, rollout))
    print_rows(settings, rows, columns, name=lambda row: str(row["at"]), empty="nothing happened yet")


@rollout_app.command("explain")
def explain(
    context: typer.Context,
    rollout: RolloutId = None,
    numbers: Annotated[bool, typer.Option("--numbers", help="every look, with all that it rests on")] = False,
) -> None:
    """Every decision, recomputed from the stored snapshots; a number that differs is shown with both values.

    Some time after the end (TINYFLEET_SNAPSHOT_DAYS) the snapshots go and the decisions stay; it says so.
    """
    settings: Context = context.obj
    document = settings.client().explain_rollout(_newest(settings, rollout))
    if not print_document(settings, document, name=str(document["id"])):
        print_decisions(document, numbers=numbers)


def _detail(detail: dict[str, Any]) -> str:
    """What belongs to an event; a device's reason by its name, and none left out."""
    if isinstance(reason := detail.get("reason"), int):
        named = {"reason": words} if (words := reason_words(reason)) else {}
        detail = {key: value for key, value in detail.items() if key != "reason"} | named
    return ", ".join(f"{key} {value}" for key, value in detail.items())


def follow(settings: Context, number: int, timeout_s: float | None) -> int:
    """Redraw on a terminal, append a line per change elsewhere; the exit code is the verdict.

    Where a document is wanted on stdout, this goes to stderr.
    """
    screen = console(stderr=settings.wants_document)
    views = _views(settings.client(), number, timeout_s)
    view = _redraw(screen, views) if screen.is_terminal else _append(screen, views)
    return EXIT_HELD if view["state"] in WAITING_FOR_A_PERSON else FINAL.get(view["state"], EXIT_TIMEOUT)


def _views(client: Client, number: int, timeout_s: float | None) -> Iterator[dict[str, Any]]:
    """One look after the other, until the rollout waits for nobody but a person, or the time is over."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        yield (view := _patiently(lambda: client.rollout(number)))
        if view["state"] in FINAL.keys() | WAITING_FOR_A_PERSON or (until is not None and time.monotonic() > until):
            return
        time.sleep(LOOK_S)


def _redraw(screen: Console, views: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """What fits the screen while it goes on; the whole tree stays at the end, at Ctrl-C too."""
    screen.soft_wrap = False  # lines that are drawn anew are wrapped by us, or they would be cut
    view: dict[str, Any] = {}
    try:
        with Live(console=screen, auto_refresh=False, transient=True) as live:
            for view in views:
                live.update(fit_rollout(view, screen), refresh=True)
    finally:
        if view:
            screen.print(render_rollout(view))
    return view


def _append(screen: Console, views: Iterator[dict[str, Any]]) -> dict[str, Any]:
    last = ""
    for view in views:
        if not last:
            screen.print(f"rollout {view['id']} {view['version']}", markup=False)
        if (line := status_line(view)) != last:
            screen.print(line)
            last = line
    return view


def _patiently(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A service that restarts must not end the watching. Raises UnavailableError when it stays away."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return look()
        except UnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_S)


def _newest(settings: Context, rollout: int | None) -> int:
    if rollout is not None:
        return rollout
    rollouts = settings.client().rollouts()
    if not rollouts:
        raise InvalidInputError(
            "there is no rollout yet", next="start one: `fleetctl rollout NAME:VERSION --canary 5%`"
        )
    return max(int(row["id"]) for row in rollouts)


def _request(settings: Context, rollout: int | None, verb: str, yes: bool = True, question: str = "") -> None:
    """Ask for a verb; `question` names the rollout at `{}`: the newest may be another one than its asker thinks."""
    number, client = _newest(settings, rollout), settings.client()
    if not yes:
        ask(yes, question.format(f"rollout {number} ({client.rollout(number)['version']})"))
    view = client.rollout_verb(number, verb)
    if not print_document(settings, view, name=str(number)):
        console().print(f"rollout {number}: {verb} requested")


def freeze(context: typer.Context) -> None:
    """Stop every rollout from touching further devices; going back goes on."""
    _fleet(context.obj, "freeze", "the fleet is frozen; `fleetctl thaw` ends it")


def thaw(context: typer.Context) -> None:
    """End a freeze (needs the approver's role)."""
    _fleet(context.obj, "thaw", "rollouts go on")


def _fleet(settings: Context, verb: str, text: str) -> None:
    document = settings.client().fleet_verb(verb)
    if not print_document(settings, document, name=verb):
        console().print(text)
