"""One attempt of one delivery, and what follows from how it ended."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from tinyfleet_service.database.models import DeliveryState, Event, WebhookDelivery, utc_now
from tinyfleet_service.errors import FleetError
from tinyfleet_service.settings import Settings
from tinyfleet_service.webhooks.guard import check_url, resolve
from tinyfleet_service.webhooks.sign import signature

LONGEST_PAUSE_S = 3600.0
MAX_ANSWER_BYTES = 200


@dataclass(frozen=True)
class Parcel:
    """Everything an attempt needs, apart from the database."""

    delivery_id: int
    url: str
    secret: str
    event: str
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the status that was answered, or an error without one."""

    status: int | None
    error: str

    @property
    def delivered(self) -> bool:
        """Only 2xx counts; a redirect is not followed, it could lead anywhere."""
        return self.status is not None and 200 <= self.status < 300


def make_body(event: Event, name: str, delivery_id: int, project: str) -> bytes:
    """The JSON that travels; `id` is the delivery's."""
    document: dict[str, Any] = {
        "id": delivery_id,
        "event": name,
        "at": event.at.isoformat(),
        "project": project,
        "device": event.device_id,
        "rollout": event.rollout_id,
        "detail": event.detail,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def attempt(parcel: Parcel, settings: Settings) -> Outcome:
    """Post it; never raises, whatever the other side does."""
    now = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tinyfleet-webhooks",
        "Accept-Encoding": "identity",
        "Tinyfleet-Delivery": str(parcel.delivery_id),
        "Tinyfleet-Event": parcel.event,
        "Tinyfleet-Timestamp": str(now),
        "Tinyfleet-Signature": signature(parcel.secret, now, parcel.body),
    }
    try:
        url = check_url(parcel.url, settings.webhook_private_addresses)
        address = resolve(url, settings.webhook_private_addresses)
        return asyncio.run(_post(url, address, headers, parcel.body, settings.webhook_timeout_s))
    except FleetError as error:
        return Outcome(None, error.message)
    except Exception as error:  # of any kind: an error of one receiver must not end the process that serves them all
        return Outcome(None, f"{type(error).__name__}: {error}"[:MAX_ANSWER_BYTES])


async def _post(url: httpx.URL, address: str, headers: dict[str, str], body: bytes, timeout_s: float) -> Outcome:
    """To the checked address, with the name where certificates and virtual hosts need it; the answer is not kept.

    All of it within `timeout_s`: limits of httpx begin anew with every byte that comes.
    """
    status, text = None, b""
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=timeout_s, follow_redirects=False) as client,
            asyncio.timeout(timeout_s),
            client.stream(
                "POST",
                url.copy_with(host=address),
                headers=headers | {"Host": url.netloc.decode()},
                content=body,
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            status = answer.status_code
            if not answer.is_success:
                async for part in answer.aiter_raw():
                    text += part
                    if len(text) >= MAX_ANSWER_BYTES:
                        break
    except TimeoutError:
        if status is None:
            return Outcome(None, f"no answer within {timeout_s:g} s")
    return Outcome(status, text[:MAX_ANSWER_BYTES].decode(errors="replace"))


def settle(row: WebhookDelivery, outcome: Outcome, settings: Settings) -> None:
    """Delivered, dead, or due again: 5 s, 10 s, 20 s ... (`webhook_first_retry_s`), at most an hour, with jitter."""
    now = utc_now()
    row.attempt += 1
    row.last_status, row.last_error = outcome.status, outcome.error
    if outcome.delivered:
        row.state, row.finished_at = DeliveryState.DELIVERED, now
    elif row.attempt >= settings.webhook_attempts:
        row.state, row.finished_at = DeliveryState.DEAD, now
    else:
        pause_s = min(settings.webhook_first_retry_s * 2.0 ** (row.attempt - 1), LONGEST_PAUSE_S)
        row.next_at = now + timedelta(seconds=pause_s * random.uniform(0.75, 1.25))
