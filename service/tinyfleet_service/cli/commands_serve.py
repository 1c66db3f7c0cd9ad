"""`fleetctl serve` and `fleetctl demo`."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet_service.cli.context import Context
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.settings import load_settings

DEMO_MARK = "tinyfleet-demo"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("serve")(serve)
    app.command("demo")(demo)


def serve(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(envvar="TINYFLEET_DATA", help="data directory")] = None,
    http_port: Annotated[int | None, typer.Option(help="API and dashboard; 0 = a free port")] = None,
    broker_port: Annotated[int | None, typer.Option(help="MQTT over TLS; 0 = a free port")] = None,
    est_port: Annotated[int | None, typer.Option(help="EST enrolment; 0 = a free port")] = None,
    only: Annotated[
        str | None, typer.Option(help="run one process alone: api, est, controller, ingest, builder or webhooks")
    ] = None,
) -> None:
    """Start the service and keep it running: broker, API, enrolment, controller, ingest, builder, webhooks."""
    from tinyfleet_service import serve as server

    settings: Context = context.obj
    overrides = {"http_port": http_port, "broker_port": broker_port, "est_port": est_port}
    loaded = load_settings(data or settings.data, **overrides)
    if only is None:
        server.run(loaded)
    elif only in server.NAMES:
        server.run_process(only, loaded)
    else:
        raise InvalidInputError(f"no process {only}", next=f"one of {', '.join(server.NAMES)}")


def demo(
    summary: Annotated[Path | None, typer.Option(help="write the summary as JSON")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running until Ctrl-C")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="where the demo keeps its data; replaced at each run")] = Path(
        "demo-run"
    ),
) -> None:
    """Tell the product's story on this machine: a service, 60 device agents, three versions, four rollouts."""
    from tinyfleet_service.cli.demo.story import Demo
    from tinyfleet_service.cli.demo.summary import print_summary

    _take_folder(folder)
    story = Demo(folder.absolute())
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    try:
        result = story.run()
        story.chapter("The end")
        print_summary(story.screen, result)
        story.note(story.dashboard_hint())
        if summary is not None:
            written = summary.with_suffix(".new")
            written.write_text(json.dumps(result.to_json(), indent=2) + "\n")
            written.replace(summary)
        if keep:
            story.note("still running; Ctrl-C ends it")
            while True:
                time.sleep(1)
        story.note("everything ends now; `make demo KEEP=1` leaves it running")
    except KeyboardInterrupt:
        story.note("stopping")
    finally:
        story.stop()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _take_folder(folder: Path) -> None:
    """Empty a folder of an earlier demo; refuse any other that is not empty."""
    mark = folder / DEMO_MARK
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise InvalidInputError(f"{folder} is not empty and no demo made it", next="choose another with --dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("made by `fleetctl demo`, which replaces this folder at each run\n")
