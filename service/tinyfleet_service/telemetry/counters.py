"""Counters of one image: what a device counted, what several boots or devices counted together.

Field names are those of `image-counters` in `protocol.cddl` with underscores. Histograms are {bucket: count}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tinyfleet_ota.protocol_codec import histogram_counts, latency_bucket_low_us
from tinyfleet_service.errors import InvalidInputError

Histogram = dict[int, int]
HISTOGRAMS = ("latency_histogram", "confidence_histogram", "predictions", "shadow_latency_histogram")
MAXIMA = ("arena_high_water_bytes", "stack_high_water_bytes")
MAX_BUCKET = 255
MAX_COUNT = 1 << 48
"""A counter at or above it is nonsense; below it 2^14 reports add up within 63 bits."""
PAIRS = 4


@dataclass(frozen=True)
class Counters:
    """Sums over boots; high waters are maxima, that of the stack is the whole device's. shadow_pairs: both right,
    active only, candidate only, neither.
    """

    inferences: int = 0
    latency_histogram: Histogram = field(default_factory=dict)
    confidence_histogram: Histogram = field(default_factory=dict)
    predictions: Histogram = field(default_factory=dict)
    labelled: int = 0
    correct: int = 0
    faults: int = 0
    active_s: int = 0
    shadow_inferences: int = 0
    shadow_agree: int = 0
    shadow_pairs: tuple[int, int, int, int] = (0, 0, 0, 0)
    shadow_latency_histogram: Histogram = field(default_factory=dict)
    arena_high_water_bytes: int = 0
    stack_high_water_bytes: int = 0
    energy_uj: int = 0
    activations: int = 0

    @classmethod
    def from_wire(cls, image: Mapping[str, Any], stack_high_water_bytes: int = 0) -> Counters:
        """Counters of one entry of a decoded telemetry message. Raises InvalidInputError for impossible values."""
        given = {**image, "stack_high_water_bytes": stack_high_water_bytes}
        values = {f.name: given[f.name] for f in fields(cls)}
        values["shadow_pairs"] = tuple(values["shadow_pairs"])
        for name in HISTOGRAMS:
            values[name] = histogram_counts(values[name])
            if any(bucket > MAX_BUCKET for bucket in values[name]):
                raise InvalidInputError(f"{name} has a bucket above {MAX_BUCKET}", next="check the device's agent")
        for name, value in values.items():
            counts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            if max(counts, default=0) >= MAX_COUNT:
                raise InvalidInputError(f"{name} is impossibly large", next="check the device's agent")
        return cls(**values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counters:
        """Inverse of `as_dict`, also after a way through JSON."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in HISTOGRAMS:
            known[name] = {int(bucket): count for bucket, count in known.get(name, {}).items()}
        known["shadow_pairs"] = tuple(known.get("shadow_pairs", (0,) * PAIRS))
        return cls(**known)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "shadow_pairs": list(self.shadow_pairs)}

    def __add__(self, other: Counters) -> Counters:
        return self._combined(other, 1)

    def __sub__(self, other: Counters) -> Counters:
        return self._combined(other, -1)

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers as active model; None without labels."""
        return self.correct / self.labelled if self.labelled else None

    @property
    def accuracy_with_shadow(self) -> float | None:
        """Share of correct answers, those given in shadow included; None without labels."""
        labelled = self.labelled + sum(self.shadow_pairs)
        correct = self.correct + self.shadow_pairs[0] + self.shadow_pairs[2]
        return correct / labelled if labelled else None

    def latency_us(self, quantile: float) -> float | None:
        """Quantile of the latency as active model, interpolated within its bucket; None without inferences."""
        return histogram_quantile(self.latency_histogram, quantile)

    def _combined(self, other: Counters, sign: int) -> Counters:
        values: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name in HISTOGRAMS:
                values[f.name] = _combine(mine, theirs, sign)
            elif f.name == "shadow_pairs":
                values[f.name] = tuple(a + sign * b for a, b in zip(mine, theirs, strict=True))
            elif f.name in MAXIMA:
                values[f.name] = max(mine, theirs)
            else:
                values[f.name] = mine + sign * theirs
        return Counters(**values)


def histogram_quantile(histogram: Histogram, quantile: float) -> float | None:
    """Quantile (0..1) in microseconds of a latency histogram; quarter octaves, so at most 19 % wide."""
    total = sum(histogram.values())
    if total <= 0:
        return None
    rank, seen = quantile * total, 0
    for bucket in sorted(histogram):
        count = histogram[bucket]
        if count and seen + count >= rank:
            low, high = latency_bucket_low_us(bucket), latency_bucket_low_us(bucket + 1)
            return low + (high - low) * max(0.0, rank - seen) / count
        seen += count
    return latency_bucket_low_us(max(histogram) + 1)


def _combine(mine: Histogram, theirs: Histogram, sign: int) -> Histogram:
    sums = dict(mine)
    for bucket, count in theirs.items():
        sums[bucket] = sums.get(bucket, 0) + sign * count
    return {bucket: count for bucket, count in sums.items() if count}
