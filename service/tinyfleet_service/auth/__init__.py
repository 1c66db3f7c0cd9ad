"""Who may do what: projects, API tokens (stored as SHA-256) and roles."""

from tinyfleet_service.auth.first_start import ensure_admin, ensure_project
from tinyfleet_service.auth.roles import Role, require_role
from tinyfleet_service.auth.tokens import Principal, check_token, create_token, find_token, revoke_token

__all__ = [
    "Principal",
    "Role",
    "check_token",
    "create_token",
    "ensure_admin",
    "ensure_project",
    "find_token",
    "require_role",
    "revoke_token",
]
