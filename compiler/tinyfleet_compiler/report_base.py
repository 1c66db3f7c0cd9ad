"""What compiling against a base tried, bytes against accuracy, as data and as a section of the HTML report."""

import hashlib
from collections.abc import Callable
from html import escape
from typing import Any

from tinyfleet_compiler.base import base_weights
from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.image import Image
from tinyfleet_compiler.quantize.search import Trial
from tinyfleet_compiler.report_plots import Dot, dot_plot


def base_report(compiled: Compiled, base: Image, measure: Callable[[bytes], int] | None) -> dict[str, Any]:
    """The base, how many layers it lent, what was tried, and the patch's size where `measure` can tell it."""
    weighted = [op for op in compiled.ops if op.weights is not None]
    lent = base_weights(base, compiled.ops, compiled.graph.inputs)
    names = {op.output: op.name for op in weighted}
    notes = []
    if len(lent) < len(weighted):
        named = ", ".join(op.name for op in weighted if op.output not in lent)
        notes.append(f"the base has no layer of this place and shape for {named}: these travel whole")
    if not lent:
        notes.append("nothing of the base could be used; its model is another one")
    rows = [trial for trial in compiled.tried if trial.rounding_lsb > 0.5 or trial.own_scales or trial.chosen]
    plain = [trial for trial in compiled.tried if trial.rounding_lsb <= 0.5 and not trial.own_scales]
    if not any(trial in rows for trial in plain):
        # The nearest to float stands for all; it was listed last, with the gate's points.
        rows += sorted(plain, key=lambda trial: (trial.error, trial.gain_points is None))[:1]
    return {
        "name": base.name,
        "version": base.version,
        "image_sha256": hashlib.sha256(base.data).hexdigest(),
        "layers_lent": len(lent),
        "layers": len(weighted),
        "choices": [_choice(trial, names) for trial in sorted(rows, key=lambda t: (not t.own_scales, t.rounding_lsb))],
        "delta_bytes": None if measure is None else measure(compiled.data),
        "notes": notes,
    }


def _choice(trial: Trial, names: dict[str, str]) -> dict[str, Any]:
    return {
        "scales": "own" if trial.own_scales else "base",
        "rounding_beyond_nearest_lsb": trial.rounding_lsb - 0.5,
        "bias_correction": trial.bias_correction,
        "weighed": trial.weighed,
        "spared_layer": names.get(trial.spared),
        "weight_change_bytes_estimate": trial.delta_bytes,
        "improvement_kept": trial.kept,
        "gain_points": trial.gain_points,
        "agreement": trial.agreement,
        "chosen": trial.chosen,
    }


def render_base(report: dict[str, Any]) -> str:
    """The section; empty without a base."""
    found = report.get("base")
    if found is None:
        return ""
    name = escape(f"{found['name']}:{found['version']}")
    lent = f"which lends {found['layers_lent']} of {found['layers']} layers"
    lead = f"Compiled against {name} ({found['image_sha256'][:12]}&hellip;), {lent}."
    patch = "" if found["delta_bytes"] is None else f" The patch has <b>{found['delta_bytes']:,} B</b>."
    notes = "".join(f"<p>{escape(note[0].upper() + note[1:])}.</p>" for note in found["notes"])
    return f"<h2>Against a base</h2><p>{lead}{patch}</p>{notes}{_plots(found['choices'])}{_table(found['choices'])}"


def _plots(choices: list[dict[str, Any]]) -> str:
    """Bytes against what each choice keeps: agreement with float, the improvement, points of the metric."""
    wanted = (
        ("agreement", 100.0, "% agreement with float"),
        ("improvement_kept", 100.0, "% of the improvement kept"),
        ("gain_points", 1.0, "points better than the base"),
    )
    plots = [
        f"<figure>{dot_plot([_dot(choice, key, factor) for choice in choices], 'bytes of change', up)}</figure>"
        for key, factor, up in wanted
        if len(choices) > 1 and all(choice[key] is not None for choice in choices)
    ]
    return f"<div class='plots'>{''.join(plots)}</div>"


def _dot(choice: dict[str, Any], key: str, factor: float) -> Dot:
    label = f"{choice['scales']} scales, {choice['rounding_beyond_nearest_lsb']:g} LSB beyond nearest"
    return Dot(label, choice["weight_change_bytes_estimate"], factor * choice[key], choice["chosen"])


def _table(choices: list[dict[str, Any]]) -> str:
    if not choices:
        return ""
    names = (
        "",
        "scales",
        "rounding beyond nearest",
        "weight change (entropy)",
        "improvement kept",
        "gain over the base",
        "agreement",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    note = (
        "Improvement kept: share of the way from the base's outputs to the new float model's, on calibration samples "
        "held out; gain: points of the metric on evaluation data. The smallest change is taken that keeps nearly all "
        "of both. Weights on scales of their own have other grids: rounding them towards the base means nothing."
    )
    rows = "".join(_row(choice) for choice in choices)
    return f"<div class='scroll'><table><tr>{head}</tr>{rows}</table></div><div class='sub'>{note}</div>"


def _row(choice: dict[str, Any]) -> str:
    kept, gain, spared = choice["improvement_kept"], choice["gain_points"], choice["spared_layer"]
    cells = [
        "<b>taken</b>" if choice["chosen"] else "",
        "the base's" if choice["scales"] == "base" else "own",
        f"{choice['rounding_beyond_nearest_lsb']:g} LSB{', weighed' if choice['weighed'] else ''}"
        + (f", not {escape(spared)}" if spared else ""),
        f"{choice['weight_change_bytes_estimate']:,} B",
        "&ndash;" if kept is None else f"{100 * kept:.1f} %",
        "&ndash;" if gain is None else f"{gain:+.2f}",
        f"{100 * choice['agreement']:.1f} %",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
