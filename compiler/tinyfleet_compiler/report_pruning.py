"""What pruning cost and saved, as data and as a section of the HTML report."""

from html import escape
from typing import Any

import numpy as np

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.operators import Element
from tinyfleet_compiler.prune.prune_graph import Pruning
from tinyfleet_compiler.report_plots import line_plot

_TRANSFER_ONLY = (
    "pruning single weights saves transfer bytes only: the image holds their zeros as bytes, so flash, arena and "
    "instructions stay as they are"
)
_IN_PART = (
    "at small amounts the cut alone answered better than the repaired model, which is faithful to the original: there "
    "the part of the repair was taken that loses fewest points, by the same samples that the budget is judged on"
)
_NO_STEP = "no amount tried stays within the accuracy budget: nothing was pruned; give a larger budget"


def pruning_report(pruning: Pruning, before: Compiled, after: Compiled, base: Image | None) -> dict[str, Any]:
    """Curves, what was saved (`[before, after]` each), notes; `before` is a trial compile of the unpruned model."""
    options = pruning.options
    notes = [_TRANSFER_ONLY] if options.weights is not None else []
    for steps in (pruning.channels, pruning.weights):
        notes += [_NO_STEP] if steps and not any(step.chosen for step in steps) else []
    if any(step.repair_strength < 1.0 for step in (*pruning.channels, *pruning.weights)):
        notes.append(_IN_PART)
    return {
        "asked": {"channels": options.channels, "weights": options.weights, "budget_points": options.budget},
        "judged_on": pruning.judged_on,
        "samples": pruning.samples,
        "metric": pruning.metric,
        "float": pruning.float_value,
        "channels": [step.to_json() for step in pruning.channels],
        "weights": [step.to_json() for step in pruning.weights],
        "layers": [{"name": name, "channels": [old, new]} for name, old, new in pruning.layers],
        "zero_weights": list(pruning.zeros),
        "saved": {
            "image_bytes": [len(before.data), len(after.data)],
            "arena_bytes": [before.plan.arena_bytes, after.plan.arena_bytes],
            "macs": [sum(op.macs for op in compiled.ops) for compiled in (before, after)],
            "transfer_bytes_estimate": [weight_entropy_bytes(c.ops, base) for c in (before, after)],
        },
        "transfer_of": "weights, entropy-coded"
        if base is None
        else "change of the weights from the base, entropy-coded",
        "notes": notes,
    }


def weight_entropy_bytes(ops: tuple[Op, ...], base: Image | None = None) -> int:
    """Order-0 entropy of the weights, layer by layer; of their change where the base's layer is shaped alike."""
    bits = 0.0
    for index, op in enumerate(ops):
        if op.weights is None:
            continue
        rows = op.weights.rows.astype(np.int64)
        old = None if base is None else _base_rows(base, index, rows.shape)
        _, counts = np.unique(rows if old is None else rows - old, return_counts=True)
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return int(np.ceil(bits / 8.0))


def render_pruning(report: dict[str, Any]) -> str:
    """The section; empty where nothing was to be pruned."""
    found = report.get("pruning")
    if found is None:
        return ""
    data = f"{found['samples']} samples ({found['judged_on']})"
    head = f"judged by {found['metric']} on {data}; float before: {found['float']:.4g}"
    budget = found["asked"]["budget_points"]
    limit = "no accuracy budget" if budget is None else f"budget {budget:g} points"
    parts = [f"<h2>Pruning</h2><p>{escape(head)}; {limit}.</p>", _saved(found)]
    parts += [f"<p>{escape(note[0].upper() + note[1:])}.</p>" for note in found["notes"]]
    for what, unit in (("channels", "MACs gone"), ("weights", "weights zero")):
        if found[what]:
            parts += [f"<h3>{what.capitalize()}</h3>", _plot(found, what, unit), _steps(found, what, unit)]
    return "".join(parts) + _layers(found)


def _saved(found: dict[str, Any]) -> str:
    lines = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{old:,}</td><td>{new:,}</td>"
        f"<td>{100 * (new / max(old, 1) - 1):+.1f} %</td></tr>"
        for name, (old, new) in found["saved"].items()
    )
    head = "<tr><th></th><th>before</th><th>after</th><th></th></tr>"
    note = f"transfer: {found['transfer_of']} (an estimate)"
    return f"<div class='scroll'><table>{head}{lines}</table></div><div class='sub'>{escape(note)}</div>"


def _plot(found: dict[str, Any], what: str, unit: str) -> str:
    """The metric and the output error over what is gone, with and without repair."""
    plots = ""
    for figure, up in (("value", found["metric"]), ("error", "output error")):
        lines = {
            name: [(100 * step["share"], step[key][figure]) for step in found[what]]
            for name, key in (("repaired", "with_repair"), ("cut only", "without_repair"))
        }
        plots += f"<figure>{line_plot(lines, f'% of {unit}', up)}</figure>"
    return f"<div class='plots'>{plots}</div>"


def _steps(found: dict[str, Any], what: str, unit: str) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "",
            unit,
            "MACs",
            "cut only",
            "repaired",
            "repair taken",
            "points lost",
            "output error, cut only",
            "output error, repaired",
        )
    )
    rows = ""
    for step in found[what]:
        cut, repaired = step["without_repair"], step["with_repair"]
        cells = ["<b>taken</b>" if step["chosen"] else "", f"{100 * step['share']:.1f} %", f"{step['macs']:,}"]
        cells += [f"{cut['value']:.4g}", f"{repaired['value']:.4g}"]
        cells += [f"{100 * step['repair_strength']:.0f} %", f"{repaired['lost_points']:z.2f}"]
        cells += [f"{cut['error']:.4f}", f"{repaired['error']:.4f}"]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<div class='scroll'><table><tr>{head}</tr>{rows}</table></div>"


def _layers(found: dict[str, Any]) -> str:
    names = ", ".join(
        f"{escape(row['name'])} {row['channels'][0]} &rarr; {row['channels'][1]}" for row in found["layers"]
    )
    return f"<p class='sub'>Output channels: {names}.</p>" if names else ""


def _base_rows(base: Image, index: int, shape: tuple[int, ...]) -> np.ndarray | None:
    if index >= len(base.ops):
        return None
    section = next((s for s in base.sections if s.offset == base.ops[index].weights), None)
    if section is None or (section.rows, section.row_length) != shape:
        return None
    return base.array(section.offset, shape[0] * shape[1], Element.INT8).reshape(shape).astype(np.int64)
