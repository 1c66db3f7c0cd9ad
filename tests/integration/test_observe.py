"""What a service says about itself: Prometheus text, health, logs without secrets, traces."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

import web
from postgres import free_port
from service_harness import Api, running_api
from tinyfleet_service.controller.process import Controller
from tinyfleet_service.database.engine import Lease, make_engine, session_scope
from tinyfleet_service.database.models import Device, Outbox
from tinyfleet_service.errors import NotFoundError, StartError
from tinyfleet_service.http import create_app, kept
from tinyfleet_service.observe.logs import JsonFormatter
from tinyfleet_service.observe.metrics import OWNERS, keep_own, serve_metrics
from tinyfleet_service.observe.traces import configure_traces, end_traces, span
from tinyfleet_service.publish import CONTROLLER_LEASE
from tinyfleet_service.publish.transfers import CLAIMS
from tinyfleet_service.telemetry import TelemetryStore

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_info")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data")) as api:
        yield api


def samples(text: str) -> Samples:
    found = list(text_string_to_metric_families(text))
    names = [family.name for family in found]
    assert len(set(names)) == len(names)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }


def test_metrics_parse_and_follow_the_conventions(api: Api) -> None:
    families = [f for f in text_string_to_metric_families(api.client().metrics()) if f.name.startswith("tinyfleet_")]
    assert len(families) > 10
    for family in families:
        assert family.documentation
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples), family.name
        if family.type == "histogram":
            assert family.name.endswith(BASE_UNITS), family.name


def test_requests_are_counted_by_route_not_by_path(api: Api) -> None:
    with pytest.raises(NotFoundError):
        api.client().model("no-such-model")
    labels = (("method", "GET"), ("route", "/api/v1/models/{name}"), ("status", "404"))
    before = samples(api.client().metrics())[("tinyfleet_http_requests_total", labels)]
    with pytest.raises(NotFoundError):
        api.client().model("another")
    web.get(f"{api.url}/a-path-of-nobody")
    text = api.client().metrics()
    assert samples(text)[("tinyfleet_http_requests_total", labels)] == before + 1
    assert "another" not in text
    assert "a-path-of-nobody" not in text


def test_the_projects_counts_come_from_the_database(api: Api) -> None:
    def value(metric: str, **labels: str) -> float:
        return samples(api.client().metrics())[(metric, tuple(sorted(labels.items())))]

    assert value("tinyfleet_devices", state="enrolled") == 0
    with session_scope(api.engine) as session:
        session.add(Device(id="seen", project_id=1, device_class="cortex-m4"))
        session.add(Outbox(topic="t", payload=b"", fence=0))
    assert value("tinyfleet_devices", state="enrolled") == 1
    assert value("tinyfleet_outbox_messages") == 1
    said = {"stored": 5, "known": 1, "refused": 2, "dropped": 7, "held": 3, "waiting": 4, "commit_s": 0.5}
    TelemetryStore(api.settings).note_ingester(0, said)
    assert value("tinyfleet_ingest_reports_total", member="0", result="stored") == 5
    assert value("tinyfleet_broker_dropped_messages_total", member="0") == 7
    assert Lease.acquire(api.engine, "measured", "test", 60)
    assert Lease.acquire(api.engine, f"{CLAIMS}aa/bb", "killed", 60)  # a delta has a lease that nobody may end
    assert 0 < value("tinyfleet_lease_remaining_seconds", name="measured") <= 60
    assert CLAIMS not in api.client().metrics()


def test_ready_names_what_is_missing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEEP_S", 0.0)
    assert web.get(f"{api.url}/readyz").status_code == 503
    found = api.client().ready()
    assert found == {"database": "ok", "broker": "does not answer", "controller": "nobody holds the lease"}
    with socket.create_server(("127.0.0.1", api.settings.broker_port)):
        assert Lease.acquire(api.engine, CONTROLLER_LEASE, "test", 60)
        assert api.client().ready() == {"database": "ok", "broker": "ok", "controller": "ok"}
        assert web.get(f"{api.url}/readyz").status_code == 200
        for route in ("healthz", "readyz"):  # load balancers ask so
            assert httpx.head(f"{api.url}/{route}").status_code == 200
    Lease.release(api.engine, CONTROLLER_LEASE, "test")


def test_many_who_ask_about_a_database_that_hangs_wait_for_one_check(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than the API has threads: all others are free for other routes."""
    monkeypatch.setattr(kept, "WAIT_S", 0.5)
    monkeypatch.setattr(kept, "KEEP_S", 0.0)
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hole:
        url = f"postgresql+psycopg://somebody@127.0.0.1:{hole.getsockname()[1]}/fleet"
        engine = make_engine(api.settings.model_copy(update={"database_url": url}))
        threading.Thread(target=hold_all, args=(hole, held), daemon=True).start()
        app = create_app(api.settings, engine, TelemetryStore(api.settings))

        async def ask() -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
                for _ in range(2):
                    answers = await asyncio.gather(*(client.get("/readyz") for _ in range(60)))
                    assert {answer.status_code for answer in answers} == {503}
                    assert {answer.json()["database"] for answer in answers} == {"does not answer"}
                assert len(held) == 1
                held.pop().shutdown(socket.SHUT_RDWR)  # the check ends, and says the same
                monkeypatch.setattr(kept, "WAIT_S", 10.0)
                found = (await client.get("/readyz")).json()
                assert (found["database"], found["broker"]) == ("does not answer", "does not answer")

        asyncio.run(ask())
        hole.shutdown(socket.SHUT_RDWR)
        engine.dispose()


