"""Tables of the control plane.

Times are aware UTC datetimes. Digests are lower-case hex SHA-256; an *image id* is the first 32 hex digits of an image
digest.
States are plain strings from the `StrEnum`s below, stored as text so that a new state needs no migration.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from tinyfleet_service.database.types import UtcDateTime

# Every constraint has a predictable name, so that a migration can drop it on any database.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def utc_now() -> datetime:
    """The current time, aware, UTC."""
    return datetime.now(UTC)


def _time(*, nullable: bool = True, index: bool = False) -> Any:
    return Field(default=None, sa_type=UtcDateTime(), nullable=nullable, index=index)


def _created() -> Any:
    return Field(default_factory=utc_now, sa_type=UtcDateTime(), nullable=False)


MODEL = "model/0"
"""The component of a device that runs one model; `Device.active_image` is what this one runs."""
FIRMWARE = "firmware"


class BuildState(StrEnum):
    """QUEUED -> RUNNING -> AWAITING_SIGNATURE -> READY, or FAILED (compiler error), MISFIT (does not fit the class)."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_SIGNATURE = "awaiting-signature"
    READY = "ready"
    FAILED = "failed"
    MISFIT = "misfit"
    CANCELLED = "cancelled"


class Approval(StrEnum):
    """Whether people let a version go out."""

    NONE = "none"
    APPROVED = "approved"
    REJECTED = "rejected"


class DeviceState(StrEnum):
    """ENROLLED devices take part; REVOKED and QUARANTINED ones do not."""

    ENROLLED = "enrolled"
    REVOKED = "revoked"
    QUARANTINED = "quarantined"


class CommandState(StrEnum):
    """WAITING for the controller, SENT until answered: DONE or REFUSED by the device; EXPIRED without an answer."""

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"
    REFUSED = "refused"
    EXPIRED = "expired"


UNANSWERED = (CommandState.WAITING, CommandState.SENT)


class DeliveryState(StrEnum):
    """WAITING for its (next) attempt, DELIVERED, or DEAD after the last attempt failed."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


class RolloutState(StrEnum):
    """RUNNING and PAUSED are live, HELD and PENDING wait for a person; the others are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    HELD = "held"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


class RolloutStage(StrEnum):
    """Where a rollout is; `wave` counts within WAVES."""

    SHADOW = "shadow"
    CANARY = "canary"
    WAVES = "waves"
    DONE = "done"


class MemberStatus(StrEnum):
    """What is known of one device in one rollout."""

    PLANNED = "planned"
    ASSIGNED = "assigned"
    DOWNLOADING = "downloading"
    SHADOWING = "shadowing"
    TESTING = "testing"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    SILENT = "silent"
    UNDOING = "undoing"
    UNDONE = "undone"
    SKIPPED = "skipped"


class Project(SQLModel, table=True):
    """A tenant: models, devices, tokens and rollouts belong to exactly one."""

    __tablename__ = "project"
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=64)
    frozen_at: datetime | None = _time()
    frozen_by: str = ""
    created_at: datetime = _created()


class ApiToken(SQLModel, table=True):
    """A bearer token, stored only as SHA-256."""

    __tablename__ = "api_token"
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    name: str
    role: str = "admin"
    scopes: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    token_sha256: str = Field(unique=True, max_length=64)
    created_at: datetime = _created()
    expires_at: datetime | None = _time()


class WebSession(SQLModel, table=True):
    """A login at the dashboard: of an API token, or of a person whom the identity provider named."""

    __tablename__ = "web_session"
    id: int | None = Field(default=None, primary_key=True)
    cookie_sha256: str = Field(unique=True, max_length=64)
    project_id: int = Field(foreign_key="project.id")
    token_id: int | None = None
    name: str
    role: str
    created_at: datetime = _created()
    expires_at: datetime = _time(nullable=False)


class ProjectClass(SQLModel, table=True):
    """A device class this project builds for: the TOML text that `tinyfleet_compiler` reads."""

    __tablename__ = "project_class"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    name: str = Field(max_length=64)
    toml: str
    encrypted: bool = False


