"""A rollout on a terminal: its plan before it starts, a tree while it runs, a line where nothing can be redrawn."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from tinyfleet_service.cli.output import console, make_table, percent, plain, size, visible, wrap
from tinyfleet_service.words import quantity

STATE_STYLE = {
    "running": "cyan",
    "promoted": "bold green",
    "rolled_back": "bold red",
    "aborted": "red",
    "held": "yellow",
    "paused": "yellow",
}
SAID = ("summary", "outcome", "rules")
"""Numbers of a decision that its line, or the document, has said already."""
OUTCOME_STYLE = {"promote": "green", "hold": "yellow", "rollback": "bold red"}
STAGE_MARK = {"done": "[green]✓[/]", "current": "[cyan]▸[/]", "todo": "[dim]·[/]", "skipped": "[dim]–[/]"}


def print_plan(plan: dict[str, Any]) -> None:
    """The plan: devices, bytes, one line per stage, then what these devices can and cannot decide."""
    screen = console()
    screen.print(
        f"[bold]Plan for {plain(plan['version'])}[/]: {quantity(plan['devices'], 'device')}, "
        f"{quantity(plan['canary_devices'], 'canary', 'canaries')}, "
        f"{size(plan['bytes_expected'])} of {size(plan['bytes_full'])}\n"
    )
    screen.print(make_table(["class", "devices", "canaries", "image", "travels as"], _class_rows(plan)))
    screen.print()
    screen.print(make_table(["stage", "devices", "gates"], [_stage_row(plan, stage) for stage in plan["stages"]]))
    screen.print(
        f"\nmargin {percent(plan['margin'])}, at least {plan['min_labels']} labels a device, "
        f"soak {plan['soak_s']:g} s a stage, undecided after {plan['deadline_s']:g} s: held"
    )
    if said := _gates_said(plan):
        screen.print(f"gates: {plain(said)}")
    if plan.get("limits"):
        screen.print(
            "limits: " + ", ".join(f"{name.replace('_', ' ')} {plain(v)}" for name, v in plan["limits"].items())
        )
    for row in plan["decidable"]:
        mark, style = ("can decide", "green") if row["can"] else ("CANNOT DECIDE", "yellow")
        _print_note(f"{mark}: {row['gate']} in {stage_name(row['stage'])}:", row["text"], style, len(mark))
    _print_note("undo:", plan["undo"], "bold", len("undo"))
    for warning in plan["warnings"]:
        _print_note("note:", warning, "yellow", len("note"))


def fit_rollout(view: dict[str, Any], screen: Console) -> RenderableType:
    """The tree with what a screen has lines for: gates of stages that were passed go first, then the gates' numbers."""
    for left_out in ({}, {"passed": False}, {"passed": False, "summaries": False}):
        tree = render_rollout(view, **left_out)
        if len(screen.render_lines(tree, pad=False)) < screen.height:
            break
    return tree


def render_rollout(view: dict[str, Any], *, passed: bool = True, summaries: bool = True) -> RenderableType:
    """The tree: rollout > stage > gate, with counts of devices."""
    tree = Tree(f"[bold]rollout {view['id']}[/] {plain(view['version'])}  {_state(view)}  {_members(view)}")
    for stage in view["stages"]:
        mark = STAGE_MARK[stage["status"]]
        if stage["status"] == "current" and view["state"] in ("rolled_back", "aborted"):
            mark = "[red]✗[/]"
        note = f"[dim]{plain(stage['skipped'])}[/]" if stage["skipped"] else quantity(stage["devices"], "device")
        branch = tree.add(f"{mark} [bold]{stage['name']}[/]  {note}")
        for gate in stage["gates"] if passed or stage["status"] == "current" else ():
            branch.add(_gate_line(gate, gate["summary"] if summaries else ""))
    parts: list[RenderableType] = [tree]
    if view["reason"]:
        parts.append(Text(visible(view["reason"]), style="bold"))
    parts.append(_bytes_line(view))
    return Group(*parts)


def status_line(view: dict[str, Any]) -> str:
    """Where a rollout stands, in one line that changes when something worth reading has."""
    stage = next((s["name"] for s in view["stages"] if s["status"] == "current"), view["stage"])
    if view["state"] == "running":
        return f"{stage}: {_members(view)}"
    return f"{_state(view)} in {view['ended_stage']}: {plain(view['reason'])}\n{_bytes_line(view)}"


def print_decisions(document: dict[str, Any], *, numbers: bool = False) -> None:
    """Each decision; consecutive looks of a gate with the same outcome are shown once.

    With `numbers` every look is shown, each with what it rests on, and a number that recomputes to something else with
    both values. Once the counters are removed, the numbers are those that were stored.
    """
    screen = console()
    end = ". ".join(filter(None, (_state(document), plain(document["reason"]))))
    screen.print(f"[bold]rollout {document['id']}[/] {plain(document['version'])}: {end}")
    screen.print(f"{quantity(len(document['decisions']), 'decision')}; {_recomputed(document)}")
    rows = document["decisions"]
    if not numbers:
        rows = [row for row in rows if row["turned"] or row["equal"] is False or row is rows[-1]]
    width = max((len(gate_name(row)) for row in rows), default=0)
    for row in rows:
        policy = "required" if row["required"] else "advisory"
        where = f"{stage_name(row['stage']):<7} look {row['look']:>3}  {gate_name(row):<{width}}"
        screen.print(f"  {where} {policy:<9} {_outcome(row['outcome'], 8)} {plain(row['summary'])}")
        if numbers or row["equal"] is False:
            _print_numbers(row)


