"""Signed webhooks: what happens is told to the operator's own systems. README.md is for who receives them."""

from tinyfleet_service.webhooks.hooks import (
    KINDS,
    create_webhook,
    deliveries_of,
    find_webhook,
    list_webhooks,
    remove_webhook,
    retry_delivery,
)
from tinyfleet_service.webhooks.sign import signature

__all__ = [
    "KINDS",
    "create_webhook",
    "deliveries_of",
    "find_webhook",
    "list_webhooks",
    "remove_webhook",
    "retry_delivery",
    "signature",
]
