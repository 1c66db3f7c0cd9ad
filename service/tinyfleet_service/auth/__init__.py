"""Who may do what: projects, API tokens (stored as SHA-256) and roles."""

from tinyfleet_service.auth.first_start import ensure_admin, ensure_project
from tinyfleet_service.auth.roles import Role, require_role
from tinyfleet_service.auth.tokens import Principal, authenticate, create_token, principal_of, revoke_token

__all__ = [
    "Principal",
    "Role",
    "authenticate",
    "create_token",
    "ensure_admin",
    "ensure_project",
    "principal_of",
    "require_role",
    "revoke_token",
]
