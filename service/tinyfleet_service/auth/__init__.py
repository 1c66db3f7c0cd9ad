"""Who may do what: projects, API tokens (stored as SHA-256) and roles."""

from tinyfleet_service.auth.first_start import ensure_admin, ensure_project
from tinyfleet_service.auth.roles import Role, require_role
from tinyfleet_service.auth.scopes import check_scopes, has_scope, require_scope, require_subset
from tinyfleet_service.auth.sessions import begin_session, end_session, find_session
from tinyfleet_service.auth.tokens import Principal, check_token, create_token, find_token, revoke_token

__all__ = [
    "Principal",
    "Role",
    "begin_session",
    "check_scopes",
    "check_token",
    "create_token",
    "end_session",
    "ensure_admin",
    "ensure_project",
    "find_session",
    "find_token",
    "has_scope",
    "require_role",
    "require_scope",
    "require_subset",
    "revoke_token",
]
