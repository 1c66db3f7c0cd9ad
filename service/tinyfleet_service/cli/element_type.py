"""`--type`: the element type of a device's tensors."""

from tinyfleet_compiler.compile_graph import TYPES
from tinyfleet_service.errors import InvalidInputError


def checked_type(element: str) -> str:
    """The value of --type. Raises InvalidInputError for an unknown one."""
    if element not in TYPES:
        raise InvalidInputError(f"--type {element} is unknown", next=f"use {' or '.join(TYPES)}")
    return element
