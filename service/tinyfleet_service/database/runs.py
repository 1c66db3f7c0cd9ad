"""Numbers of rows as ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def runs_of(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run without a gap; `numbers` ascend.

    A statement on such a range is short, and touches no other row: none lies between, also none that commits later.
    """
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1]
            start = at
