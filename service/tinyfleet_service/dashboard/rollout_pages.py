"""What people ask for by the buttons of the pages: the verbs of a rollout, a freeze of the fleet and its end."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine

from tinyfleet_service import rollouts
from tinyfleet_service.auth import Role
from tinyfleet_service.dashboard.login import LOGIN_AGAIN, Door, FormToken
from tinyfleet_service.dashboard.parameters import RowId
from tinyfleet_service.database.engine import session_scope

SCOPE = "rollouts"
FLEET_VERBS = {"freeze": (Role.OPERATOR, rollouts.freeze), "thaw": (Role.APPROVER, rollouts.thaw)}


def add_rollout_routes(router: APIRouter, door: Door, engine: Engine) -> None:
    """The forms; the pages that hold them are shown like the others."""

    @router.post("/rollouts/{rollout_id}/{verb}")
    def ask(request: Request, rollout_id: RowId, verb: rollouts.Verb, sent: FormToken = "") -> Response:
        principal = door.may_change(request, sent, rollouts.role_needed(verb), SCOPE)
        if principal is None:
            return RedirectResponse(LOGIN_AGAIN, status_code=303)
        with session_scope(engine) as session:
            rollouts.get_rollout(session, rollout_id, principal.project_id)
            rollouts.request(session, rollout_id, verb, principal.name)
        return RedirectResponse(f"/dashboard/rollouts/{rollout_id}", status_code=303)

    @router.post("/fleet/{verb}")
    def freeze_or_thaw(request: Request, verb: Literal["freeze", "thaw"], sent: FormToken = "") -> Response:
        needed, act = FLEET_VERBS[verb]
        principal = door.may_change(request, sent, needed, SCOPE)
        if principal is None:
            return RedirectResponse(LOGIN_AGAIN, status_code=303)
        with session_scope(engine) as session:
            act(session, principal.project_id, principal.name)
        return RedirectResponse("/dashboard", status_code=303)
