"""Colours of text hold WCAG 2.2 AA (4.5 : 1) on both surfaces of the pages, light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tinyfleet_service.dashboard as dashboard

CSS = (Path(dashboard.__file__).parent / "static" / "dashboard.css").read_text()
COLOURS = {name: pair for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", CSS)}
TEXT_ON = [(text, surface) for text in ("ink", "quiet", "good", "bad", "busy", "hold") for surface in ("page", "card")]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize(("text", "surface"), [*TEXT_ON, ("on-busy", "busy")])
def test_text_can_be_read(text: str, surface: str) -> None:
    for ink, ground in zip(COLOURS[text], COLOURS[surface], strict=True):
        assert contrast(ink, ground) >= 4.5, (ink, ground)
