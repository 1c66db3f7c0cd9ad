"""The memory side of the report: what the plan does, what cascades cost, and the map over time."""

from html import escape
from typing import Any

from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.report_plots import picture, short_name, ticks

WIDTH, HEIGHT = 1000, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 8, 12, 28
LETTER, LINE = 7.5, 16
"""Width and height a letter of a box's name takes."""
MOST_NUMBERS = 24
"""Operators numbered below the map; of more only every second, third, ..."""


def memory_plan(compiled: Compiled) -> dict[str, Any]:
    """What `--optimize` chose: cascades (ops [first_op, first_op + ops)), bytes copied and MACs computed twice."""
    plan = compiled.plan
    cascades = [
        {
            "first_op": cascade.first,
            "ops": len(cascade.links),
            "ring_bytes": sum(cascade.rings.values()),
            "moved_bytes": cascade.moved_bytes,
            "strips": max(1, len(cascade.strips)),
            "recomputed_macs": cascade.recomputed_macs,
        }
        for cascade in plan.cascades
    ]
    bound, again = plan.lower_bound_bytes, sum(cascade.recomputed_macs for cascade in plan.cascades)
    return {
        "optimize": compiled.optimize,
        "proven": plan.arena_bytes == bound,
        "gap": round(plan.arena_bytes / bound - 1.0, 4) if bound else 0.0,
        "cascades": cascades,
        "moved_bytes": sum(cascade["moved_bytes"] for cascade in cascades),
        # Cascades keep every row until its last reader has had it: only borders of strips are computed twice.
        "recomputed_macs": again,
        "recomputed_share": round(again / max(1, sum(op.macs for op in compiled.ops)), 4),
    }


def memory_map(compiled: Compiled) -> list[dict[str, Any]]:
    """One row per tensor and scratch: place, size and the ops during which it is taken."""
    plan = compiled.plan
    rows = (
        {"tensor": n, "offset": plan.offsets[n], "bytes": plan.sizes[n], "first_op": a, "last_op": b}
        for n, (a, b) in plan.lifetimes.items()
    )
    return sorted(rows, key=lambda row: (row["first_op"], row["offset"]))


def render_memory(report: dict[str, Any]) -> str:
    """Tensors as boxes: time (operators) across, arena bytes up."""
    note = (
        f"{_verdict(report)} Operators run from left to right, numbered as in the table of layers; in is the input "
        "before the first. Addresses grow upwards; boxes that overlap are an output that grows into its dying input."
    )
    return (
        f"<h2>Memory over time</h2>{_picture(report)}<div class='sub'>{note}</div>"
        f"<div class='sub'>{escape(_cascades(report))}</div>"
    )


def _verdict(report: dict[str, Any]) -> str:
    plan = report["memory_plan"]
    verdict = "proven to be the smallest" if plan["proven"] else f"at most {100 * plan['gap']:.1f} % above the smallest"
    arena, bound = report["arena_bytes"], report["arena_lower_bound_bytes"]
    return f"Arena {arena:,} B, lower bound {bound:,} B: {verdict} for this order of operators and these cascades."


def _cascades(report: dict[str, Any]) -> str:
    plan, layers = report["memory_plan"], report["layers"]
    if not plan["cascades"]:
        return f"Optimised for: {plan['optimize']}. No operators run row by row."
    spans = "; ".join(
        f"{_numbered(layers, c['first_op'])} to {_numbered(layers, c['first_op'] + c['ops'] - 1)} "
        f"({c['ops']} operators, {c['ring_bytes']:,} B kept{_in_strips(c)})"
        for c in plan["cascades"]
    )
    return (
        f"Optimised for: {plan['optimize']}. Run row by row: {spans}. Costs {plan['moved_bytes']:,} bytes copied an "
        f"inference and {plan['recomputed_macs']:,} MACs computed twice ({100 * plan['recomputed_share']:.1f} %)."
    )


def _in_strips(cascade: dict[str, Any]) -> str:
    return f", in {cascade['strips']} strips of columns" if cascade["strips"] > 1 else ""


def _numbered(layers: list[dict[str, Any]], index: int) -> str:
    return f"{index} {short_name(layers[index]['name'])}"


def _picture(report: dict[str, Any]) -> str:
    """Boxes over axes: operators by their number in the table of layers, and bytes of the arena."""
    steps, arena = len(report["layers"]), max(1, report["arena_bytes"])
    boxes = [_box(row, index, steps, arena) for index, row in enumerate(report["memory"])]
    every = max(1, -(-steps // MOST_NUMBERS))
    parts = [*_bytes_axis(arena), *boxes]
    for step in range(-1, steps, every):
        name = "in" if step < 0 else str(step)
        parts.append(f"<text x='{_time(step + 0.5, steps):.1f}' y='{HEIGHT - 8}' text-anchor='middle'>{name}</text>")
    return f"<div class='scroll map'>{picture(''.join(parts), 'memory map over time', WIDTH, HEIGHT)}</div>"


def _time(step: float, steps: int) -> float:
    """Where an operator begins; one column before the first is the input's."""
    return LEFT + (step + 1) / (steps + 1) * (WIDTH - LEFT - RIGHT)


def _address(offset: float, arena: int) -> float:
    return HEIGHT - BOTTOM - offset / arena * (HEIGHT - TOP - BOTTOM)


def _bytes_axis(arena: int) -> list[str]:
    lines = []
    for value in [*(tick for tick in ticks(0, arena) if tick < 0.93 * arena), float(arena)]:
        y = _address(value, arena)
        lines.append(f"<text x='{LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{value:,.0f}</text>")
        lines.append(f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='currentColor' opacity='.15'/>")
    return lines


def _box(row: dict[str, Any], index: int, steps: int, arena: int) -> str:
    left, right = _time(row["first_op"], steps), _time(min(row["last_op"], steps - 1) + 1, steps)
    foot, top = _address(row["offset"], arena), _address(row["offset"] + row["bytes"], arena)
    width, height = max(right - left - 1, 1.0), max(foot - top, 0.5)
    tip = f"{row['tensor']}: {row['bytes']:,} B at {row['offset']:,}, operators {row['first_op']} to {row['last_op']}"
    letters = int(width / LETTER)
    name = short_name(row["tensor"])
    shown = name if len(name) <= letters else "in" if row["first_op"] < 0 else str(row["first_op"])
    text = f"<text x='{left + 4:.1f}' y='{top + 14:.1f}'>{escape(shown)}</text>"
    return (
        f"<g><rect x='{left:.1f}' y='{top:.1f}' width='{width:.1f}' height='{height:.1f}' "
        f"fill='hsl({index * 47 % 360} 60% 55% / .55)' stroke='#0006'/>"
        f"{text if height >= LINE and letters >= len(shown) else ''}<title>{escape(tip)}</title></g>"
    )