def hold_all(server: socket.socket, held: list[socket.socket]) -> None:
    """Take every connection, never say a word."""
    with suppress(OSError):
        while True:
            held.append(server.accept()[0])


def test_a_process_has_a_port_of_its_own(api: Api) -> None:
    settings = api.settings.model_copy(update={"metrics_port": free_port()})
    serve_metrics("api", settings)  # the API answers at its own port
    serve_metrics("est", settings)
    controller = Controller(settings, api.engine)
    assert Lease.acquire(api.engine, CONTROLLER_LEASE, "another", 10)
    controller.guarded_step()
    controller.close()
    found = samples(web.get(f"http://127.0.0.1:{settings.metrics_port}/metrics").text)
    assert found[("tinyfleet_controller_ticks_total", (("outcome", "standby"),))] >= 1
    assert found[("tinyfleet_controller_lease_held", ())] == 0
    with pytest.raises(StartError, match="TINYFLEET_METRICS_PORT"):
        serve_metrics("est", settings)


def test_a_process_shows_only_what_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    left = set(REGISTRY._collector_to_names)
    monkeypatch.setattr(REGISTRY, "unregister", left.remove)
    keep_own("controller")
    assert left >= set(OWNERS["controller"])
    assert not left & {metric for owner, metrics in OWNERS.items() if owner != "controller" for metric in metrics}
    ours = {metric for metric in left if getattr(metric, "_name", "").startswith("tinyfleet_")}
    assert ours == set(OWNERS["controller"])  # none of ours has no owner


def line_of(message: str, **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "n", **extra})
    found: dict[str, object] = json.loads(JsonFormatter("api").format(record))
    return found


def test_log_lines_have_fields_and_no_secrets() -> None:
    token = "tf_" + "a" * 43
    key = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----"
    line = line_of(f"got {token}", device="d-1", rollout=3, model="m", facts={"a": [key, f"Bearer {token}"]})
    assert (line["device"], line["rollout"], line["model"], line["process"]) == ("d-1", 3, "m", "api")
    assert (line["message"], line["facts"]) == ("got [secret]", {"a": ["[secret]", "[secret]"]})


def test_a_changing_request_is_logged_with_what_it_is_about(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tinyfleet_service.http.requests"), pytest.raises(NotFoundError):
        api.client().reset_device("d-77")
    record = next(r for r in caplog.records if r.message == "request")
    assert (record.device, record.status, record.route) == ("d-77", 404, "/api/v1/devices/{device_id}/reset")
    assert api.token not in caplog.text


class Collector(BaseHTTPRequestHandler):
    """An OTLP collector that keeps what it gets."""

    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


async def ask_to_the_end(api: Api) -> None:
    """Without a network between, so that the span has ended when this returns."""
    app = create_app(api.settings, api.engine, TelemetryStore(api.settings))
    headers = {"Authorization": f"Bearer {api.token}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as service:
        assert (await service.get("/api/v1/models", headers=headers)).status_code == 200


def test_traces_reach_a_collector(api: Api) -> None:
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    Collector.received = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with span("nobody listens") as off:
        assert off is None
    configure_traces("api", api.settings.model_copy(update={"otlp_endpoint": f"http://127.0.0.1:{server.server_port}"}))
    try:
        asyncio.run(ask_to_the_end(api))
    finally:
        end_traces()
        server.shutdown()
    path, body = Collector.received[0]
    assert path == "/v1/traces"
    request = trace_service.ExportTraceServiceRequest.FromString(body)
    spans = request.resource_spans[0].scope_spans[0].spans
    assert "GET /api/v1/models" in [found.name for found in spans]
