"""The report's section on accuracy and error: bars per class, confusion, output error, noise layer by layer."""

from html import escape
from typing import Any

from tinyfleet_compiler.report_plots import COLOURS, MARKED, Column, column_plot, legend, picture

ROW, SPAN, CELL = 26, 330, 26
LETTER, MOST_LETTERS = 7.2, 14
"""Heights and widths in the picture's own units."""


def render_accuracy(report: dict[str, Any]) -> str:
    """The section; without evaluation data it says how to get one."""
    accuracy = report["accuracy"]
    plots = [
        _figure(_classes(accuracy), "Share right, class by class"),
        _figure(_confusion(accuracy), "Confusion on the device: rows true, columns answered"),
        _figure(_error(accuracy["error"]), _error_note(accuracy["error"])),
        _figure(_noise(report), "Signal to noise of each layer's output; red: the layers that add most noise"),
    ]
    shown = "".join(plots)
    hint = "" if accuracy["samples"] else "<p>No evaluation data: give labelled samples with --evaluate.</p>"
    return f"<h2>Accuracy and error</h2>{hint}<div class='plots'>{shown}</div>" if shown or hint else ""


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>" if plot else ""


def _classes(accuracy: dict[str, Any]) -> str:
    """Two bars a class: float and device."""
    rows = accuracy["classes"]
    if not rows:
        return ""
    left = _room(rows)
    keys = [key for key in ("float", "quantized") if rows[0][key] is not None or key == "quantized"]
    names = {"float": "float", "quantized": "device"}
    parts = [legend(left + 90 * at, COLOURS[at], names[key]) for at, key in enumerate(keys)]
    for index, row in enumerate(rows):
        y = 24 + index * ROW
        parts.append(_name(row["label"], left - 8, y + 16))
        parts += [_bar(row, key, (left, y + 3 + 10 * at), COLOURS[at]) for at, key in enumerate(keys)]
        last = row["quantized"]
        parts.append(
            f"<text x='{left + SPAN + 8}' y='{y + 16}'>{'-' if last is None else f'{100 * last:.1f} %'}</text>"
        )
    return picture("".join(parts), "share right by class", left + SPAN + 66, 30 + len(rows) * ROW)


def _bar(row: dict[str, Any], key: str, place: tuple[int, int], colour: str) -> str:
    value = row[key] or 0.0
    tip = f"{row['label']}, {key}: {100 * value:.2f} % of {row['samples']}"
    return (
        f"<rect x='{place[0]}' y='{place[1]}' width='{max(SPAN * value, 1):.1f}' height='9' rx='1' fill='{colour}'>"
        f"<title>{escape(tip)}</title></rect>"
    )


def _confusion(accuracy: dict[str, Any]) -> str:
    if not accuracy["confusion"]:
        return ""
    table, labels = accuracy["confusion"]["quantized"], [row["label"] for row in accuracy["classes"]]
    left, size = _room(accuracy["classes"]), CELL * len(labels)
    parts = []
    for y, (row, label) in enumerate(zip(table, labels, strict=True)):
        parts.append(_name(label, left - 8, y * CELL + 18))
        tips = [f"{label} answered as {other}" for other in labels]
        parts += [_cell((left + x * CELL, y * CELL), x == y, row, x, tips[x]) for x in range(len(row))]
    for x, label in enumerate(labels):
        across, down = left + x * CELL + 17, size + 12
        parts.append(f"<g transform='rotate(-60 {across} {down})'>{_name(label, across, down)}</g>")
    # A few classes would else fill the whole width.
    return picture("".join(parts), "confusion matrix", max(left + size + 8, 340), size + left + 4)


def _cell(place: tuple[int, int], right: bool, row: list[int], column: int, tip: str) -> str:
    count = row[column]
    shade = 0.06 if not count else 0.2 + 0.7 * count / sum(row)
    box = f"x='{place[0]}' y='{place[1]}' width='{CELL - 1}' height='{CELL - 1}'"
    text = f"<text x='{place[0] + 12.5}' y='{place[1] + 17}' text-anchor='middle'>{count}</text>" if count else ""
    colour = COLOURS[0] if right else MARKED
    return f"<g><rect {box} fill='{colour}' fill-opacity='{shade:.2f}'/>{text}<title>{escape(tip)}: {count}</title></g>"


def _name(label: str, x: float, y: float) -> str:
    return f"<text x='{x}' y='{y}' text-anchor='end'>{escape(_short(label))}</text>"


def _room(rows: list[dict[str, Any]]) -> int:
    """For the longest label."""
    return 14 + int(LETTER * max(len(_short(row["label"])) for row in rows))


def _error(error: dict[str, Any] | None) -> str:
    if error is None:
        return ""
    most = error["steps"][-1]
    columns = [
        Column(f"{step:+d} steps{' or more' if abs(step) == most else ''}, per cent", 100 * share, abs(step) == most)
        for step, share in zip(error["steps"], error["shares"], strict=True)
    ]
    return column_plot(columns, "device less float, in steps of the output", "% of values", first=-most)


def _error_note(error: dict[str, Any] | None) -> str:
    if error is None:
        return ""
    return (
        f"Error of the output: {error['rms_steps']:.2f} steps root mean square, {error['largest_steps']:.1f} at most; "
        f"a step is {error['step']:.4g}"
    )


def _noise(report: dict[str, Any]) -> str:
    costly = set(report["quantization"]["costliest_layers"])
    rows = [(i, r) for i, r in enumerate(report["layers"])]
    if all(row["signal_to_noise_db"] is None for _, row in rows):
        return ""
    columns = [
        Column(f"{i} {row['name']}, dB", row["signal_to_noise_db"] or 0.0, row["name"] in costly) for i, row in rows
    ]
    return column_plot(columns, "layer, as numbered below", "dB")


def _short(label: str) -> str:
    return label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}\u2026"
