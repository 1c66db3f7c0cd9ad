"""Rollouts: plan, start, tick, show and explain. See README.md for the order of things."""

from tinyfleet_service.rollouts.explain import explain
from tinyfleet_service.rollouts.forget import forget_counters
from tinyfleet_service.rollouts.groups import delete_group
from tinyfleet_service.rollouts.observe import RETURN_S
from tinyfleet_service.rollouts.overview import device_measurements, fleet_overview
from tinyfleet_service.rollouts.plan import make_plan
from tinyfleet_service.rollouts.planned import Plan, transfer_pairs
from tinyfleet_service.rollouts.policy import model_gates, set_model_gates
from tinyfleet_service.rollouts.records import get_rollout
from tinyfleet_service.rollouts.requests import Verb, allowed_verbs, freeze, request, role_needed, start_rollout, thaw
from tinyfleet_service.rollouts.spec import RolloutSpec, parse_spec
from tinyfleet_service.rollouts.tick import tick
from tinyfleet_service.rollouts.view import list_rollouts, rollout_view, timeline

__all__ = [
    "RETURN_S",
    "Plan",
    "RolloutSpec",
    "Verb",
    "allowed_verbs",
    "delete_group",
    "device_measurements",
    "explain",
    "fleet_overview",
    "forget_counters",
    "freeze",
    "get_rollout",
    "list_rollouts",
    "make_plan",
    "model_gates",
    "parse_spec",
    "request",
    "role_needed",
    "rollout_view",
    "set_model_gates",
    "start_rollout",
    "thaw",
    "tick",
    "timeline",
    "transfer_pairs",
]
