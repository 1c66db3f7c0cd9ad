"""Webhooks against real HTTP receivers: signatures, retries, dead letters, a killed sender, private addresses."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlmodel import SQLModel, select

import web
from integration.fleet_support import eventually
from integration.test_api_limits import log_in
from service_harness import Api, running_api
from tinyfleet_service.database import models
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.models import Event, WebhookDelivery, utc_now
from tinyfleet_service.errors import ForbiddenError, InvalidInputError, NotFoundError, StateConflictError
from tinyfleet_service.webhooks import create_webhook
from tinyfleet_service.webhooks.guard import is_public
from tinyfleet_service.webhooks.process import AT_ONCE, FORGET_EVERY_S, LEASE, Sender
from tinyfleet_service.webhooks.send import Parcel, attempt

QUICK = {"webhook_private_addresses": True, "webhook_attempts": 3, "webhook_timeout_s": 5.0}


@dataclass
class Receiver:
    """A receiver that checks nothing: it keeps what comes and answers what it is told."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hold: threading.Event | None = None


@contextmanager
def receiving(hold: threading.Event | None = None) -> Iterator[Receiver]:
    receiver = Receiver(hold=hold)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.got.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            if receiver.hold is not None:
                receiver.hold.wait(30)
            status = receiver.answers.pop(0) if receiver.answers else 204
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/stolen")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data"), dashboard=True, **QUICK) as api:
        yield api


@pytest.fixture
def sender(api: Api) -> Iterator[Sender]:
    sender = Sender(api.settings, make_engine(api.settings))
    yield sender
    sender.close()
    for hook in api.client().webhooks():
        api.client().remove_webhook(hook["id"])


def happen(api: Api, kind: str, **detail: Any) -> int:
    with session_scope(api.engine) as session:
        event = Event(project_id=1, kind=kind, device_id="d-1", detail=detail)
        session.add(event)
        session.flush()
        assert event.id is not None
        return event.id


def make_all_due(api: Api) -> None:
    with session_scope(api.engine) as session:
        for row in session.exec(select(WebhookDelivery)):
            row.next_at = utc_now() - timedelta(seconds=1)
            session.add(row)


def test_an_event_arrives_signed_and_once(api: Api, sender: Sender) -> None:
    happen(api, "rollout_promoted", before="the webhook")
    with receiving() as receiver:
        hook = api.client().create_webhook(receiver.url)
        happen(api, "quarantined", reported_class="host")
        happen(api, "boot")  # nobody asked for these
        assert sender.step() == 1
        assert sender.step() == 0
        (headers, body), *more = receiver.got
        assert more == []
        message = json.loads(body)
        assert (message["event"], message["device"], message["project"]) == ("device.quarantined", "d-1", "default")
        assert message["detail"] == {"reported_class": "host"}
        assert headers["Tinyfleet-Delivery"] == str(message["id"])
        signed = f"{headers['Tinyfleet-Timestamp']}.".encode() + body
        expected = hmac.new(hook["secret"].encode(), signed, hashlib.sha256).hexdigest()
        assert headers["Tinyfleet-Signature"] == f"v1={expected}"
    assert "secret" not in json.dumps(api.client().webhooks())
    with session_scope(api.engine, read_only=True) as session:
        stored = [session.connection().execute(table.select()).all() for table in SQLModel.metadata.sorted_tables]
    assert hook["url"] in repr(stored)
    assert hook["secret"] not in repr(stored)