def _recomputed(document: dict[str, Any]) -> str:
    if removed_at := document["counters_removed_at"]:
        return (
            f"as they were stored: the counters behind them were removed on {removed_at[:10]} (TINYFLEET_SNAPSHOT_DAYS)"
        )
    earlier, these = document["earlier_rules"], "them"
    if earlier == len(document["decisions"]) > 0:
        return "as they were stored: an earlier tinyfleet decided, by rules of its own"
    if earlier:
        these = f"all but {earlier}, by rules of an earlier tinyfleet,"
    agreed = "agrees" if document["equal"] else "[bold red]DIFFERS[/] (rows were changed since)"
    return f"recomputing {these} from the stored snapshots {agreed}"


def _print_numbers(row: dict[str, Any]) -> None:
    """What a decision rests on, in small print below it; numbers that differ when recomputed in red."""
    stored = row["numbers"]
    again = stored if row["equal"] is None else row["recomputed"] or {}
    same = [f"{n.replace('_', ' ')} {_number(v)}" for n, v in stored.items() if again.get(n) == v and n not in SAID]
    if same:
        console().print(Text(wrap(", ".join(same), " " * 12), style="dim"))
    for name in sorted(n for n in stored if stored[n] != again.get(n) and n not in SAID):
        text = f"{name}: stored {_number(stored[name])}, recomputed {_number(again.get(name))}"
        console().print(Text(wrap(text, " " * 12), style="bold red"))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def gate_name(row: dict[str, Any]) -> str:
    """A gate as people read it, with the class it is about."""
    return str(row["gate"]) if row["scope"] == "all" else f"{row['gate']} ({row['scope']})"


def stage_name(key: str) -> str:
    """`waves/2` as people read it."""
    return key.replace("waves/", "wave ")


def _class_rows(plan: dict[str, Any]) -> list[list[str]]:
    return [
        [
            entry["device_class"],
            str(entry["devices"]),
            str(entry["canary_devices"]),
            size(entry["image_bytes"]),
            ", ".join(_transfer(transfer) for transfer in entry["transfers"]),
        ]
        for entry in plan["classes"]
    ]


def _transfer(transfer: dict[str, Any]) -> str:
    how = transfer.get("form") or "full or delta"
    others = [f"{form} {size(count)}" for form, count in transfer.get("choices", {}).items() if form != how]
    note = f" ({', '.join(others)})" if others else ""
    return f"{transfer['devices']} x {how} {size(transfer['bytes'])}{note}"


def _stage_row(plan: dict[str, Any], stage: dict[str, Any]) -> list[str]:
    name = stage_name(stage["key"]) + (" (holdout)" if stage["holdout"] else "")
    return [name, str(stage["devices"]), f"skipped: {stage['skipped']}" if stage["skipped"] else _gates(plan, stage)]


def _print_note(label: str, text: str, style: str, styled: int) -> None:
    line = Text(wrap(text, "    ", f"{label} "))
    line.stylize(style, 0, styled)
    console().print(line)


def _gates(plan: dict[str, Any], stage: dict[str, Any]) -> str:
    policies = {
        gate: "" if plan["gates"][gate] == "required" else f" ({plan['gates'][gate]})" for gate in stage["gates"]
    }
    return ", ".join(gate + policy for gate, policy in policies.items())


def _gates_said(plan: dict[str, Any]) -> str:
    """Policies that are no defaults, and who said so."""
    who = {"rollout": "asked for", "model": "the model's own"}
    said = [(gate, policy, plan["gates_from"][gate]) for gate, policy in plan["gates"].items()]
    return ", ".join(f"{gate}={policy} ({who[by]})" for gate, policy, by in said if by in who)


def _members(view: dict[str, Any]) -> str:
    return ", ".join(f"{count} {status}" for status, count in view["members"].items())


def _gate_line(gate: dict[str, Any], summary: str) -> str:
    policy = "" if gate["required"] else " [dim](advisory)[/]"
    return f"{gate['name']}{policy} {_outcome(gate['outcome'])} [dim]{plain(summary)}[/]"


def _state(view: dict[str, Any]) -> str:
    return f"[{STATE_STYLE.get(view['state'], 'bold')}]{view['state'].replace('_', ' ')}[/]"


def _outcome(outcome: str, width: int = 0) -> str:
    return f"[{OUTCOME_STYLE.get(outcome, 'bold')}]{outcome:<{width}}[/]"


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