class StableBuild(SQLModel, table=True):
    """The newest promoted build of a component per class: what joiners get that its rollout was for."""

    __tablename__ = "stable_build"
    __table_args__ = (UniqueConstraint("project_id", "component", "device_class"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    component: str = MODEL
    device_class: str
    build_id: int = Field(foreign_key="build.id")
    rollout_id: int | None = Field(default=None, foreign_key="rollout.id")
    since: datetime = _created()


class Model(SQLModel, table=True):
    """A registered model name."""

    __tablename__ = "model"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    name: str = Field(max_length=64)
    component: str = MODEL
    gates: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    """Policies of gates for rollouts that do not ask otherwise, see `rollouts/policy.py`."""
    created_at: datetime = _created()


class ModelVersion(SQLModel, table=True):
    """An immutable version `name:vN`; the same name with other bytes is refused."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("model_id", "version"),)
    id: int | None = Field(default=None, primary_key=True)
    model_id: int = Field(foreign_key="model.id", index=True)
    version: str = Field(max_length=32)
    file_name: str = ""
    model_sha256: str = Field(max_length=64)
    model_bytes: int
    calibration_sha256: str | None = None
    evaluation_sha256: str | None = None
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    lineage: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    approval: str = Approval.NONE
    approved_by: str = ""
    created_at: datetime = _created()


class ModelAlias(SQLModel, table=True):
    """A name of a version that may move to another: `model@champion`."""

    __tablename__ = "model_alias"
    __table_args__ = (UniqueConstraint("model_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    model_id: int = Field(foreign_key="model.id")
    name: str = Field(max_length=32)
    version_id: int = Field(foreign_key="model_version.id")


class Build(SQLModel, table=True):
    """One version compiled for one class. Leased by a builder: a row RUNNING past `lease_until` is taken by another."""

    __tablename__ = "build"
    __table_args__ = (UniqueConstraint("version_id", "device_class"),)
    id: int | None = Field(default=None, primary_key=True)
    version_id: int = Field(foreign_key="model_version.id", index=True)
    device_class: str = Field(index=True)
    state: str = Field(default=BuildState.QUEUED, index=True)
    attempt: int = 0
    lease_owner: str | None = None
    lease_until: datetime | None = _time()
    error: str | None = None
    image_sha256: str | None = Field(default=None, index=True)
    image_bytes: int | None = None
    report: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    report_html_sha256: str | None = None
    sections: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    abi: int | None = None
    release_counter: int | None = Field(default=None, unique=True)
    security_floor: int = 0
    manifest: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    manifest_sha256: str | None = None
    created_at: datetime = _created()
    finished_at: datetime | None = _time()


class BuildNote(SQLModel, table=True):
    """One line of the log of a build."""

    __tablename__ = "build_note"
    id: int | None = Field(default=None, primary_key=True)
    build_id: int = Field(foreign_key="build.id", index=True)
    attempt: int
    text: str
    at: datetime = _created()


class TransferBlob(SQLModel, table=True):
    """What travels to devices: an image raw, or a delta from one base. The bytes are in the blob store.

    An encrypted one is a row of its own beside the plain one that it was made from, under a key that no other row has;
    the key rests wrapped for the installation's own `content.pem`.
    """

    __tablename__ = "transfer_blob"
    __table_args__ = (UniqueConstraint("image_sha256", "base_sha256", "encrypted"),)
    id: int | None = Field(default=None, primary_key=True)
    sha256: str = Field(index=True)
    blob_bytes: int
    codec: int
    image_sha256: str
    base_sha256: str = ""
    chunk_bytes: int = 1024
    choices: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    encrypted: bool = False
    content_key: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    published_at: datetime | None = _time()
    withdrawn_at: datetime | None = _time()
    created_at: datetime = _created()


_NEEDS_HELP = text("needs_help")


class Device(SQLModel, table=True):
    """A device and the twin the service keeps of it; `reported` is the last `state` message, decoded to names.

    `needs_help`: by its last report or its sequence it may be one of those that the controller looks after each tick.
    """

    __tablename__ = "device"
    __table_args__ = (
        Index("ix_device_by_class", "project_id", "device_class", "id"),
        Index("ix_device_by_state", "project_id", "state", "id"),
        Index("ix_device_by_image", "project_id", "active_image", "id"),
        Index("ix_device_by_id", "project_id", "id"),
        Index(
            "ix_device_needs_help", "needs_help", postgresql_where=text("needs_help"), sqlite_where=text("needs_help")
        ),
    )
    id: str = Field(primary_key=True, max_length=64)
    project_id: int = Field(foreign_key="project.id")
    device_class: str
    tags: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    state: str = DeviceState.ENROLLED
    certificate_serial: str | None = None
    certificate_not_after: datetime | None = _time()
    public_key: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # of the newest certificate, 33 bytes
    enrolled_at: datetime = _created()
    last_seen_at: datetime | None = _time(index=True)
    reported: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    reported_at: datetime | None = _time()
    reported_sequence: int = Field(default=0, sa_type=BigInteger)
    director_epoch: int = 0
    nonce: str | None = None
    active_image: str | None = Field(default=None, max_length=32)
    report_interval_s: int = 60
    sleep_max_s: int = 0
    needs_help: bool = False


class DeviceTag(SQLModel, table=True):
    """A tag of a device as a row, for selectors; `Device.tags` is the truth (`database/device_index.py`)."""

    __tablename__ = "device_tag"
    __table_args__ = (Index("ix_device_tag_value", "project_id", "name", "value", "device_id"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    name: str = Field(primary_key=True)
    project_id: int
    value: str


class DeviceGroup(SQLModel, table=True):
    """A named set of devices that people put together. `devices` and `by_class` follow the members, in the same
    transaction; the class of a device never changes."""

    __tablename__ = "device_group"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id")
    name: str = Field(max_length=64)
    description: str = ""
    devices: int = 0
    by_class: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    created_by: str = ""
    created_at: datetime = _created()


class GroupMember(SQLModel, table=True):
    """A device in a group; the keys are in the order of a group's pages."""

    __tablename__ = "group_member"
    __table_args__ = (Index("ix_group_member_device", "device_id"),)
    group_id: int = Field(primary_key=True, foreign_key="device_group.id")
    device_id: str = Field(primary_key=True, foreign_key="device.id", max_length=64)


class FleetCount(SQLModel, table=True):
    """A change of how many devices there are of a kind; the sum is the number (`database/device_index.py`)."""

    __tablename__ = "fleet_count"
    __table_args__ = (Index("ix_fleet_count_key", "project_id", "kind", "key"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int
    kind: str
    key: str
    change: int


class DeviceCommand(SQLModel, table=True):
    """What one device is to do once. `number` orders commands within a director epoch, 0 before the first sending.

    `newest`: what the device said it had carried out last, when it refused the number as old.
    """

    __tablename__ = "device_command"
    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(foreign_key="device.id", index=True, max_length=64)
    number: int = 0
    director_epoch: int = 0
    newest: int = 0
    sends: int = 0
    action: str
    state: str = Field(default=CommandState.WAITING, index=True)
    reason: str = ""
    created_by: str = ""
    created_at: datetime = _created()
    expires_at: datetime = _time(nullable=False)
    sent_at: datetime | None = _time()
    finished_at: datetime | None = _time()


class Desired(SQLModel, table=True):
    """The newest assignment of each device, as signed: one entry per component; the retained topic is a copy."""

    __tablename__ = "desired"
    __table_args__ = (Index("ix_desired_epoch", "director_epoch"),)
    device_id: str = Field(primary_key=True, foreign_key="device.id")
    sequence: int = Field(sa_type=BigInteger)
    director_epoch: int = 0
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    nonce: str | None = None
    assigned_at: datetime = _created()


class DesiredEntry(SQLModel, table=True):
    """What one component of a device shall run: an entry of its assignment, which has one for every row here.

    (`director_epoch`, `sequence`) is the assignment that brought the entry as it is; later ones took it over unchanged.
    `since`: when this build, up to this state, was assigned.
    """

    __tablename__ = "desired_entry"
    device_id: str = Field(primary_key=True, foreign_key="desired.device_id", max_length=64)
    component: str = Field(primary_key=True, max_length=16)
    build_id: int = Field(foreign_key="build.id")
    until: int
    blob_id: int = Field(foreign_key="transfer_blob.id")
    rollout_id: int | None = Field(default=None, foreign_key="rollout.id")
    director_epoch: int = 0
    sequence: int = Field(sa_type=BigInteger)
    wrapped_for: bytes | None = Field(default=None, sa_column=Column(LargeBinary))  # key that opens the content key
    since: datetime = _created()


class Rollout(SQLModel, table=True):
    """One version going to one set of devices. `spec` is the accepted plan; the rest is where it stands."""

    __tablename__ = "rollout"
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    version_id: int = Field(foreign_key="model_version.id")
    previous_version_id: int | None = Field(default=None, foreign_key="model_version.id")
    component: str = MODEL
    spec: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    plan: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    salt: str
    state: str = Field(default=RolloutState.RUNNING, index=True)
    stage: str = RolloutStage.SHADOW
    wave: int = 0
    stage_since: datetime = _created()
    reason: str = ""
    look: int = 0
    requested: str | None = None  # operator's pending verb
    created_by: str = ""
    created_at: datetime = _created()
    finished_at: datetime | None = _time()
    counters_removed_at: datetime | None = _time()  # `rollouts/forget.py`


class RolloutMember(SQLModel, table=True):
    """Membership, drawn once per stratum by rank of hash(device, salt): wave 0 = canary, 1.. = waves, holdout last.

    `due_at`: when time alone may change the status, so that a tick has to look at it.
    """

    __tablename__ = "rollout_member"
    __table_args__ = (
        UniqueConstraint("rollout_id", "device_id"),
        Index("ix_member_device", "device_id"),
        Index("ix_member_status", "rollout_id", "status"),
        Index("ix_member_due", "rollout_id", "due_at"),
    )
    id: int | None = Field(default=None, primary_key=True)
    rollout_id: int = Field(foreign_key="rollout.id")
    device_id: str = Field(foreign_key="device.id")
    device_class: str
    stratum: str
    rank: int = Field(sa_type=BigInteger)
    wave: int
    holdout: bool = False
    joiner: bool = False
    build_id: int = Field(foreign_key="build.id")
    previous_build_id: int | None = Field(default=None, foreign_key="build.id")
    status: str = MemberStatus.PLANNED
    reason: int = 0
    codec: int | None = None
    bytes_full: int = 0
    bytes_sent: int = 0
    assigned_at: datetime | None = _time()
    heard_at: datetime | None = _time()
    shadowed_at: datetime | None = _time()
    activated_at: datetime | None = _time()
    confirmed_at: datetime | None = _time()
    silent_at: datetime | None = _time()
    finished_at: datetime | None = _time()
    due_at: datetime | None = _time()


class RolloutProgress(SQLModel, table=True):
    """Where the controller stands in a rollout. It saves work and decides nothing: a missing row means all anew.

    `stale`: every member is to be looked at. `pass_after`: the last device of the pass through all members that gives
    them what they lack; "" before the first, None when the pass is over. `look_at`: not before is a look due.
    `starts_at`: from then on controls are to be matched with canaries that have begun.
    """

    __tablename__ = "rollout_progress"
    rollout_id: int = Field(primary_key=True, foreign_key="rollout.id")
    stale: bool = True
    pass_after: str | None = ""
    look_at: datetime | None = _time()
    starts_at: datetime | None = _time()


class DeviceChange(SQLModel, table=True):
    """A device whose twin was written since a tick last looked at it (`database/device_index.py`).

    Every state and event takes a number: those of an integer would last a million devices for some weeks.
    """

    __tablename__ = "device_change"
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger().with_variant(Integer(), "sqlite"))
    device_id: str


class SnapshotPage(SQLModel, table=True):
    """Counters of one image on devices of one arm, frozen at their start (`look` 0) or at a look: every decision can be
    recomputed until they are removed. `columns` holds the devices' ids too (`rollouts/frozen.py`).
    """

    __tablename__ = "snapshot_page"
    __table_args__ = (Index("ix_snapshot_page", "rollout_id", "stage", "look"),)
    id: int | None = Field(default=None, primary_key=True)
    rollout_id: int = Field(foreign_key="rollout.id")
    stage: str
    look: int
    arm: str  # canary or control
    kind: str  # activation, look, late, taken
    image_id: str
    devices: int
    columns: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    taken_at: datetime = _created()


class Decision(SQLModel, table=True):
    """One gate at one look: its numbers, its rule and its outcome (promote, hold, rollback)."""

    __tablename__ = "decision"
    id: int | None = Field(default=None, primary_key=True)
    rollout_id: int = Field(foreign_key="rollout.id", index=True)
    stage: str
    wave: int = 0
    look: int
    gate: str
    required: bool
    outcome: str
    summary: str
    numbers: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    at: datetime = _created()


class Event(SQLModel, table=True):
    """What happened, append-only: device events (idempotent by device, boot, number) and the service's own."""

    __tablename__ = "event"
    __table_args__ = (UniqueConstraint("device_id", "boot", "number"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    device_id: str | None = Field(default=None, index=True)
    boot: int | None = None
    number: int | None = None
    rollout_id: int | None = Field(default=None, index=True)
    kind: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    at: datetime = _created()


class AuditEntry(SQLModel, table=True):
    """Who changed what, append-only, hash-chained within the project: `audit/chain.py`."""

    __tablename__ = "audit_entry"
    __table_args__ = (UniqueConstraint("project_id", "number"),)
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    number: int
    at: str
    actor: str
    action: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    before_sha256: str | None = None
    after_sha256: str | None = None
    previous_sha256: str
    entry_sha256: str


class Webhook(SQLModel, table=True):
    """Where events of a project are sent; the secret is encrypted under a key of the service."""

    __tablename__ = "webhook"
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    url: str
    events: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_after: int = 0  # number of the newest event when it was made
    after_event: int = 0  # number of the newest event that has a delivery
    created_at: datetime = _created()


class WebhookDelivery(SQLModel, table=True):
    """One event on its way to one webhook."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (UniqueConstraint("webhook_id", "event_id"), Index("ix_webhook_delivery_due", "state", "next_at"))
    id: int | None = Field(default=None, primary_key=True)
    webhook_id: int = Field(foreign_key="webhook.id")
    event_id: int = Field(foreign_key="event.id")
    event: str
    state: str = DeliveryState.WAITING
    attempt: int = 0
    next_at: datetime = _time(nullable=False)
    last_status: int | None = None
    last_error: str = ""
    created_at: datetime = _created()
    finished_at: datetime | None = _time()


class Outbox(SQLModel, table=True):
    """MQTT publishes committed with the state they announce; the controller sends and marks them."""

    __tablename__ = "outbox"
    id: int | None = Field(default=None, primary_key=True)
    topic: str
    payload: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    retain: bool = True
    qos: int = 1
    fence: int = 0
    created_at: datetime = _created()
    published_at: datetime | None = _time(index=True)


class Lease(SQLModel, table=True):
    """A named lease on database time with a fencing number that grows with each new owner."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    owner: str
    until: datetime = _time(nullable=False)
    fence: int = 0


class ClaimCertificate(SQLModel, table=True):
    """A claim certificate: good for enrolment at the EST endpoint only, within its quota."""

    __tablename__ = "claim_certificate"
    id: int | None = Field(default=None, primary_key=True)
    project_id: int = Field(foreign_key="project.id", index=True)
    name: str
    serial: str = Field(unique=True)
    device_class: str
    tags: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    quota: int = 1000
    used: int = 0
    created_at: datetime = _created()
    not_after: datetime | None = _time()
    revoked_at: datetime | None = _time()
