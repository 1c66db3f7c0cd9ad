"""fleet_device against the service's own EST listener and broker: certificates, ACLs and topics fit each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from agent.ports.fleet_world import Fleet
from integration.fleet_database import CLASS, PROJECT, make_database
from integration.fleet_support import Inbox, connected, make_settings, running_broker, store
from tinyfleet_ota import FileSigner, Root, make_root, topics
from tinyfleet_ota.protocol_codec import decode_state
from tinyfleet_service.broker.pki import Pki
from tinyfleet_service.database.engine import session_scope
from tinyfleet_service.database.models import Device
from tinyfleet_service.devices import create_claim
from tinyfleet_service.est import EstServer
from tinyfleet_service.settings import Settings

COUNT = 40


class House:
    """A running EST listener and broker, and the options that lead a device to them."""

    def __init__(self, folder: Path, settings: Settings, pki: Pki, est: EstServer) -> None:
        self.settings, self.pki, self.est, self.folder = settings, pki, est, folder
        keys = [FileSigner.generate() for _ in range(3)]
        root = Root(1, 1, *((key.public_key,) for key in keys), 1)
        (folder / "root-1.cbor").write_bytes(make_root(root, keys[:1]))

    def arguments(self, quota: int = 1000, **changes: object) -> list[str]:
        with session_scope(self.est.engine) as session:
            row, certificate, key = create_claim(
                session, self.pki, project_id=PROJECT, name="batch", device_class=CLASS, tags={}, quota=quota
            )
        claim = store(self.folder, row.serial, certificate, key, self.pki)
        options: dict[str, object] = {
            "est": f"localhost:{self.est.port}",
            "claim-cert": claim.certificate,
            "claim-key": claim.key,
            "broker": f"localhost:{self.settings.broker_port}",
            "ca": self.pki.ca_path,
            "root": self.folder / "root-1.cbor",
            "dir": self.folder / "devices",
            "device-class": CLASS,
            "slot-bytes": 16384,
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    settings = make_settings(tmp_path / "fleet")
    engine = make_database(settings)
    with running_broker(settings) as pki:
        est = EstServer(settings, engine, pki)
        thread = threading.Thread(target=est.serve_forever, daemon=True)
        thread.start()
        yield House(tmp_path, settings, pki, est)
        est.shutdown()
        est.server_close()
        thread.join()
    engine.dispose()


def test_a_batch_enrols_and_reports_its_state(house: House) -> None:
    states = Inbox()
    files = house.pki.service("svc-controller")
    with connected(house.settings, files, "svc-controller") as service:
        service.subscribe("fleet/v1/d/+/state", states)
        fleet = Fleet(house.arguments(count=COUNT))
        ids = {event["device"] for event in fleet.wait("connected", COUNT)}
        assert len(ids) == COUNT
        states.wait(COUNT, 60)
        assert fleet.end() == 0
    reported = {message.topic: decode_state(message.payload) for message in states.messages}
    assert set(reported) == {topics.state(device) for device in ids}
    with session_scope(house.est.engine, read_only=True) as session:
        assert {device.id for device in session.exec(select(Device))} == ids


def test_claim_that_is_used_up_is_told_and_the_others_live(house: House) -> None:
    fleet = Fleet(house.arguments(quota=1, count=2))
    assert "make another claim certificate" in fleet.wait("enrolment-failed")[0]["error"]
    fleet.wait("connected")
    assert fleet.end() == 0


def test_request_for_another_devices_name_gets_no_certificate(house: House) -> None:
    first = Fleet(house.arguments())
    victim = first.wait("connected")[0]["device"]
    second = Fleet(house.arguments(dir=house.folder / "impostor", csr_name=victim))
    assert victim in second.wait("enrolment-failed")[0]["error"]
    assert not (house.folder / "impostor" / "device-0000" / "cert.pem").exists()
    assert second.end() == 0
    assert first.end() == 0
