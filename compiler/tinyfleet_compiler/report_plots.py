"""Small plots for the HTML report, as SVG without script."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("var(--bar)", "var(--bad)", "var(--good)")
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 22, 36
Points = Sequence[tuple[float, float]]


def line_plot(lines: Mapping[str, Points], across: str, up: str) -> str:
    """Named lines of (x, y) over common axes, a dot a point with its values as a tip."""
    points = [point for line in lines.values() for point in line]
    x_low, x_high = _limits([x for x, _ in points])
    y_low, y_high = _limits([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        column = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return column, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x_low, x_high, y_low, y_high, across, up)]
    for index, (name, line) in enumerate(lines.items()):
        colour, places = COLOURS[index % len(COLOURS)], [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [
            f"<circle cx='{px:.1f}' cy='{py:.1f}' r='4' fill='{colour}'>"
            f"<title>{escape(name)}: {x:.4g} {escape(across)}, {y:.4g}</title></circle>"
            for (px, py), (x, y) in zip(places, line, strict=True)
        ]
        parts.append(f"<text x='{LEFT + 8 + 110 * index}' y='14' style='fill:{colour}'>&#9679; {escape(name)}</text>")
    frame = f"class='plot' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(f'{up} over {across}')}'"
    return f"<svg {frame}>{''.join(parts)}</svg>"


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def _axes(x_low: float, x_high: float, y_low: float, y_high: float, across: str, up: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='currentColor' opacity='.4'/>"]
    for part in range(5):
        y, value = bottom - part / 4 * (bottom - TOP), y_low + part / 4 * (y_high - y_low)
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:.3g}</text>")
        parts.append(f"<path d='M{LEFT} {y:.1f}H{right}' stroke='currentColor' opacity='.1'/>")
        x, value = LEFT + part / 4 * (right - LEFT), x_low + part / 4 * (x_high - x_low)
        parts.append(f"<text x='{x:.1f}' y='{bottom + 16}' text-anchor='middle'>{value:.3g}</text>")
    parts.append(f"<text x='{right}' y='{HEIGHT - 4}' text-anchor='end'>{escape(across)}</text>")
    parts.append(f"<text x='{LEFT - 6}' y='12' text-anchor='end'>{escape(up)}</text>")
    return "".join(parts)
