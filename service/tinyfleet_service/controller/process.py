"""One leased loop: apply what devices said, tick the rollouts, settle the outbox.

Any number of controllers may run; one holds the lease. Only that one connects to the broker, since all share their
certificate names and a second connection of a name ends the first. One connection hears devices (paho), one carries
the outbox. A step may take longer than the lease, which is renewed between its parts. Every transaction checks the
lease's fence, so a controller that was stopped for longer than its lease writes nothing when it wakes. Every step may
fail or die: the next tick goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tinyfleet_ota import OtaError
from tinyfleet_service import broker
from tinyfleet_service.audit import Act, perform
from tinyfleet_service.broker.pki import DEVICE_DAYS, Pki
from tinyfleet_service.collector import collect_rarely
from tinyfleet_service.controller.hearing import Hearing
from tinyfleet_service.database.device_index import fold_counts
from tinyfleet_service.database.engine import Lease, check_fence, make_engine, session_scope
from tinyfleet_service.database.history import forget_commands, forget_events, forget_notes
from tinyfleet_service.database.keep_lease import Keep, LeaseKeeper
from tinyfleet_service.database.models import Desired, Device, DeviceState, Project, utc_now
from tinyfleet_service.database.object_blobs import open_blobs
from tinyfleet_service.devices.subscriber import StateReader
from tinyfleet_service.devices.twin import asks_for_help, refused_nonce
from tinyfleet_service.errors import BrokerUnavailableError, FleetError, LeaseLostError, UnavailableError
from tinyfleet_service.keys import key_folder
from tinyfleet_service.mqtt import Broker, MqttClient, Publisher
from tinyfleet_service.observe import metrics
from tinyfleet_service.observe.traces import span
from tinyfleet_service.publish import (
    CONTROLLER_LEASE,
    REFRESH_AFTER,
    BackOff,
    BrokerSync,
    clean_blobs,
    clean_outbox,
    forget_blobs,
    handle_waiting,
    load_director,
    outrun,
    overtake,
    publish_roots,
    refresh_assignment,
    refresh_settled,
    reissue,
    renew_content_keys,
    repair_broker,
    send_commands,
)
from tinyfleet_service.rollouts import forget_counters, tick
from tinyfleet_service.settings import Settings
from tinyfleet_service.telemetry import TelemetryStore

NAME, PUBLISHER = "svc-controller", "svc-publisher"
DECIDED = frozenset({"rollout", "decision", "stable_build"})  # what the audit log keeps of a tick
CLEAN_EVERY = timedelta(minutes=5)
CONNECT_S = 5.0
LISTEN_S = 1.0
BLOB_KEPT = timedelta(hours=1)
CERTIFICATES_KEPT = timedelta(days=DEVICE_DAYS + 1)
log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Control until `stop` is set, then give the lease up."""
    collect_rarely()
    controller = Controller(settings, make_engine(settings))
    try:
        while not stop.is_set():
            controller.guarded_step()
            stop.wait(settings.tick_s)
    finally:
        controller.close()


