"""What publishing one 300 KB image costs, by devices: messages and bytes that the server sends. `make bench-publish`.

The service's own code on SQLite, with a broker that counts. Half of the devices run a version that a delta starts from.
`per device` is what one more device adds: an assignment. Chunks are retained: the broker serves them, not the server.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from integration.fleet_database import CLASS, PROJECT  # noqa: E402
from integration.fleet_house import FleetHouse, make_house  # noqa: E402
from tinyfleet_ota.protocol import SlotState  # noqa: E402
from tinyfleet_service.database.engine import session_scope  # noqa: E402
from tinyfleet_service.devices.requests import point_of  # noqa: E402
from tinyfleet_service.publish import assign, drain_outbox, prepare_transfers, publish_roots  # noqa: E402
from tinyfleet_service.registry.device_classes import encrypt_device_class  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "publish.json"
IMAGE_BYTES = 300 * 1024
FLEETS = (10, 100, 1000)
KINDS = {"b": "chunk", "m": "manifest", "d": "assignment", "root": "root", "sentinel": "sentinel"}
FORMAT = "{:<10} {:>7} {:>8} {:>12} {:>9} {:>9} {:>12} {:>12} {:>11}"
HEADINGS = ("images", "devices", "chunks", "chunk bytes", "manifests", "assigned", "bytes", "per device", "store reads")


class Counter:
    """A broker that counts what it gets."""

    connections = 1

    def __init__(self) -> None:
        self.messages: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def publish_all(self, messages: Iterable[tuple[str, bytes, bool, int]], timeout_s: float = 0) -> int:
        count = 0
        for topic, payload, *_ in messages:
            count += 1
            kind = KINDS[topic.split("/")[2]]
            self.messages[kind] = self.messages.get(kind, 0) + 1
            self.bytes[kind] = self.bytes.get(kind, 0) + len(payload)
        return count

    def wait_connected(self, timeout_s: float = 0) -> None:
        """It always is."""

    def publish_on(self, connection: int, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        return self.publish_all([(topic, payload, retain, 0)]) == 1


def main() -> int:
    rows = [measure(devices, encrypted) for encrypted in (False, True) for devices in FLEETS]
    print(FORMAT.format(*HEADINGS))
    for row in rows:
        print(FORMAT.format(*row.values()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1))
    return 0


def measure(devices: int, encrypted: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        house = make_house(Path(folder) / "fleet", tuple(f"m4-{n}" for n in range(devices)))
        reads = prepare(house, devices, encrypted)
        broker, before = Counter(), reads[0]
        publish(house, devices, broker)
        house.engine.dispose()
    one = broker.bytes["assignment"] / devices
    return {
        "images": "encrypted" if encrypted else "plain",
        "devices": devices,
        "chunks": broker.messages["chunk"],
        "chunk_bytes": broker.bytes["chunk"],
        "manifests": broker.messages["manifest"],
        "assignments": broker.messages["assignment"],
        "bytes": sum(broker.bytes.values()),
        "bytes_per_device": round(one),
        "store_reads": reads[0] - before,
    }


def prepare(house: FleetHouse, devices: int, encrypted: bool) -> list[int]:
    """Two versions of an image, half of the devices on the first; the count of reads of the blob store."""
    rng = np.random.default_rng(5)
    old = rng.integers(0, 256, IMAGE_BYTES, dtype=np.uint8)
    new = old + rng.integers(0, 2, IMAGE_BYTES, dtype=np.uint8)
    with session_scope(house.engine) as session:
        house.add_build(session, "old", old.tobytes())
        house.add_build(session, "new", new.tobytes())
        encrypt_device_class(session, PROJECT, CLASS, encrypted)
        for n in range(devices):
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
            house.device(session, f"m4-{n}").public_key = point_of(key)
    for n in range(0, devices, 2):
        house.report(f"m4-{n}", "old")
    prepare_transfers(house.engine, house.store, [(house.builds["new"], house.builds["old"])])
    reads, read = [0], house.store.get

    def counted(digest: str) -> bytes:
        reads[0] += 1
        return read(digest)

    house.store.get = counted  # type: ignore[method-assign]
    return reads


def publish(house: FleetHouse, devices: int, broker: Counter) -> None:
    with session_scope(house.engine) as session:
        publish_roots(session, house.keys, house.fence)
        build = house.build(session, "new")
        for n in range(devices):
            device = house.device(session, f"m4-{n}")
            assign(session, house.store, house.keys, device, build, SlotState.CONFIRMED, fence=house.fence)
    drain_outbox(house.engine, broker, house.fence)


if __name__ == "__main__":
    sys.exit(main())
