"""Roles, each including the ones before it."""

from __future__ import annotations

from enum import StrEnum

from tinyfleet_service.errors import ForbiddenError, InvalidInputError


class Role(StrEnum):
    """VIEWER reads; OPERATOR registers and rolls out; APPROVER overrides gates; ADMIN manages tokens and classes."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    @classmethod
    def parse(cls, text: str) -> Role:
        """A role by name. Raises InvalidInputError."""
        try:
            return cls(text)
        except ValueError as error:
            raise InvalidInputError(f"no role {text!r}", next=f"use one of {', '.join(cls)}", role=text) from error

    def includes(self, needed: Role) -> bool:
        """True when this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


def require_role(role: Role, needed: Role) -> None:
    """Raises ForbiddenError unless `role` includes `needed`."""
    if not role.includes(needed):
        raise ForbiddenError(
            f"this needs the role {needed}, your token has {role}",
            next="use a token with that role",
            needed=str(needed),
            role=str(role),
        )
