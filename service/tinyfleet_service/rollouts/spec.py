"""What an operator asks for: `RolloutSpec`, with defaults taken from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tinyfleet_service.errors import PlanError, problem_texts
from tinyfleet_service.rollouts.admit import Limits, parse_window
from tinyfleet_service.rollouts.policy import Gates, Policy, parse_gates, policy_of
from tinyfleet_service.settings import Settings

_SETTINGS_DEFAULTS = (
    "margin", "alpha", "min_labels", "min_inferences", "soak_s", "deadline_s", "confirm_min_inferences",
    "confirm_timeout_s", "coverage", "waves", "stratify_by",
)  # fmt: skip
UINT32_MAX = 2**32 - 1
"""Of what travels in an assignment."""
LONGEST_S = 10 * 365 * 86400.0


class RolloutSpec(BaseModel):
    """One rollout as asked for. Shares are "5%" or a count of devices; times in seconds, accuracies fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="name of a model")
    version: str = Field(description="one of its versions")
    project_id: int = 1
    created_by: str = ""
    canary: str = Field(default="5%", description="first share of the devices")
    waves: tuple[str, ...] = ("25%", "100%")
    gates: Gates = Field(
        default_factory=dict,
        description="required, advisory or off for shadow, accuracy (also proxy: without labels), faults, silence, "
        "latency and drift (both advisory by default); what is left out comes from the model's own policy",
    )
    where: str | None = Field(default=None, description="selector of the devices that take part")
    skip_class: tuple[str, ...] = Field(default=(), description="device classes left out")
    on_harm: Literal["class", "all"] = Field(default="class", description="what is undone when one class is harmed")
    stratify_by: tuple[str, ...] = ("site",)
    margin: float = Field(default=0.02, ge=0, le=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    min_labels: int = Field(default=100, ge=0)
    min_inferences: int = Field(default=100, ge=0, le=UINT32_MAX)
    soak_s: float = Field(default=3600.0, ge=0, le=LONGEST_S)
    deadline_s: float = Field(default=7 * 86400.0, gt=0, le=LONGEST_S)
    coverage: float = Field(default=0.95, gt=0, le=1)
    confirm_min_inferences: int = Field(default=50, ge=0, le=UINT32_MAX)
    confirm_timeout_s: int = Field(default=600, ge=1, le=UINT32_MAX)
    start_spread_s: int = Field(
        default=0, ge=0, le=UINT32_MAX, description="devices of a stage start within so many seconds"
    )
    approval: bool = Field(default=False, description="wait for a second person to approve before any device begins")
    supersede: bool = Field(
        default=False, description="abort rollouts under way on the same devices and take their place"
    )
    window: str | None = Field(
        default=None, description="begin updates in this local time of each device only, e.g. 22:00-05:00"
    )
    max_in_flight: int | None = Field(default=None, gt=0, description="devices that update at the same time")
    max_bytes_per_hour: int | None = Field(default=None, gt=0, description="bytes of transfers begun within an hour")
    latency_ratio: float = Field(
        default=1.5, gt=1, allow_inf_nan=False, description="a p95 this much above the one before is harm"
    )
    drift_distance: float = Field(
        default=0.2, gt=0, lt=1, description="Jensen-Shannon distance to control from which answers have drifted"
    )
    disagreement: float = Field(
        default=0.1, gt=0, lt=1, description="with accuracy=proxy: share of answers that may differ in shadow"
    )
    latency_budget_us: int | None = Field(
        default=None, gt=0, le=UINT32_MAX, description="an inference slower than this is a fault on the device"
    )

    @field_validator("waves", "stratify_by", "skip_class", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("canary", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("gates", mode="before")
    @classmethod
    def _known_gates(cls, value: Any) -> Gates:
        return parse_gates(value)

    @field_validator("window")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            parse_window(value)
        return value

    @property
    def limits(self) -> Limits:
        """What `admit` reads of this spec."""
        window = parse_window(self.window) if self.window else None
        return Limits(window, self.max_in_flight, self.max_bytes_per_hour)

    def policy(self, gate: str) -> Policy:
        """The policy of `gate`: as asked, else what `accuracy=proxy` makes of it, else the default."""
        return policy_of(self.gates, gate)

    def over(self, own: Mapping[str, Policy]) -> RolloutSpec:
        """This, with the model's own policy of the gates that were not asked for."""
        return self.model_copy(update={"gates": {**own, **self.gates}})

    def decides(self, gate: str) -> bool:
        """Whether a stage is passed only when `gate` says promote."""
        return self.policy(gate) in (Policy.REQUIRED, Policy.PROXY)


def parse_spec(body: dict[str, Any], settings: Settings | None = None) -> RolloutSpec:
    """A spec from a request, what it leaves out taken from `settings`. Raises PlanError naming every problem."""
    defaults = {name: getattr(settings, name) for name in _SETTINGS_DEFAULTS} if settings else {}
    asked = {key: value for key, value in body.items() if value is not None}
    try:
        spec = RolloutSpec(**(defaults | asked))
    except ValidationError as error:
        problems = problem_texts(error.errors())
        raise PlanError(
            "this rollout makes no sense: " + "; ".join(problems), next="correct the options", problems=problems
        ) from error
    for share in (spec.canary, *spec.waves):
        parse_share(share, 100)
    return spec


def parse_share(text: str, devices: int) -> int:
    """Number of devices for "5%" (rounded, at least 1) or "12" (a count), at most `devices`. Raises PlanError."""
    raw = text.strip()
    try:
        number = float(raw[:-1]) if raw.endswith("%") else int(raw)
    except ValueError:
        number = -1
    if not number > 0 or (raw.endswith("%") and number > 100):
        raise PlanError(f"{text!r} is no share of a fleet", next="write a percentage such as 5% or a count such as 12")
    if raw.endswith("%"):
        return min(devices, max(1, ceil(devices * number / 100 - 0.5)))
    return min(devices, int(number))
