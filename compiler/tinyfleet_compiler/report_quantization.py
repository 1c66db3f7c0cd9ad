"""What quantisation was tried and which layers cost most, as data and as a section of the HTML report."""

from dataclasses import asdict
from html import escape
from typing import Any

from tinyfleet_compiler.compile_graph import Compiled

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
    }


def render_quantization(report: dict[str, Any]) -> str:
    """The section; empty for a model that came quantised."""
    found = report["quantization"]
    if not found["tried"] and not found["costliest_layers"]:
        return ""
    named = ", ".join(escape(name) for name in found["costliest_layers"])
    layers = f"<p>Most noise is added by: {named} (signal/noise per layer stands in the table of layers).</p>"
    return f"<h2>Quantisation</h2>{layers if named else ''}{_tried(found['tried'])}"


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
