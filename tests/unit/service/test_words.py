"""Texts agree with their numbers."""

from __future__ import annotations

import pytest

from tinyfleet_ota.protocol import Reason
from tinyfleet_service.words import quantity, reason_words


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


def test_reasons_of_devices_in_words():
    assert [reason_words(code) for code in (Reason.CONFIRM_TIMEOUT, 0, 9999)] == ["confirm timeout", "", "9999"]
