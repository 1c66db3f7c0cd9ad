"""What the settings page shows: webhooks and how their deliveries fare, and who has a token. For administrators."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, func, select

from tinyfleet_service.auth import Principal, Role
from tinyfleet_service.database.models import ApiToken, DeliveryState, Webhook, WebhookDelivery
from tinyfleet_service.webhooks import deliveries_of, list_webhooks

DEAD_SHOWN = 5


def settings_data(session: Session, principal: Principal) -> dict[str, Any]:
    """Template variables of the settings page."""
    allowed = principal.role.includes(Role.ADMIN)
    hooks = list_webhooks(session, principal.project_id) if allowed else []
    tokens = select(ApiToken).where(ApiToken.project_id == principal.project_id).order_by(col(ApiToken.id))
    return {
        "project": principal.project,
        "page": "settings",
        "allowed": allowed,
        "role": principal.role.value,
        "webhooks": [_hook(session, hook) for hook in hooks],
        "tokens": list(session.exec(tokens)) if allowed else [],
    }


def _hook(session: Session, hook: Webhook) -> dict[str, Any]:
    query = (
        select(WebhookDelivery.state, func.count())
        .where(WebhookDelivery.webhook_id == hook.id)
        .group_by(WebhookDelivery.state)
    )
    counts = dict(session.exec(query).all())
    return {
        "id": hook.id,
        "url": hook.url,
        "events": ", ".join(hook.events) or "all",
        "counts": {state.value: counts.get(state.value, 0) for state in DeliveryState},
        "dead": deliveries_of(session, hook, DeliveryState.DEAD, DEAD_SHOWN),
    }
