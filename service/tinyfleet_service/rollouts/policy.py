"""What a gate is for in a rollout: what was asked for goes before the model's own policy, that before the defaults.

asked {"latency": "required"} over the model's {"accuracy": "proxy", "latency": "off"}:
accuracy by proxy and what follows from that, latency required, all others by default
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlmodel import Session

from tinyfleet_service.database.models import Model
from tinyfleet_service.errors import InvalidInputError

GATES = ("shadow", "accuracy", "faults", "silence", "latency", "drift")
SHOWN = 40


class Policy(StrEnum):
    """A required gate decides, an advisory one is computed and shown, off is neither.

    `accuracy=proxy` is for devices without labels: instead of right answers, shadow counts answers that differ from the
    active model's, and drift is required from the canary on.
    """

    REQUIRED = "required"
    PROXY = "proxy"
    ADVISORY = "advisory"
    OFF = "off"


Gates = dict[str, Policy]
DEFAULT_POLICY = {
    "shadow": Policy.REQUIRED,
    "accuracy": Policy.REQUIRED,
    "faults": Policy.REQUIRED,
    "silence": Policy.REQUIRED,
    # A larger model is slower by design; the deadline that matters, `latency_budget_us`, is a fault on the device.
    "latency": Policy.ADVISORY,
    # The world may have moved, or the candidate may be the better model.
    "drift": Policy.ADVISORY,
}
BY_PROXY = {"shadow": Policy.PROXY, "drift": Policy.REQUIRED}
"""What `accuracy=proxy` makes of gates that were not asked for."""


def parse_gates(given: Any) -> Gates:
    """Policies by gate, for a rollout and for a model alike. Raises ValueError with what is wrong first."""
    if not isinstance(given, Mapping):
        raise ValueError("write gates as an object of policies, e.g. {'latency': 'off'}")
    if unknown := sorted(str(gate)[:SHOWN] for gate in given if gate not in GATES):
        raise ValueError(f"no gate {', '.join(unknown[: len(GATES)])}; gates are {', '.join(GATES)}")
    return {gate: _parse_policy(gate, value) for gate, value in given.items()}


def _parse_policy(gate: str, value: Any) -> Policy:
    if not isinstance(value, str) or value not in list(Policy):
        raise ValueError(f"{gate} cannot be {value!s:.{SHOWN}}; write required, advisory or off, or accuracy=proxy")
    if value == Policy.PROXY and gate != "accuracy":
        raise ValueError(f"only accuracy has a proxy, not {gate}")
    return Policy(value)


def policy_of(gates: Mapping[str, Policy], gate: str) -> Policy:
    """The policy of `gate`: as it was said, else what `accuracy=proxy` makes of it, else the default."""
    proxy = BY_PROXY if gates.get("accuracy") == Policy.PROXY else {}
    return (DEFAULT_POLICY | proxy | dict(gates))[gate]


def set_model_gates(session: Session, model: Model, given: Any) -> None:
    """Replace the model's own policy; rollouts under way keep theirs. Raises InvalidInputError."""
    try:
        gates = parse_gates(given)
    except ValueError as error:
        raise InvalidInputError(f"gates: {error}", next="correct them; {} means the defaults") from error
    model.gates = {gate: gates[gate].value for gate in GATES if gate in gates}
    session.add(model)


def model_gates(model: Model) -> dict[str, dict[str, str]]:
    """`own`, what was said of the model, and what its rollouts go by that ask for nothing: `gates`, `gates_from`."""
    own = parse_gates(model.gates)
    gates = {gate: policy_of(own, gate).value for gate in GATES}
    return {"own": dict(model.gates), "gates": gates, "gates_from": gate_sources({}, own)}


def gate_sources(asked: Mapping[str, Policy], own: Mapping[str, Policy]) -> dict[str, str]:
    """Who said what each gate is: `rollout`, `model` or `default`; what follows from a proxy, whoever chose that."""
    said = {gate: "rollout" if gate in asked else "model" for gate in GATES if gate in asked or gate in own}
    proxy = {**own, **asked}.get("accuracy") == Policy.PROXY
    follows = dict.fromkeys(BY_PROXY, said["accuracy"]) if proxy else {}
    return dict.fromkeys(GATES, "default") | follows | said
