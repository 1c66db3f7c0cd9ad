"""Devices: enrolment, revocation, the twin, selectors."""

from tinyfleet_service.devices.claims import create_claim, find_claim
from tinyfleet_service.devices.commands import ask_command, list_commands
from tinyfleet_service.devices.enrolment import enroll, renew
from tinyfleet_service.devices.revocation import enforce_revocations, get_device, reset_device, revoke_device
from tinyfleet_service.devices.selectors import compile_selector, select_devices
from tinyfleet_service.devices.twin import active_image, apply_event, apply_state

select = select_devices

__all__ = [
    "active_image",
    "apply_event",
    "apply_state",
    "ask_command",
    "compile_selector",
    "create_claim",
    "enforce_revocations",
    "enroll",
    "find_claim",
    "get_device",
    "list_commands",
    "renew",
    "reset_device",
    "revoke_device",
    "select",
    "select_devices",
]
