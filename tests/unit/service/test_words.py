"""Texts agree with their numbers."""

from __future__ import annotations

import pytest

from tinyfleet_service.words import quantity


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("device",), "0 devices"),
        (1, ("device",), "1 device"),
        (2000, ("device",), "2,000 devices"),
        (1, ("canary", "canaries"), "1 canary"),
        (3, ("canary", "canaries"), "3 canaries"),
    ],
)
def test_one_is_singular(count: int, words: tuple[str, ...], text: str) -> None:
    assert quantity(count, *words) == text
