"""Publishing: outbox, releases, transfer blobs, assignments, roots, the broker's restoration."""

from tinyfleet_service.publish.ahead import builds_to_prepare, pairs_to_prepare
from tinyfleet_service.publish.anew import (
    REFRESH_AFTER,
    follow_signature,
    handle_waiting,
    outrun,
    overtake,
    refresh_assignment,
    refresh_settled,
    reissue,
    renew_content_keys,
)
from tinyfleet_service.publish.assign_many import Assigned, Order, assign_many, withdraw_many
from tinyfleet_service.publish.assignments import DirectorKeys, assign
from tinyfleet_service.publish.back_off import BackOff
from tinyfleet_service.publish.bases import base_ids, running_image
from tinyfleet_service.publish.choices import Choice, all_choices, form_of, transfer_choices
from tinyfleet_service.publish.clean import clean_blobs, forget_blobs
from tinyfleet_service.publish.commands import send_commands
from tinyfleet_service.publish.outbox import CONTROLLER_LEASE, clean_outbox, drain_outbox, enqueue
from tinyfleet_service.publish.repair import repair_broker
from tinyfleet_service.publish.restore import BrokerSync, load_director, publish_roots, read_retained, restore_broker
from tinyfleet_service.publish.transfers import (
    ensure_transfer,
    prepare_transfers,
    publish_blob,
    publish_release,
)

__all__ = [
    "CONTROLLER_LEASE",
    "REFRESH_AFTER",
    "Assigned",
    "BackOff",
    "BrokerSync",
    "Choice",
    "DirectorKeys",
    "Order",
    "all_choices",
    "assign",
    "assign_many",
    "base_ids",
    "builds_to_prepare",
    "clean_blobs",
    "clean_outbox",
    "drain_outbox",
    "enqueue",
    "ensure_transfer",
    "follow_signature",
    "forget_blobs",
    "form_of",
    "handle_waiting",
    "load_director",
    "outrun",
    "overtake",
    "pairs_to_prepare",
    "prepare_transfers",
    "publish_blob",
    "publish_release",
    "publish_roots",
    "read_retained",
    "refresh_assignment",
    "refresh_settled",
    "reissue",
    "renew_content_keys",
    "repair_broker",
    "restore_broker",
    "running_image",
    "send_commands",
    "transfer_choices",
    "withdraw_many",
]
