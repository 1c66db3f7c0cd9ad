"""Figures as the pages write them."""

from __future__ import annotations


def percent(fraction: float | None) -> str:
    """A fraction as a percentage."""
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def microseconds(value: float | None) -> str:
    """A latency."""
    return "–" if value is None else f"{value:,.0f} µs"
