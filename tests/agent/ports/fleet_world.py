"""Everything fleet_device talks to, real: mosquitto, an EST server, signed releases; and the program itself."""

import hashlib
import json
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho

from agent import cbuild
from agent.ports.pki import Files
from tinyfleet_compiler import compile_model, load_device_class
from tinyfleet_ota import (
    Assignment,
    AssignmentEntry,
    FileSigner,
    Root,
    choose_transfer,
    make_assignment,
    make_release,
    make_root,
    topics,
)
from tinyfleet_ota.protocol import Codec, SlotState
from tinyfleet_ota.protocol_codec import decode_state, decode_telemetry

EXAMPLE = cbuild.DEVICE_AGENT / "examples" / "posix_fleet"
DIGITS = cbuild.ROOT / "examples" / "digits"
CHUNK_BYTES = 1024
DEVICE_CLASS = "host"


@cache
def program(*knobs: str) -> Path:
    """fleet_device with sanitizers, with the knobs of programs of this machine: its labels come a second late."""
    port = cbuild.DEVICE_AGENT / "ports" / "posix"
    source = cbuild.DEVICE_AGENT / "src"
    sources = [path for folder in (EXAMPLE, port, source) for path in sorted(folder.glob("*.c"))]
    sources += cbuild.runtime_sources()
    return cbuild.executable(
        "fleet_device",
        sources,
        include=[EXAMPLE, port, source, cbuild.RUNTIME],
        flags=['-DFLEET_CONFIG_FILE="fleet_config_host.h"', *(f"-D{knob}" for knob in knobs)],
        libraries=["-lssl", "-lcrypto", "-lm"],
    )


@cache
def image(version: str) -> bytes:
    """A model image of the repository's digits models."""
    model = DIGITS / f"digits_{version}.onnx"
    calibration = DIGITS / "calibration.npz"
    device_class = load_device_class(DEVICE_CLASS)
    return compile_model(
        model, device_class, name="digits", version=version, calibration=calibration, evaluation=None
    ).image


def write_dataset(path: Path, *, count: int = 397) -> Path:
    """The digits evaluation set as fleet_device reads it, by the script that users run."""
    with np.load(DIGITS / "evaluation.npz") as data:
        part = path.with_suffix(".npz")
        np.savez(part, x=data["x"][:count], y=data["y"][:count])
    script = EXAMPLE / "make_dataset.py"
    subprocess.run([sys.executable, str(script), str(part), str(path), "--layout", "nchw"], check=True)
    return path


class Publisher:
    """The service's side of the broker: publishes what is retained, collects what devices send."""

    def __init__(self, port: int, ca: Path, files: Files, folder: Path) -> None:
        self.release, self.director, self.root_signer = (FileSigner.generate() for _ in range(3))
        root = Root(1, 1, (self.root_signer.public_key,), (self.release.public_key,), (self.director.public_key,), 1)
        self.root_path = folder / "root-1.cbor"
        self.root_path.write_bytes(make_root(root, [self.root_signer]))
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.states: dict[str, dict[str, Any]] = {}
        self.telemetry: dict[str, dict[str, Any]] = {}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="svc", clean_session=True)
        self.client.tls_set(str(ca), str(files.cert), str(files.key), cert_reqs=ssl.CERT_REQUIRED)
        self.client.on_message = lambda _c, _u, message: self.messages.put((message.topic, message.payload))
        self.client.on_connect = lambda client, *_: client.subscribe("fleet/v1/d/+/#", qos=1)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def close(self) -> None:
        """Ends the session."""
        self.client.disconnect()
        self.client.loop_stop()

    def retain(self, topic: str, payload: bytes) -> None:
        """Publishes and waits for the broker's acknowledgement."""
        self.client.publish(topic, payload, qos=1, retain=True).wait_for_publish(30)

    def offer(
        self,
        new: bytes,
        counter: int,
        base: bytes | None = None,
        *,
        component: str = "model/0",
        tamper: Callable[[bytes], bytes] = lambda b: b,
    ) -> AssignmentEntry:
        """Publishes manifest and chunks of an image; the entry that asks for it."""
        envelope = make_release(
            new,
            device_class=DEVICE_CLASS,
            abi=1,
            release_counter=counter,
            security_floor=0,
            component=component,
            version=f"v{counter}",
            signer=self.release,
        )
        digest = hashlib.sha256(envelope).digest()
        self.retain(topics.manifest(digest[:16]), envelope)
        transfer = choose_transfer(new, base)
        blob = hashlib.sha256(transfer.data).digest()[:16]
        for n, at in enumerate(range(0, len(transfer.data), CHUNK_BYTES)):
            self.retain(topics.chunk(blob, CHUNK_BYTES, n), tamper(transfer.data[at : at + CHUNK_BYTES]))
        delta = transfer.codec == Codec.DELTA
        return AssignmentEntry(
            component,
            digest,
            SlotState.CONFIRMED,
            blob,
            len(transfer.data),
            CHUNK_BYTES,
            transfer.codec,
            confirm_min_inferences=3,
            base_digest=hashlib.sha256(base).digest() if delta and base else None,
        )

    def assign(self, device: str, sequence: int, *entries: AssignmentEntry, until: SlotState | None = None) -> None:
        """Publishes the signed assignment of a device."""
        chosen = tuple(replace(entry, until=until) if until is not None else entry for entry in entries)
        self.collect()
        nonce = self.states[device]["nonce"]
        data = make_assignment(Assignment(device, 1, sequence, nonce, chosen), self.director)
        self.retain(topics.desired(device), data)

    def collect(self) -> None:
        """Takes in what arrived."""
        while not self.messages.empty():
            topic, payload = self.messages.get()
            kind, device = topic.rsplit("/", 1)[1], topic.split("/")[3]
            if kind == "state":
                self.states[device] = decode_state(payload)
            elif kind == "telemetry":
                self.telemetry[device] = decode_telemetry(payload)

    def until(self, condition: Callable[["Publisher"], bool], timeout_s: float = 60.0) -> None:
        """Waits for something the devices report."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.collect()
            if condition(self):
                return
            time.sleep(0.05)
        raise AssertionError(f"not reached; {len(self.states)} states, among them {list(self.states.items())[:1]}")


class Fleet:
    """A running fleet_device and its events."""

    def __init__(
        self, arguments: Sequence[str], *, preexec: Callable[[], None] | None = None, knobs: Sequence[str] = ()
    ) -> None:
        environment = cbuild.clean_env() | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
        self.process = subprocess.Popen(
            [str(program(*knobs)), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=preexec,
        )
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._arrived = threading.Condition()
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._arrived:
                self.events.append(json.loads(line))
                self._arrived.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr
        self.errors.extend(self.process.stderr)

    def wait(self, event: str, count: int = 1, timeout_s: float = 60.0, **fields: Any) -> list[dict[str, Any]]:
        """The events of that kind with those fields, once there are `count`."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.events if e["event"] == event and fields.items() <= e.items()]

        with self._arrived:
            reached = self._arrived.wait_for(lambda: len(found()) >= count, timeout_s)
        assert reached, f"no {count} x {event} {fields}: {self.events[-20:]} {self.errors[-20:]}"
        return found()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signals, waits, and gives the exit status; sanitizer reports fail the test."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.join()

    def join(self) -> int:
        """The exit status once it ends."""
        status = self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join()
        text = "".join(self.errors)
        assert "Sanitizer" not in text, text
        assert "runtime error" not in text, text
        return status
