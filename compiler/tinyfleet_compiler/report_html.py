"""report.html: the report as one self-contained page, no script, no network."""

from html import escape
from typing import Any

from tinyfleet_compiler.report_accuracy_html import render_accuracy
from tinyfleet_compiler.report_base import render_base
from tinyfleet_compiler.report_memory import render_memory
from tinyfleet_compiler.report_plots import short_name
from tinyfleet_compiler.report_pruning import render_pruning
from tinyfleet_compiler.report_quantization import render_quantization

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--good:#1a7f37;--bad:#c0392b;--bar:#3b6fd4;--other:#c77700;
  --page:#fff}
@media(prefers-color-scheme:dark){:root{--good:#4ac26b;--bad:#ff7b72;--bar:#79a8ff;--other:#ffb454;--page:#121212}}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;background:var(--page);
  overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.sub{opacity:.75}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(max(9rem,22%),1fr));
  gap:.75rem;margin:1.25rem 0}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem}
.card b{display:block;font-size:1.25rem}.good{color:var(--good)}.bad{color:var(--bad)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;overflow-wrap:normal}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{white-space:normal;vertical-align:bottom}td.text{max-width:20rem;overflow:hidden;text-overflow:ellipsis}
th:first-child,td:first-child,th.text,td.text{text-align:left}
.bar{background:var(--bar);height:.6rem;border-radius:.2rem;min-width:1px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));gap:1rem;align-items:start}
figure{margin:0 0 .75rem}figcaption{opacity:.75;font-size:.85rem}
svg{width:100%;height:auto;border:1px solid var(--line);border-radius:.5rem;box-sizing:border-box}
figure>svg{max-width:36rem}.map svg{min-width:44rem}
svg text{font:12px system-ui,sans-serif;fill:currentColor}svg .axis{opacity:.75}
@media(max-width:40rem){figure svg text{font-size:15px}}
""".strip()


def render_report(report: dict[str, Any]) -> str:
    """The whole page."""
    model = report["model"]
    title = f"{model['name']}:{model['version']} on {report['device_class']}"
    body = "".join(
        (
            _cards(report),
            _fit(report),
            _tensors(report),
            render_pruning(report),
            render_base(report),
            render_accuracy(report),
            render_quantization(report),
            _layers(report),
            _profile(report),
            render_memory(report),
            _sections(report),
        )
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><div class="sub">{escape(model["file"])} &middot; '
        f"SHA-256 {model['sha256'][:16]}&hellip;</div>{body}</body></html>\n"
    )


def _cards(report: dict[str, Any]) -> str:
    accuracy, cost = report["accuracy"], report["estimate"]
    metric = accuracy["metric"] or "accuracy"
    cards = [
        (f"{metric}, device", _fraction(accuracy["quantized"], metric)),
        (f"{metric}, float", _fraction(accuracy["float"], metric)),
        ("agreement", _fraction(accuracy["agreement"], "agreement")),
        ("image", f"{report['image_bytes']:,} B"),
        ("arena", f"{report['arena_bytes']:,} B"),
        ("MACs", f"{report['macs']:,}"),
        ("latency (estimate)", f"{cost['latency_ms']:.2f} ms"),
        ("energy (estimate)", f"{cost['energy_uj']:.1f} &micro;J"),
    ]
    shown = "".join(f'<div class="card">{escape(name)}<b>{value}</b></div>' for name, value in cards)
    return f'<div class="cards">{shown}</div><div class="sub">{escape(cost["note"])}</div>'


def _fraction(value: float | None, metric: str) -> str:
    if value is None:
        return "&ndash;"
    return f"{100 * value:.2f} %" if metric in ("top1", "auc", "agreement") else f"{value:.4g}"


def _fit(report: dict[str, Any]) -> str:
    fits = report["fits"]
    rows = [
        ("Flash slot", fits["flash"], report["image_bytes"], fits["flash_slot_bytes"]),
        ("Arena", fits["arena"], report["arena_bytes"], fits["class_arena_bytes"]),
        ("Shadow run", fits["shadow"], fits["shadow_bytes"], fits["class_arena_bytes"]),
    ]
    lines = "".join(
        f"<tr><td>{name}</td><td class='text {'good' if ok else 'bad'}'>{'fits' if ok else 'does not fit'}</td>"
        f"<td>{need:,}</td><td>{have:,}</td><td style='width:40%;min-width:5rem'>{_bar(need / have)}</td></tr>"
        for name, ok, need, have in rows
    )
    head = "<tr><th></th><th class='text'></th><th>bytes needed</th><th>bytes there</th><th></th></tr>"
    reasons = "".join(f"<p class='bad'>{escape(reason)}</p>" for reason in fits["reasons"])
    return f"<h2>Fit</h2>{reasons}<div class='scroll'><table>{head}{lines}</table></div>"


def _bar(share: float) -> str:
    return f"<div class='bar' style='width:{100 * min(max(share, 0.0), 1.0):.1f}%'></div>"


def _tensors(report: dict[str, Any]) -> str:
    rows = [("input", t) for t in report["inputs"]] + [("output", t) for t in report["outputs"]]
    lines = "".join(
        f"<tr><td>{kind}</td><td class='text'>{escape(t['name'])}</td><td>{t['shape']}</td><td>{t['device_shape']}</td>"
        f"<td>{t['layout']}</td><td>{t['scale']:.6g}</td><td>{t['zero_point']}</td></tr>"
        for kind, t in rows
    )
    names = ("", "name", "model shape", "device shape", "layout", "scale", "zero point")
    head = "".join(f"<th class='{'text' if n == 'name' else ''}'>{n}</th>" for n in names)
    return f"<h2>Inputs and outputs</h2><div class='scroll'><table><tr>{head}</tr>{lines}</table></div>"


def _layers(report: dict[str, Any]) -> str:
    total = max(1, report["estimate"]["instructions"])
    most = max(1, *(row["instructions"] for row in report["layers"]))
    lines = "".join(
        f"<tr><td>{i}</td>{_layer_name(r['name'])}<td class='text'>{r['operator'].lower()}</td>"
        f"<td>{'&times;'.join(map(str, r['output_shape']))}</td><td>{r['macs']:,}</td><td>{r['weight_bytes']:,}</td>"
        f"<td>{r['instructions']:,}</td><td style='min-width:5rem'>{_bar(r['instructions'] / most)}</td>"
        f"<td>{100 * r['instructions'] / total:.1f} %</td><td>{_noise(r['signal_to_noise_db'])}</td></tr>"
        for i, r in enumerate(report["layers"])
    )
    names = (
        "#",
        "layer",
        "operator",
        "output",
        "MACs",
        "weights",
        "instructions (est.)",
        "",
        "share",
        "signal/noise dB",
    )
    head = "".join(f"<th class='{'text' if n in ('layer', 'operator') else ''}'>{n}</th>" for n in names)
    return f"<h2>Layers</h2><div class='scroll'><table><tr>{head}</tr>{lines}</table></div>"


def _profile(report: dict[str, Any]) -> str:
    """What an emulated core counted, where the compile was asked to run there."""
    if "profile" not in report:
        return ""
    profile = report["profile"]
    lines = "".join(
        f"<tr><td>{r['index']}</td>{_layer_name(r['name'])}"
        f"<td class='text'>{r['operator'].lower()}</td><td>{escape(r['shape'])}</td><td>{r['instructions']:,}</td>"
        f"<td style='min-width:6rem'>{_bar(r['share'])}</td>"
        f"<td>{100 * r['share']:.1f} %</td><td>{r['macs']:,}</td><td>{r['instructions_per_mac'] or '&ndash;'}</td></tr>"
        for r in profile["layers"]
    )
    names = ("#", "layer", "operator", "shape", "instructions", "", "share", "MACs", "per MAC")
    head = "".join(f"<th class='{'text' if n in ('layer', 'operator') else ''}'>{n}</th>" for n in names)
    total = f"{profile['instructions']:,} instructions, {profile['stack_bytes']:,} bytes of stack: counted by emulation"
    table = f"<div class='scroll'><table><tr>{head}</tr>{lines}</table></div>"
    return f"<h2>Profile on {escape(profile['on'])}</h2><div class='sub'>{total}</div>{table}"


def _layer_name(name: str) -> str:
    """Cut where it is long, as names of TensorFlow are; whole as a tip."""
    return f"<td class='text' title='{escape(name)}'>{escape(short_name(name))}</td>"


def _noise(value: float | None) -> str:
    return "&ndash;" if value is None else f"{value:.1f}"


def _sections(report: dict[str, Any]) -> str:
    total = max(1, report["image_bytes"])
    lines = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{size:,}</td>"
        f"<td>{100 * size / total:.1f} %</td><td style='width:50%;min-width:5rem'>{_bar(size / total)}</td></tr>"
        for name, size in report["sections"].items()
    )
    whole = f"<tr><td><b>whole image</b></td><td><b>{report['image_bytes']:,}</b></td><td></td><td></td></tr>"
    return f"<h2>Image bytes</h2><div class='scroll'><table>{lines}{whole}</table></div>"