class Controller:
    """State of one controller process: its name, its connection while it holds the lease, what it reads with."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine = settings, engine
        self.store = open_blobs(settings)
        self.telemetry = TelemetryStore(settings)
        self.keys = load_director(settings)
        self.owner = f"controller-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._client: MqttClient | None = None
        self._publisher: Publisher | None = None
        self._reader: StateReader | None = None
        self._sync: BrokerSync | None = None
        self._cleaned_at = utc_now()
        self._events_to = self._commands_to = 0
        self._refreshed_at, self._refreshed_to = self._cleaned_at, ""
        self._back_off = BackOff()
        self._hearing = Hearing(settings.lease_s)
        self.connect_s = min(CONNECT_S, settings.lease_s / 3)  # a dead broker must not cost the lease

    def guarded_step(self) -> bool:
        """`step`, surviving a database, broker or disk that is away; True when this controller holds the lease."""
        held, outcome = False, "failed"
        try:
            with metrics.TICK_SECONDS.time(), span("controller step"):
                held = self.step()
            outcome = "done" if held else "standby"
        except LeaseLostError as error:
            log.warning("%s", error)
            self._disconnect()
        except (FleetError, OtaError) as error:
            log.error("tick failed: %s", error)
        metrics.TICKS.labels(outcome).inc()
        metrics.LEASE_HELD.set(held)
        return held

    def step(self) -> bool:
        """One tick, when the lease is ours. Raises LeaseLostError and UnavailableError."""
        fence = self._lease()
        if fence is None:
            self._disconnect()
            return False
        self._connect()
        assert self._client is not None
        keep = LeaseKeeper(self.engine, CONTROLLER_LEASE, fence, self.settings.lease_s)
        self._listen(keep)
        self._follow_roots(fence)
        self._refresh(fence)
        self._help_devices(fence)
        keep()
        now, connection = utc_now(), self._client.connections if self._client.connected else None
        silence_from = self._hearing.silence_from(now, connection)
        with perform(Act("tick", actor=f"controller ({self.owner})", tables=DECIDED)):
            made = tick(
                self.engine, self.store, self.telemetry, self.keys, fence, now, keep=keep, silence_from=silence_from
            )
        metrics.ASSIGNMENTS.inc(made)
        self._settle(fence, keep)
        self._hearing.done()
        return True

    def close(self) -> None:
        """Disconnect and give the lease up, so that another controller need not wait for its end."""
        self._disconnect()
        try:
            Lease.release(self.engine, CONTROLLER_LEASE, self.owner)
        except FleetError as error:
            log.error("cannot give the lease up: %s", error)

    def _lease(self) -> int | None:
        return Lease.acquire(self.engine, CONTROLLER_LEASE, self.owner, self.settings.lease_s)

    def _connect(self) -> None:
        if self._client is not None:
            return
        pki, host, port = Pki.load(self.settings), broker.address(self.settings), self.settings.broker_port
        files = pki.service(NAME)
        self._client = MqttClient(
            host,
            port,
            ca=files.ca,
            certificate=files.certificate,
            key=files.key,
            client_id=NAME,
            clean_session=False,  # the broker keeps events for us while we are away,
            manual_ack=True,  # and until they are committed
        )
        self._reader = StateReader(self.settings, self.engine, self._client)
        self._publisher = Publisher(Broker(host, port, pki.service(PUBLISHER)), PUBLISHER)
        self._sync = BrokerSync(self.engine, self.store, self._client, self._publisher, self.keys)
        self._client.start()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._publisher is not None:
            self._publisher.close()
        self._client = self._publisher = self._reader = self._sync = None

    def _listen(self, keep: Keep) -> None:
        """Apply what devices said, for a moment: however much comes, rollouts go on and others get to write."""
        assert self._reader is not None
        until_s = time.monotonic() + LISTEN_S
        while self._reader.waiting:
            self._reader.apply()
            keep()
            if time.monotonic() > until_s:
                break

    def _follow_roots(self, fence: int) -> None:
        """Take keys of a new root, and sign anew what a former director signed."""
        if key_folder(self.settings).count_roots() != len(self.keys.roots):
            self.keys = load_director(self.settings)
            assert self._sync is not None
            self._sync.keys = self.keys
            log.warning("root %s: director epoch %s", len(self.keys.roots), self.keys.director_epoch)
        with session_scope(self.engine) as session:
            if count := reissue(session, self.keys, fence, back_off=self._back_off):
                log.info("%s assignments signed anew", count)
            if count := renew_content_keys(session, self.store, self.keys, fence, back_off=self._back_off):
                log.info("%s assignments with another content key", count)

    def _refresh(self, fence: int) -> None:
        """Sign anew what is old, some hundreds of the fleet's assignments a tick; between two rounds it rests."""
        now = utc_now()
        if not self._refreshed_to and now - self._refreshed_at < CLEAN_EVERY:
            return
        with session_scope(self.engine) as session:
            before = now - REFRESH_AFTER
            count, self._refreshed_to = refresh_settled(
                session, self.keys, before, self._refreshed_to, fence=fence, back_off=self._back_off
            )
        self._refreshed_at = now
        if count:
            log.info("%s assignments signed anew, so that their devices know them to be fresh", count)

    def _help_devices(self, fence: int) -> None:
        """Devices that wait for a chunk, refused an assignment, gave a download up, or outran a restored database.

        One in trouble stops no other. Those that outran it wait for the end of a freeze.
        """
        with session_scope(self.engine) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            for device, desired, frozen_at in session.exec(_in_trouble()):
                ahead = outrun(device, desired)
                if not (ahead or asks_for_help(device.reported)) or (ahead and frozen_at is not None):
                    continue
                try:
                    with session.begin_nested():
                        self._overtake(session, device, fence) if ahead else self._help(session, device, fence)
                except UnavailableError:
                    raise
                except FleetError as error:
                    log.error("cannot help a device: %s", error, extra={"device": device.id})

    def _overtake(self, session: Session, device: Device, fence: int) -> None:
        desired = overtake(session, self.store, self.keys, device, fence)
        facts = {"device": device.id, "sequence": desired.sequence}
        log.warning("a device is ahead of the database, which was restored: assigned anew", extra=facts)

    def _help(self, session: Session, device: Device, fence: int) -> None:
        if device.reported.get("waiting"):
            handle_waiting(session, self.store, self.keys, device, fence)
        if refused_nonce(device.reported):
            refresh_assignment(session, self.keys, device, fence)
        if done := repair_broker(session, self.store, device, fence):
            log.warning("%s damaged on the broker: published again", done, extra={"device": device.id})

    def _settle(self, fence: int, keep: Keep) -> None:
        """Publish what the database says. A broker that is away stops nothing else: the outbox keeps it."""
        keep()
        assert self._sync is not None
        assert self._client is not None
        with session_scope(self.engine) as session:
            check_fence(session, CONTROLLER_LEASE, fence)
            publish_roots(session, self.keys, fence)
            send_commands(session, self.keys, fence)
            self._clean(session, fence)
            fold_counts(session)
        try:
            self._client.wait_connected(self.connect_s)
            self._sync.run(fence, keep)
        except BrokerUnavailableError as error:
            log.error("%s", error)

    def _clean(self, session: Session, fence: int) -> None:
        now = utc_now()
        if now - self._cleaned_at < CLEAN_EVERY:
            return
        self._cleaned_at = now
        clean_blobs(session, now - BLOB_KEPT, fence)
        forget_blobs(session, self.store)
        clean_outbox(session)
        before = now - timedelta(days=self.settings.event_days)
        _, self._events_to = forget_events(session, before, now - CERTIFICATES_KEPT, self._events_to)
        _, self._commands_to = forget_commands(session, before, self._commands_to)
        forget_notes(session, before)
        forget_counters(session, now - timedelta(days=self.settings.snapshot_days), now)


def _in_trouble() -> Any:
    """Devices that may ask for help, with assignment and freeze: they are marked, so that no tick looks at a fleet."""
    query = select(Device, Desired, Project.frozen_at).join(Desired, col(Desired.device_id) == col(Device.id))
    query = query.join(Project, col(Project.id) == col(Device.project_id))
    return query.where(Device.state == DeviceState.ENROLLED, col(Device.needs_help).is_(True))
