"""What quantisation was tried and which layers cost most, as data and as a section of the HTML report."""

from dataclasses import asdict
from html import escape
from typing import Any

from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.report_plots import Dot, dot_plot, short_name

COSTLIEST = 3


def quantization_report(compiled: Compiled, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """`tried` choices, `costliest_layers` by name, worst first; adds `noise_added` to each of `layers`, in op order.

    `noise_added` is the share of noise in the signal (1 = as strong) that a layer has beyond its noisiest input.
    """
    noise: dict[str, float] = {}
    for op, row in zip(compiled.ops, layers, strict=True):
        decibel = row["signal_to_noise_db"]
        row["noise_added"] = None
        if decibel is not None:
            noise[op.output] = 10.0 ** (-decibel / 10.0)
            before = max((noise.get(name, 0.0) for name in op.inputs), default=0.0)
            row["noise_added"] = max(0.0, noise[op.output] - before)
    ranked = sorted((r for r in layers if r["noise_added"]), key=lambda r: -r["noise_added"])
    return {
        "tried": [asdict(trial) for trial in compiled.tried],
        "costliest_layers": [row["name"] for row in ranked[:COSTLIEST]],
        "costliest_by": "noise_added: noise beyond that of the noisiest input, on calibration samples",
        "search": compiled.search.to_json() if compiled.search else None,
    }


def render_quantization(report: dict[str, Any]) -> str:
    """The section; empty for a model that came quantised."""
    found = report["quantization"]
    if not found["tried"] and not found["costliest_layers"]:
        return ""
    named = ", ".join(escape(short_name(name)) for name in found["costliest_layers"])
    layers = f"<p>Most noise is added by: {named} (their numbers stand in the table of layers).</p>"
    return f"<h2>Quantisation</h2>{layers if named else ''}{_tried(found['tried'])}{_search(found['search'])}"


def _search(found: dict[str, Any] | None) -> str:
    """The table of a search over types."""
    if found is None:
        return ""
    metric = found["metric"] if found["metric"] != "agreement" else "metric"
    names = ("", "change", "image", "arena", "error against float", "agreement", metric, "points lost")
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(_step(step) for step in found["steps"])
    missed = [name for name, met in found["met"].items() if not met]
    note = f"Float: {found['float_value']:.4f}. Judged on {escape(found['judged_on'])}. "
    note += f"{found['seconds']:.0f} of {found['budgets']['seconds']:.0f} CPU seconds. "
    note += f"Not reached: {', '.join(missed)}." if missed else "Every budget is kept."
    table = f"<table><tr>{head}</tr>{rows}</table>"
    return f"<h3>Search</h3>{_search_plot(found)}<div class='scroll'>{table}</div><div class='sub'>{note}</div>"


def _search_plot(found: dict[str, Any]) -> str:
    """Bytes against the metric, and against the error, which tells more where the metric stays as it was."""
    plots = ""
    for key, up in (("value", found["metric"]), ("error", "error against float")):
        dots = [Dot(step["change"], step["image_bytes"], step[key], step["kept"]) for step in found["steps"]]
        plots += f"<figure>{dot_plot(dots, 'bytes of the image', up)}</figure>"
    return f"<div class='plots'>{plots}</div>"


def _step(step: dict[str, Any]) -> str:
    cells = (
        "<b>chosen</b>" if step["kept"] else "",
        escape(step["change"]),
        f"{step['image_bytes']:,} B",
        f"{step['arena_bytes']:,} B",
        f"{step['error']:.5f}",
        f"{100 * step['agreement']:.1f} %",
        f"{step['value']:.4f}",
        f"{step['lost_points']:z.2f}",
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _tried(trials: list[dict[str, Any]]) -> str:
    if not trials:
        return ""
    with_base = trials[0]["delta_bytes"] is not None
    names = ["", "range estimator", "bias correction", "rounding within", "error against float", "agreement"]
    names += ["weight change (entropy)", "improvement kept"] if with_base else []
    head = "".join(f"<th>{name}</th>" for name in names)
    note = "Judged on calibration samples that were held out from fitting."
    table = f"<table><tr>{head}</tr>{''.join(_row(t, with_base) for t in trials)}</table>"
    return f"<div class='scroll'>{table}</div><div class='sub'>{note}</div>"


def _row(trial: dict[str, Any], with_base: bool) -> str:
    cells = [
        "<b>chosen</b>" if trial["chosen"] else "",
        escape(trial["estimator"]),
        "yes" if trial["bias_correction"] else "no",
        f"{trial['rounding_lsb']:g} LSB",
        f"{trial['error']:.5f}",
        f"{100 * trial['agreement']:.1f} %",
    ]
    if with_base:
        kept = trial["kept"]
        cells += [f"{trial['delta_bytes']:,} B", "&ndash;" if kept is None else f"{100 * kept:.1f} %"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