def test_only_the_events_asked_for(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        api.client().create_webhook(receiver.url, ["build.failed", "rollout.held"])
        for kind in ("build.failed", "build.ready", "rollout_held", "member_silent"):
            happen(api, kind)
        assert sender.step() == 2
        assert sorted(json.loads(body)["event"] for _, body in receiver.got) == ["build.failed", "rollout.held"]


def test_events_that_commit_late_are_not_lost(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        api.client().create_webhook(receiver.url)
        late = happen(api, "build.failed")
        for kind in ("build.ready", "boot", "boot", "boot", "build.ready"):
            happen(api, kind)
        with session_scope(api.engine) as session:  # not committed yet, as others see it
            session.delete(session.get_one(Event, late))
        assert sender.step() == 2
        with session_scope(api.engine) as session:
            session.add(Event(id=late, project_id=1, kind="build.failed"))
        assert sender.step() == 1
        assert json.loads(receiver.got[-1][1])["event"] == "build.failed"


def test_what_was_delivered_long_ago_is_not_sent_again(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        api.client().create_webhook(receiver.url)
        happen(api, "quarantined")
        assert sender.step() == 1
        with session_scope(api.engine) as session:
            delivery = session.exec(select(WebhookDelivery)).one()
            delivery.finished_at = session.get_one(Event, delivery.event_id).at = utc_now() - timedelta(days=8)
        sender._forgot_at -= FORGET_EVERY_S
        assert sender.step() == 0
        with session_scope(api.engine, read_only=True) as session:
            assert session.exec(select(WebhookDelivery)).all() == []
        assert sender.step() == 0
        assert len(receiver.got) == 1


def test_a_sender_that_was_away_for_long_sends_what_it_missed(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        api.client().create_webhook(receiver.url)
        missed = happen(api, "quarantined")
        with session_scope(api.engine) as session:
            session.get_one(Event, missed).at = utc_now() - timedelta(days=8)
        assert sender.step() == 1
        assert len(receiver.got) == 1


def test_a_failing_receiver_is_tried_again_later_each_time(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        hook = api.client().create_webhook(receiver.url)
        receiver.answers = [500, 302]
        happen(api, "build.ready")
        pauses = []
        for _ in range(2):
            assert sender.step() == 1
            assert sender.step() == 0  # not due yet
            (row,) = api.client().webhook_deliveries(hook["id"], "waiting")
            with session_scope(api.engine, read_only=True) as session:
                pauses.append((session.get_one(WebhookDelivery, row["id"]).next_at - utc_now()).total_seconds())
            make_all_due(api)
        assert (row["attempt"], row["last_status"]) == (2, 302)
        assert 0 < pauses[0] <= 6.25
        assert 6.5 < pauses[1] <= 12.5
        assert sender.step() == 1
        (row,) = api.client().webhook_deliveries(hook["id"], "delivered")
        assert (row["attempt"], row["last_status"]) == (3, 204)
        assert len({headers["Tinyfleet-Delivery"] for headers, _ in receiver.got}) == 1


def test_after_the_last_attempt_it_is_dead_and_can_be_sent_again(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        hook = api.client().create_webhook(receiver.url)
        receiver.answers = [500] * 3
        happen(api, "build.ready")
        for _ in range(3):
            sender.step()
            make_all_due(api)
        assert sender.step() == 0
        (row,) = api.client().webhook_deliveries(hook["id"], "dead")
        assert (row["attempt"], row["last_status"]) == (3, 500)
        with web.Client(base_url=api.url) as browser:
            log_in(browser, api)
            page = browser.get("/dashboard/settings").text
        assert f"fleetctl webhook retry {hook['id']} {row['id']}" in page
        api.client().retry_delivery(hook["id"], row["id"])
        assert sender.step() == 1
        assert [r["state"] for r in api.client().webhook_deliveries(hook["id"])] == ["delivered"]
        with pytest.raises(StateConflictError):
            api.client().retry_delivery(hook["id"], row["id"])
        with pytest.raises(NotFoundError):
            api.client().retry_delivery(hook["id"], 10**6)


def test_a_receiver_that_is_away_does_not_hold_up_another(api: Api, sender: Sender) -> None:
    with receiving() as gone, receiving() as there:
        away = api.client().create_webhook(gone.url.replace("127.0.0.1", "[::1]"))  # nobody listens there
        api.client().create_webhook(there.url)
        happen(api, "build.ready")
        assert sender.step() == 2
        assert len(there.got) == 1
        (row,) = api.client().webhook_deliveries(away["id"])
        assert (row["state"], row["last_status"]) == ("waiting", None)
        assert "Connect" in row["last_error"]


def test_an_error_nobody_thought_of_does_not_hold_up_another(
    api: Api, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as there:
        bad = api.client().create_webhook(there.url + "bad")
        api.client().create_webhook(there.url)
        happen(api, "build.ready")
        monkeypatch.setattr(
            "tinyfleet_service.webhooks.send.check_url",
            lambda url, _: httpx.URL("http://127.0.0.1:99999/" if url.endswith("bad") else url),
        )
        assert sender.step() == 2
        assert len(there.got) == 1
        assert api.client().webhook_deliveries(bad["id"])[0]["last_error"]


def test_a_receiver_with_much_to_get_lets_others_in_between(api: Api, sender: Sender) -> None:
    with receiving() as busy, receiving() as other:
        hook = api.client().create_webhook(busy.url, ["build.failed"])
        api.client().create_webhook(other.url, ["build.ready"])
        for _ in range(AT_ONCE + 2):
            happen(api, "build.failed")
        happen(api, "build.ready")
        assert sender.step() == AT_ONCE
        assert (len(busy.got), len(other.got)) == (AT_ONCE - 1, 1)
        assert sender.step() == 3
        assert [r["state"] for r in api.client().webhook_deliveries(hook["id"])] == ["delivered"] * (AT_ONCE + 2)


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\nContent-Length: 999\r\n\r\n"])
def test_a_receiver_that_drips_its_answer_has_no_more_time(api: Api, begin: bytes) -> None:
    def drip(server: socket.socket) -> None:
        connection = server.accept()[0]
        with connection, suppress(OSError):
            connection.sendall(begin)
            for _ in range(50):
                connection.sendall(b"X: y\r\n")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        started = time.monotonic()
        outcome = attempt(
            Parcel(1, url, "", "build.ready", b"{}"), api.settings.model_copy(update={"webhook_timeout_s": 1.0})
        )
        assert time.monotonic() - started < 4
        assert outcome.status == (500 if b"500" in begin else None)
        assert outcome.error.startswith("X: y" if b"500" in begin else "no answer within 1 s")
        dripping.join()


def test_a_killed_sender_loses_nothing(api: Api, sender: Sender) -> None:
    """Killed with -9 while the receiver holds the request: another sends it again, under the same number."""
    hold = threading.Event()
    with receiving(hold) as receiver:
        hook = api.client().create_webhook(receiver.url)
        happen(api, "build.ready")
        log = api.settings.dirs.log / "webhooks.log"
        command = [sys.executable, "-m", "tinyfleet_service.serve", "webhooks", "--data", str(api.settings.data)]
        ports = {f"TINYFLEET_{name.upper()}": str(value) for name, value in QUICK.items()}
        process = subprocess.Popen([*command, "--log", str(log)], env={**os.environ, **ports})
        assert eventually(lambda: bool(receiver.got), 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.set()
        (row,) = api.client().webhook_deliveries(hook["id"])
        assert (row["state"], row["attempt"]) == ("waiting", 0)
        assert sender.step() == 0  # the dead one's lease still runs
        with session_scope(api.engine) as session:
            lease = session.get_one(models.Lease, LEASE)
            lease.until = utc_now() - timedelta(seconds=1)
            session.add(lease)
        assert sender.step() == 1
        assert len(receiver.got) == 2
        assert len({headers["Tinyfleet-Delivery"] for headers, _ in receiver.got}) == 1
        assert [r["state"] for r in api.client().webhook_deliveries(hook["id"])] == ["delivered"]


def test_two_senders_share_nothing(api: Api, sender: Sender) -> None:
    assert Lease.acquire(api.engine, LEASE, "another", 10)
    with receiving() as receiver:
        api.client().create_webhook(receiver.url)
        happen(api, "build.ready")
        assert sender.step() == 0
        Lease.release(api.engine, LEASE, "another")
        assert sender.step() == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/y",
        "https://",
        "https://user:pw@host/",
        "javascript:alert(1)",
        "https://" + "a" * 1100,
        "http://\x00/",
        "http://xn--/",
        "http://localhost:99999/",
    ],
)
def test_senseless_urls_are_refused(api: Api, url: str) -> None:
    with pytest.raises(InvalidInputError):
        api.client().create_webhook(url)


def test_unknown_events_are_refused(api: Api) -> None:
    with pytest.raises(InvalidInputError, match=r"rollout\.promoted"):
        api.client().create_webhook("http://127.0.0.1:1/", ["rollout.exploded"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("::7f00:1", False),
        ("fec0::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_private_addresses_are_refused_when_made_and_at_every_attempt(api: Api, sender: Sender) -> None:
    with receiving() as receiver:
        hook = api.client().create_webhook(receiver.url.replace("http://127.0.0.1", "http://localhost"))
        happen(api, "build.ready")
        strict = api.settings.model_copy(update={"webhook_private_addresses": False})
        sender.settings = strict
        assert sender.step() == 1
        (row,) = api.client().webhook_deliveries(hook["id"])
        assert "https" in row["last_error"]
        assert receiver.got == []
    for url in ("https://localhost/", "https://127.1/", "https://[::1]/", "https://0x7f000001/"):
        with session_scope(api.engine) as session, pytest.raises(ForbiddenError):
            create_webhook(session, strict, 1, url, [])


def test_the_secrets_key_is_private(api: Api) -> None:
    path: Path = api.settings.dirs.keys / "webhook.key"
    assert path.stat().st_mode & 0o77 == 0
