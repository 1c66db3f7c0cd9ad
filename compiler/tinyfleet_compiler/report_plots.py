"""Plots for the HTML report over two axes of numbers, as SVG without script: lines, points and columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLOURS = ("var(--bar)", "var(--other)", "var(--good)")
MARKED = "var(--bad)"
WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40
MOST_TICKS = 5
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A labelled point; a chosen one stands out."""

    label: str
    x: float
    y: float
    chosen: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a `column_plot`; a marked one is drawn in the colour of warnings."""

    label: str
    value: float
    marked: bool = False


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def line_plot(lines: Mapping[str, Points], across: str, up: str) -> str:
    """Named lines of (x, y) over common axes, a dot a point with its values as a tip."""
    frame = _around([point for line in lines.values() for point in line])
    parts = [_axes(frame, across, up)]
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [_dot(frame, x, y, colour, f"{name}: {x:.4g} {across}, {y:.4g}") for x, y in line]
        parts.append(legend(WIDTH - RIGHT - 105 * (len(lines) - index), colour, name))
    return picture("".join(parts), f"{up} over {across}")


def dot_plot(dots: Sequence[Dot], across: str, up: str) -> str:
    """Labelled points, the chosen one large and with its label."""
    frame = _around([(dot.x, dot.y) for dot in dots])
    parts = [_axes(frame, across, up)]
    for dot in sorted(dots, key=lambda dot: dot.chosen):
        colour = COLOURS[2] if dot.chosen else COLOURS[0]
        tip = f"{dot.label}: {dot.x:.5g} {across}, {dot.y:.4g}"
        parts.append(_dot(frame, dot.x, dot.y, colour, tip, 7 if dot.chosen else 4))
    parts.append(legend(WIDTH - RIGHT - 105, COLOURS[2], "taken"))
    return picture("".join(parts), f"{up} over {across}")


def column_plot(columns: Sequence[Column], across: str, up: str, first: int = 0) -> str:
    """Columns from zero, side by side; numbered from `first` below."""
    values = [column.value for column in columns]
    frame = _Frame(first - 0.5, first + len(columns) - 0.5, min(0.0, *values), max(max(values), 0.0) * 1.05 or 1.0)
    width = max(0.8 * (WIDTH - LEFT - RIGHT) / len(columns), 1.0)
    parts = [_axes(frame, across, up, whole=True)]
    for index, column in enumerate(columns):
        top, foot = sorted((frame.y(column.value), frame.y(0.0)))
        parts.append(
            f"<rect x='{frame.x(first + index) - width / 2:.1f}' y='{top:.1f}' width='{width:.1f}' "
            f"height='{max(foot - top, 0.5):.1f}' fill='{MARKED if column.marked else COLOURS[0]}'>"
            f"<title>{escape(column.label)}: {column.value:.4g}</title></rect>"
        )
    return picture("".join(parts), f"{up} over {across}")


def picture(body: str, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """An SVG element that screen readers can name."""
    return f"<svg viewBox='0 0 {width:g} {height:g}' role='img' aria-label='{escape(label)}'>{body}</svg>"


def legend(x: float, colour: str, name: str) -> str:
    """A coloured name in the line above the plot."""
    return f"<text x='{x:.0f}' y='{TOP - 20}' style='fill:{colour}'>&#9679; {escape(name)}</text>"


def ticks(low: float, high: float, most: int = MOST_TICKS) -> list[float]:
    """Round numbers within [low, high], about `most` of them."""
    rough = max((high - low) / most, 1e-12)
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * 0.999))
    first = np.ceil(low / step - 1e-9)
    return [
        float((first + part) * step)
        for part in range(int(np.floor((high - low) / step)) + 2)
        if (first + part) * step <= high + 1e-9 * step
    ]


def _around(points: Points) -> _Frame:
    return _Frame(*_limits([x for x, _ in points]), *_limits([y for _, y in points]))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def _dot(frame: _Frame, x: float, y: float, colour: str, tip: str, radius: int = 4) -> str:
    place = f"cx='{frame.x(x):.1f}' cy='{frame.y(y):.1f}' r='{radius}'"
    return f"<circle {place} fill='{colour}' fill-opacity='.8'><title>{escape(tip)}</title></circle>"


def _axes(frame: _Frame, across: str, up: str, whole: bool = False) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='currentColor' opacity='.4'/>"]
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{number(value)}</text>")
        parts.append(f"<path d='M{LEFT} {y:.1f}H{right}' stroke='currentColor' opacity='.12'/>")
    for value in ticks(frame.x_low, frame.x_high, 8 if whole else MOST_TICKS):
        if not whole or value == int(value):
            parts.append(
                f"<text x='{frame.x(value):.1f}' y='{bottom + 16}' text-anchor='middle'>{number(value)}</text>"
            )
    parts.append(f"<text x='{right}' y='{HEIGHT - 6}' text-anchor='end' class='axis'>{escape(across)}</text>")
    parts.append(f"<text x='4' y='{TOP - 20}' class='axis'>{escape(up)}</text>")
    return "".join(parts)


def number(value: float) -> str:
    """Short: thousands with a k."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.6g}"


def short_name(name: str) -> str:
    """Last two parts of the first of the names that TensorFlow joins: `model/conv/Relu;model/...` -> `conv/Relu`."""
    return "/".join(name.split(";")[0].split("/")[-2:])
