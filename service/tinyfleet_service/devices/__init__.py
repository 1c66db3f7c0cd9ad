"""Devices: enrolment, revocation, the twin, groups, selectors."""

from tinyfleet_service.devices.claims import claim_state, create_claim, find_claim, list_claims, revoke_claim
from tinyfleet_service.devices.commands import ask_command, list_commands
from tinyfleet_service.devices.enrolment import enroll, renew
from tinyfleet_service.devices.groups import (
    add_devices,
    add_selected,
    count_by_state,
    create_group,
    get_group,
    groups_of,
    list_groups,
    remove_devices,
    remove_group,
    remove_selected,
)
from tinyfleet_service.devices.pages import page_of_devices, select_devices
from tinyfleet_service.devices.revocation import (
    enforce_revocations,
    get_device,
    reset_device,
    revoke_device,
    write_revocations,
)
from tinyfleet_service.devices.selectors import compile_selector, parse_selector, read_selector
from tinyfleet_service.devices.twin import apply_event, apply_state

__all__ = [
    "add_devices",
    "add_selected",
    "apply_event",
    "apply_state",
    "ask_command",
    "claim_state",
    "compile_selector",
    "count_by_state",
    "create_claim",
    "create_group",
    "enforce_revocations",
    "enroll",
    "find_claim",
    "get_device",
    "get_group",
    "groups_of",
    "list_claims",
    "list_commands",
    "list_groups",
    "page_of_devices",
    "parse_selector",
    "read_selector",
    "remove_devices",
    "remove_group",
    "remove_selected",
    "renew",
    "reset_device",
    "revoke_claim",
    "revoke_device",
    "select_devices",
    "write_revocations",
]
