"""Webhooks of the project; administrators only, because they send data elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from tinyfleet_service import webhooks
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import DeliveryState
from tinyfleet_service.http.context import Admin, Context, RowId
from tinyfleet_service.http.documents import Document

router = APIRouter(tags=["webhooks"])


class NewWebhook(BaseModel):
    """Where to send what."""

    url: str = Field(max_length=1024, description="https URL")
    events: list[str] = Field(default_factory=list, max_length=50, description="events to send; none means all")


class WebhookDocument(Document):
    """A webhook without its secret."""

    id: int
    url: str
    events: list[str]
    created_at: datetime


class WebhookWithSecret(WebhookDocument):
    """The only answer that ever holds the secret."""

    secret: str


class DeliveryDocument(Document):
    """One event on its way to one webhook."""

    id: int
    event: str
    event_id: int
    state: str
    attempt: int
    next_at: datetime
    last_status: int | None
    last_error: str
    created_at: datetime
    finished_at: datetime | None


@router.get("/webhooks")
def get_webhooks(context: Context, principal: Admin) -> dict[str, list[WebhookDocument]]:
    """Webhooks of the project."""
    with session_scope(context.engine, read_only=True) as session:
        rows = webhooks.list_webhooks(session, principal.project_id)
        return {"items": [WebhookDocument.model_validate(row) for row in rows]}


@router.post("/webhooks", status_code=201)
def post_webhook(context: Context, principal: Admin, new: NewWebhook) -> WebhookWithSecret:
    """Add a webhook; its secret is shown once."""
    with session_scope(context.engine) as session:
        made = webhooks.create_webhook(session, context.settings, principal.project_id, new.url, new.events)
    return WebhookWithSecret(**WebhookDocument.model_validate(made[0]).model_dump(), secret=made[1])


@router.delete("/webhooks/{webhook_id}", status_code=204, response_class=Response)
def delete_webhook(context: Context, principal: Admin, webhook_id: RowId) -> Response:
    """Remove a webhook and its deliveries."""
    with session_scope(context.engine) as session:
        webhooks.remove_webhook(session, principal.project_id, webhook_id)
    return Response(status_code=204)


@router.get("/webhooks/{webhook_id}/deliveries")
def get_deliveries(
    context: Context,
    principal: Admin,
    webhook_id: RowId,
    state: Annotated[DeliveryState | None, Query(description="waiting, delivered or dead")] = None,
) -> dict[str, list[DeliveryDocument]]:
    """The newest hundred deliveries of a webhook."""
    with session_scope(context.engine, read_only=True) as session:
        hook = webhooks.find_webhook(session, principal.project_id, webhook_id)
        rows = webhooks.deliveries_of(session, hook, state)
        return {"items": [DeliveryDocument.model_validate(row) for row in rows]}


@router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}/retry")
def post_retry(context: Context, principal: Admin, webhook_id: RowId, delivery_id: RowId) -> DeliveryDocument:
    """Send a dead delivery again."""
    with session_scope(context.engine) as session:
        hook = webhooks.find_webhook(session, principal.project_id, webhook_id)
        return DeliveryDocument.model_validate(webhooks.retry_delivery(session, hook, delivery_id))
