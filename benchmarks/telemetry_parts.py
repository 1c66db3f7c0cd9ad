"""Parts of `bench_telemetry.py`: broker, database, load generator, CPU time of processes, the sums expected."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from postgres import postgres_server  # noqa: E402
from tinyfleet_ota.protocol import SlotState  # noqa: E402
from tinyfleet_ota.protocol_codec import decode_telemetry, encode_telemetry  # noqa: E402
from tinyfleet_service.broker.child import find_program  # noqa: E402
from tinyfleet_service.broker.config import QUEUED_BYTES, QUEUED_MESSAGES  # noqa: E402
from tinyfleet_service.broker.pki import Pki  # noqa: E402
from tinyfleet_service.settings import Settings  # noqa: E402
from tinyfleet_service.telemetry.counters import Counters  # noqa: E402

IMAGES = (b"\xa0" * 16, b"\xa1" * 16)
KINDS = 5
WEIGHTS = (1, 2, 5, 9, 6, 4, 2, 1)
CLASSES = 6
POSTGRES = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "4GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "lz4",
    "wal_buffers": "64MB",
}
_TICKS = os.sysconf("SC_CLK_TCK")
_BROKER = """\
per_listener_settings false
user {user}
listener {port} 127.0.0.1
allow_anonymous {anonymous}
acl_file {folder}/bench.acl
set_tcp_nodelay true
max_inflight_messages {inflight}
max_queued_messages {messages}
max_queued_bytes {bytes}
sys_interval 1
log_type error
log_dest stderr
persistence false
{tls}
"""
_TLS = "cafile {ca}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\nuse_identity_as_username true\n"


def free_port() -> int:
    """A TCP port free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker_of(settings: Settings, pki: Pki | None) -> Iterator[subprocess.Popen[bytes]]:
    """mosquitto as our template sets it, but for the identities: a connection speaks for many devices here."""
    import getpass

    folder = settings.dirs.broker
    (folder / "bench.acl").write_text("topic readwrite #\npattern readwrite #\n")
    server = pki.server if pki else None
    config = _BROKER.format(
        user=getpass.getuser(), port=settings.broker_port, anonymous="false" if pki else "true", folder=folder,
        inflight=2 * settings.ingest_batch, messages=QUEUED_MESSAGES, bytes=QUEUED_BYTES,
        tls=_TLS.format(ca=server.ca, certificate=server.certificate, key=server.key) if server else "",
    )  # fmt: skip
    (folder / "bench.conf").write_text(config)
    with (folder / "broker.log").open("wb") as log:
        process = subprocess.Popen([find_program(settings), "-c", str(folder / "bench.conf")], stderr=log)
    try:
        _wait_for_port(settings.broker_port)
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_for_port(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


@contextmanager
def database_of(engine: str) -> Iterator[str]:
    """An SQLAlchemy URL: empty for SQLite in the data directory."""
    if engine == "sqlite":
        yield ""
        return
    with postgres_server(POSTGRES) as url:
        yield url


def build_load(folder: Path) -> Path:
    """Compile the load generator with the agent's CBOR writer."""
    agent = ROOT / "device_agent"
    program = folder / "telemetry_load"
    sources = [ROOT / "benchmarks" / "telemetry_load.c", agent / "src" / "cbor.c", agent / "src" / "ids.c"]
    command = ["cc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{agent / 'src'}", f"-I{agent / 'include'}"]
    subprocess.run([*command, *sources, "-lssl", "-lcrypto", "-o", program], check=True)
    return program


def run_load(program: Path, settings: Settings, pki: Pki | None, options: Any, first: int) -> dict[str, Any]:
    """Publish; what the generator says it did."""
    words: list[object] = ["127.0.0.1", settings.broker_port, options.connections, options.devices, first]
    words += [options.seconds, options.rate]
    if pki:
        files = pki.service("svc-tool")
        words += [files.ca, files.certificate, files.key]
    done = subprocess.run([program, *map(str, words)], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise SystemExit("the load generator failed")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["acknowledged"] != result["sent"]:
        raise SystemExit(f"the broker acknowledged {result['acknowledged']} of {result['sent']} reports")
    return result


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children, living and gone."""
    total = 0.0
    for one in [pid, *_children(pid)]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / _TICKS
    return total


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in task.read_text().split()]
    return found


def postgres_pid(settings: Settings) -> int:
    """Pid of the postmaster."""
    import psycopg
    from sqlalchemy.engine import make_url

    url = make_url(settings.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
    assert row is not None
    return int(str(row[0]).split()[0])


# ---- what the generator's reports say


def report_of(kind: int, n: int) -> bytes:
    """The report number `n` of a device of this kind, as the load generator encodes it."""
    images = [_image(place, kind, n) for place in (0, 1)]
    message = {"protocol": 1, "boot": 1, "report": n, "uptime_s": 60 * n, "images": images}
    return encode_telemetry(message | {"stack_high_water_bytes": 900 + kind})


def counters_of(kind: int, n: int) -> list[Counters]:
    """What that report counts, image by image."""
    message = decode_telemetry(report_of(kind, n))
    return [Counters.from_wire(image, message["stack_high_water_bytes"]) for image in message["images"]]


def scaled(counters: Counters, factor: int) -> Counters:
    """Every sum times `factor`; maxima stay."""
    values: dict[str, Any] = {}
    for name, value in counters.as_dict().items():
        if isinstance(value, dict):
            values[name] = {bucket: count * factor for bucket, count in value.items()}
        elif isinstance(value, list):
            values[name] = [count * factor for count in value]
        else:
            values[name] = value if name.endswith("high_water_bytes") else value * factor
    return Counters.from_dict(values)


def expected_totals(numbers: list[int], devices: int) -> dict[str, Counters]:
    """Counters per image when the last report numbers of all devices of each kind add up to `numbers`."""
    totals = {image.hex(): Counters() for image in IMAGES}
    for kind, number in enumerate(numbers):
        of_kind = len(range(kind, devices, KINDS))
        for image, one, two in zip(IMAGES, counters_of(kind, 1), counters_of(kind, 2), strict=True):
            growth = two - one  # a report's counters are a start that does not grow, plus growth times its number
            start = one - growth
            totals[image.hex()] += scaled(growth, number) + scaled(start, of_kind)
    return totals


def _image(place: int, kind: int, n: int) -> dict[str, Any]:
    shadow, active = place == 1, 0 if place else n

    def histogram(first: int, used: int, scale: int) -> list[int]:
        return [value for i in range(used) for value in (first + i, scale * WEIGHTS[i])]

    return {
        "image": IMAGES[place],
        "role": SlotState.SHADOW if shadow else SlotState.CONFIRMED,
        "inferences": 30 * active,
        "latency_histogram": histogram(48 + kind, 0 if shadow else 8, active),
        "confidence_histogram": histogram(2, 8, n),
        "predictions": histogram(kind, CLASSES, n),
        "labelled": 3 * active,
        "correct": 2 * active,
        "faults": 0,
        "active_s": 60 * active,
        "shadow_inferences": 30 * n if shadow else 0,
        "shadow_agree": 28 * n if shadow else 0,
        "shadow_pairs": [n * i if shadow else 0 for i in range(4)],
        "shadow_latency_histogram": histogram(50 + kind, 8 if shadow else 0, n),
        "arena_high_water_bytes": 22528 + kind,
        "energy_uj": 0,
        "activations": 0 if shadow else 1,
    }


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where a run keeps its files."""
    return tempfile.TemporaryDirectory(prefix="tinyfleet-bench-")
