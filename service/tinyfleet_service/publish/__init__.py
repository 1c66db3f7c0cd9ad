"""Publishing: outbox, releases, transfer blobs, assignments, roots, the broker's restoration."""

from tinyfleet_service.publish.assignments import (
    DirectorKeys,
    assign,
    handle_waiting,
    refresh_assignment,
    reissue,
    renew_content_keys,
)
from tinyfleet_service.publish.clean import clean_blobs, forget_blobs
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, clean_outbox, drain_outbox, enqueue
from tinyfleet_service.publish.repair import repair_broker
from tinyfleet_service.publish.restore import BrokerSync, load_director, publish_roots, read_retained, restore_broker
from tinyfleet_service.publish.transfers import (
    ensure_transfer,
    is_delta,
    prepare_transfers,
    publish_blob,
    publish_release,
)

__all__ = [
    "CONTROLLER_LEASE",
    "BrokerSync",
    "DirectorKeys",
    "assign",
    "clean_blobs",
    "clean_outbox",
    "drain_outbox",
    "enqueue",
    "ensure_transfer",
    "forget_blobs",
    "handle_waiting",
    "is_delta",
    "load_director",
    "prepare_transfers",
    "publish_blob",
    "publish_release",
    "publish_roots",
    "read_retained",
    "refresh_assignment",
    "reissue",
    "renew_content_keys",
    "repair_broker",
    "restore_broker",
]
