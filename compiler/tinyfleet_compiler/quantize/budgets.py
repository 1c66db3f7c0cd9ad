"""What a search over types may spend, what it tried, and what it took."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Budgets:
    """Limits of a search; None: no limit."""

    flash_bytes: int | None = None
    """Largest image."""
    arena_bytes: int | None = None
    """Largest arena."""
    accuracy_points: float | None = None
    """Most the metric may lose against float: hundredths of an accuracy, per cent of a loss."""
    seconds: float = 120.0
    """CPU seconds after which nothing new is tried."""


@dataclass(frozen=True)
class SearchStep:
    """One choice that was tried."""

    change: str
    image_bytes: int
    arena_bytes: int
    error: float
    agreement: float
    value: float
    """Of the metric on the judging samples; agreement with float where there is no metric."""
    lost_points: float
    kept: bool


@dataclass(frozen=True)
class SearchLog:
    """Everything a search tried and on which data."""

    steps: tuple[SearchStep, ...]
    metric: str
    float_value: float
    judged_on: str
    budgets: Budgets
    met: dict[str, bool]
    int16_layers: tuple[str, ...]
    int4_layers: tuple[str, ...]
    seconds: float
    out_of_time: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return asdict(self)
