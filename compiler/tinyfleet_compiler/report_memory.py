"""The memory side of the report: what the plan does, what cascades cost, and the map over time."""

from html import escape
from typing import Any

from tinyfleet_compiler.compile_graph import Compiled


def memory_plan(compiled: Compiled) -> dict[str, Any]:
    """What `--optimize` chose: cascades (ops [first_op, first_op + ops)), bytes copied and MACs computed twice."""
    plan = compiled.plan
    cascades = [
        {
            "first_op": cascade.first,
            "ops": len(cascade.links),
            "ring_bytes": sum(cascade.rings.values()),
            "moved_bytes": cascade.moved_bytes,
        }
        for cascade in plan.cascades
    ]
    bound = plan.lower_bound_bytes
    return {
        "optimize": compiled.optimize,
        "proven": plan.arena_bytes == bound,
        "gap": round(plan.arena_bytes / bound - 1.0, 4) if bound else 0.0,
        "cascades": cascades,
        "moved_bytes": sum(cascade["moved_bytes"] for cascade in cascades),
        # Cascades keep every row until its last reader has had it: nothing is computed twice.
        "recomputed_macs": 0,
        "recomputed_share": 0.0,
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
    note = f"{_verdict(report)} Time runs right, addresses up; an overlap is an output that grows into its dying input."
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
        f"{layers[c['first_op']]['name']} to {layers[c['first_op'] + c['ops'] - 1]['name']} "
        f"({c['ops']} operators, {c['ring_bytes']:,} B kept)"
        for c in plan["cascades"]
    )
    return (
        f"Optimised for: {plan['optimize']}. Run row by row: {spans}. Costs {plan['moved_bytes']:,} bytes copied an "
        f"inference and {plan['recomputed_macs']:,} MACs computed twice ({100 * plan['recomputed_share']:.1f} %)."
    )


def _picture(report: dict[str, Any]) -> str:
    steps, arena = len(report["layers"]) + 2, max(1, report["arena_bytes"])
    width, height = 1000, 300
    boxes = []
    for index, row in enumerate(report["memory"]):
        x = (row["first_op"] + 1) / steps * width
        w = (min(row["last_op"], steps - 2) - row["first_op"] + 1) / steps * width
        h = row["bytes"] / arena * height
        y = height - row["offset"] / arena * height - h
        tip = f"{row['tensor']}: {row['bytes']:,} B at {row['offset']:,}"
        boxes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(w - 1, 1):.1f}' height='{max(h, 0.5):.1f}' "
            f"fill='hsl({index * 47 % 360} 60% 55% / .65)' stroke='#0006'><title>{escape(tip)}</title></rect>"
        )
    return f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='memory map over time'>{''.join(boxes)}</svg>"
