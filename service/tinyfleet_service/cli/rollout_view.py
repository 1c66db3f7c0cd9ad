"""A rollout on a terminal: its plan before it starts, a tree while it runs, a line where nothing can be redrawn."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from tinyfleet_service.cli.output import console, make_table, percent, size

STATE_STYLE = {
    "running": "cyan",
    "promoted": "bold green",
    "rolled_back": "bold red",
    "aborted": "red",
    "held": "yellow",
    "paused": "yellow",
}
OUTCOME_STYLE = {"promote": "green", "hold": "yellow", "rollback": "bold red"}
STAGE_MARK = {"done": "[green]✓[/]", "current": "[cyan]▸[/]", "todo": "[dim]·[/]", "skipped": "[dim]–[/]"}


def print_plan(plan: dict[str, Any]) -> None:
    """The plan: devices, bytes, stages, gates, and what these devices can decide."""
    screen = console()
    screen.print(f"[bold]Plan for {plan['version']}[/]: {plan['devices']} devices, {plan['canary_devices']} canaries")
    rows = [
        [
            entry["device_class"],
            str(entry["devices"]),
            str(entry["canary_devices"]),
            size(entry["image_bytes"]),
            ", ".join(_transfer(transfer) for transfer in entry["transfers"]),
        ]
        for entry in plan["classes"]
    ]
    screen.print(make_table(["class", "devices", "canaries", "image", "travels as"], rows))
    for stage in plan["stages"]:
        what = f"skipped: {stage['skipped']}" if stage["skipped"] else _gates(plan, stage)
        screen.print(
            f"  {stage['key']:<9} {stage['devices']:>4} devices{' (holdout)' if stage['holdout'] else ''}  {what}"
        )
    screen.print(
        f"  margin {percent(plan['margin'])}, at least {plan['min_labels']} labels a device, soak {plan['soak_s']:g} s"
    )
    screen.print(f"  undo: {plan['undo']}")
    for row in plan["decidable"]:
        mark = "[green]can decide[/]" if row["can"] else "[yellow]cannot decide[/]"
        screen.print(f"  {row['stage']} {row['gate']} {mark}: {row['text']}")
    for warning in plan["warnings"]:
        screen.print(f"  [yellow]note[/] {warning}")


def render_rollout(view: dict[str, Any]) -> RenderableType:
    """The tree: rollout > stage > gate, with counts of devices."""
    tree = Tree(f"[bold]rollout {view['id']}[/] {view['version']}  {_state(view)}  {_members(view)}")
    for stage in view["stages"]:
        mark = STAGE_MARK[stage["status"]]
        if stage["status"] == "current" and view["state"] in ("rolled_back", "aborted"):
            mark = "[red]✗[/]"
        note = f"[dim]{stage['skipped']}[/]" if stage["skipped"] else f"{stage['devices']} devices"
        branch = tree.add(f"{mark} [bold]{stage['name']}[/]  {note}")
        for gate in stage["gates"]:
            branch.add(_gate_line(gate))
    parts: list[RenderableType] = [tree]
    if view["reason"]:
        parts.append(Text.from_markup(f"[bold]{view['reason']}[/]"))
    parts.append(_bytes_line(view))
    return Group(*parts)


def status_line(view: dict[str, Any]) -> str:
    """Where a rollout stands, in one line that changes when something worth reading has."""
    stage = next((s["name"] for s in view["stages"] if s["status"] == "current"), view["stage"])
    if view["state"] == "running":
        return f"{stage}: {_members(view)}"
    return f"{_state(view)} in {view['ended_stage']}: {view['reason']}\n{_bytes_line(view)}"


def print_decisions(document: dict[str, Any]) -> None:
    """Each decision with its numbers; consecutive looks of a gate with the same outcome are shown once."""
    screen = console()
    agreed = "agrees" if document["equal"] else "[bold red]DIFFERS[/]"
    screen.print(f"[bold]rollout {document['id']}[/] {document['version']}: {_state(document)}. {document['reason']}")
    screen.print(f"{len(document['decisions'])} decisions; recomputing them from the stored snapshots {agreed}")
    shown: dict[tuple[str, str, str], str] = {}
    for row in document["decisions"]:
        key = (row["stage"], row["gate"], row["scope"])
        if shown.get(key) == row["outcome"] and row is not document["decisions"][-1]:
            continue
        shown[key] = row["outcome"]
        policy = "required" if row["required"] else "advisory"
        where = f"{row['stage']:<9} look {row['look']:>3}"
        screen.print(f"  {where}  {row['gate']:<9} {policy:<9} {_outcome(row['outcome']):<8} {row['summary']}")


def _transfer(transfer: dict[str, Any]) -> str:
    how = {0: "full", 1: "delta"}.get(transfer.get("codec"), "full or delta")  # type: ignore[arg-type]
    return f"{transfer['devices']} x {how} {size(transfer['bytes'])}"


def _gates(plan: dict[str, Any], stage: dict[str, Any]) -> str:
    policies = {
        gate: "" if plan["gates"][gate] == "required" else f" ({plan['gates'][gate]})" for gate in stage["gates"]
    }
    return ", ".join(gate + policy for gate, policy in policies.items())


def _members(view: dict[str, Any]) -> str:
    return ", ".join(f"{count} {status}" for status, count in view["members"].items())


def _gate_line(gate: dict[str, Any]) -> str:
    policy = "" if gate["required"] else " [dim](advisory)[/]"
    return f"{gate['name']}{policy} {_outcome(gate['outcome'])} [dim]{gate['summary']}[/]"


def _state(view: dict[str, Any]) -> str:
    return f"[{STATE_STYLE.get(view['state'], 'bold')}]{view['state'].replace('_', ' ')}[/]"


def _outcome(outcome: str) -> str:
    return f"[{OUTCOME_STYLE.get(outcome, 'bold')}]{outcome}[/]"


def _bytes_line(view: dict[str, Any]) -> str:
    sent, full = view["bytes_sent"], view["bytes_full"]
    share = f" ({sent / full:.0%} of full images)" if full else ""
    parts = [f"{sent:,} B sent{share}"]
    if view.get("accuracy_device") is not None:
        parts.append(
            f"accuracy on devices {percent(view['accuracy_device'])}, on the server {percent(view['accuracy_server'])}"
        )
    if view["silent_devices"]:
        parts.append(f"{len(view['silent_devices'])} silent")
    return "; ".join(parts)
