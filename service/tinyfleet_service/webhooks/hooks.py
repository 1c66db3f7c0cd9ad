"""Webhooks of a project and their deliveries, in the database; secrets are encrypted under a key of the service."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from sqlmodel import Session, col, delete, select

from tinyfleet_service.broker import write_private
from tinyfleet_service.database.models import DeliveryState, Event, Webhook, WebhookDelivery, utc_now
from tinyfleet_service.errors import CorruptError, InvalidInputError, NotFoundError, StateConflictError
from tinyfleet_service.settings import Settings
from tinyfleet_service.webhooks.guard import check_url, resolve

KINDS = {
    "rollout_started": "rollout.started",
    "rollout_running": "rollout.moved",
    "rollout_paused": "rollout.paused",
    "rollout_held": "rollout.held",
    "drift_alert": "rollout.drift",
    "rollout_promoted": "rollout.promoted",
    "rollout_rolled_back": "rollout.rolled_back",
    "rollout_aborted": "rollout.aborted",
    "build.ready": "build.ready",
    "build.failed": "build.failed",
    "build.misfit": "build.misfit",
    "quarantined": "device.quarantined",
    "member_silent": "device.silent",
}
"""Kind in the event table -> event that receivers see."""
PREFIX = "whsec_"
MAX_HOOKS = 50


def secret_box(settings: Settings) -> Fernet:
    """What encrypts the secrets, by a key beside the signing keys; made when missing."""
    path: Path = settings.dirs.keys / "webhook.key"
    if not path.exists():
        write_private(path, Fernet.generate_key())
    return Fernet(path.read_bytes())


def create_webhook(
    session: Session, settings: Settings, project_id: int, url: str, events: Sequence[str]
) -> tuple[Webhook, str]:
    """A webhook and its secret, which is shown this once. No events means all.

    Raises InvalidInputError for a URL or an event that makes no sense, ForbiddenError for a private address,
    UnavailableError when the name has no address.
    """
    unknown = sorted(set(events) - set(KINDS.values()))
    if unknown:
        raise InvalidInputError(f"no event {unknown[0]!r}", next=f"use some of {', '.join(KINDS.values())}")
    resolve(check_url(url, settings.webhook_private_addresses), settings.webhook_private_addresses)
    if len(list_webhooks(session, project_id)) >= MAX_HOOKS:
        raise StateConflictError(f"the project has {MAX_HOOKS} webhooks", next="remove one first")
    secret = PREFIX + secrets.token_urlsafe(32)
    newest = session.exec(select(Event.id).order_by(col(Event.id).desc()).limit(1)).first()
    row = Webhook(
        project_id=project_id,
        url=url,
        events=sorted(set(events)),
        secret=secret_box(settings).encrypt(secret.encode()),
        created_after=newest or 0,
        after_event=newest or 0,
    )
    session.add(row)
    session.flush()
    return row, secret


def secret_of(settings: Settings, hook: Webhook) -> str:
    """The secret. Raises CorruptError when the key beside the signing keys is another one."""
    try:
        return secret_box(settings).decrypt(hook.secret).decode()
    except InvalidToken as error:
        raise CorruptError(
            f"the secret of webhook {hook.id} cannot be read", next="restore keys/webhook.key, or make the webhook anew"
        ) from error


def list_webhooks(session: Session, project_id: int) -> list[Webhook]:
    """Webhooks of the project, oldest first."""
    return list(session.exec(select(Webhook).where(Webhook.project_id == project_id).order_by(col(Webhook.id))))


def find_webhook(session: Session, project_id: int, webhook_id: int) -> Webhook:
    """The webhook. Raises NotFoundError."""
    row = session.get(Webhook, webhook_id)
    if row is None or row.project_id != project_id:
        raise NotFoundError(
            f"no webhook {webhook_id}", next="list them: `fleetctl webhook list`", what="webhook", name=webhook_id
        )
    return row


def remove_webhook(session: Session, project_id: int, webhook_id: int) -> None:
    """Remove it with its deliveries. Raises NotFoundError."""
    row = find_webhook(session, project_id, webhook_id)
    session.exec(delete(WebhookDelivery).where(col(WebhookDelivery.webhook_id) == webhook_id))
    session.delete(row)


def deliveries_of(
    session: Session, hook: Webhook, state: DeliveryState | None = None, limit: int = 100
) -> list[WebhookDelivery]:
    """The newest deliveries first."""
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == hook.id)
    if state is not None:
        query = query.where(WebhookDelivery.state == state)
    return list(session.exec(query.order_by(col(WebhookDelivery.id).desc()).limit(limit)))


def retry_delivery(session: Session, hook: Webhook, delivery_id: int) -> WebhookDelivery:
    """Send a dead delivery again, from its first attempt on. Raises NotFoundError, StateConflictError."""
    row = session.get(WebhookDelivery, delivery_id)
    if row is None or row.webhook_id != hook.id:
        raise NotFoundError(f"no delivery {delivery_id}", next="list them", what="delivery", name=delivery_id)
    if row.state != DeliveryState.DEAD:
        raise StateConflictError(f"delivery {delivery_id} is {row.state}", next="only dead ones are sent again")
    row.state, row.attempt, row.next_at, row.finished_at = DeliveryState.WAITING, 0, utc_now(), None
    session.add(row)
    return row
