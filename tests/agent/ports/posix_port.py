"""The POSIX port as a shared library, and loops that drive its non-blocking parts."""

import select
import time
from pathlib import Path
from typing import Any

from agent import cbuild, red_zones

PORT = cbuild.DEVICE_AGENT / "ports" / "posix"
SRC = cbuild.DEVICE_AGENT / "src"
SOURCES = [
    *sorted(PORT.glob("*.c")),
    *(SRC / name for name in ("mqtt.c", "mqtt_parse.c", "provision.c", "ed25519_strict.c")),
]

ffi = red_zones.make_ffi()
ffi.cdef(
    cbuild.cdef(PORT / "fleet_posix.h", cbuild.INCLUDE / "fleet_mqtt.h", cbuild.INCLUDE / "fleet_ed25519.h"),
)


def load() -> Any:
    """The port and what of the library it needs."""
    library = cbuild.shared_library("posix", SOURCES, include=[PORT, SRC], libraries=["-lssl", "-lcrypto"])
    return red_zones.load(ffi, library)


lib = load()


class Tls:
    """A TLS transport; keeps the texts it points to alive."""

    def __init__(self, host: str, port: int, ca: Path, cert: Path, key: Path) -> None:
        texts = [ffi.new("char[]", str(v).encode()) for v in (host, port, ca, cert, key)]
        self.config = ffi.new("fleet_posix_tls_config_t *", dict(zip(_CONFIG, texts, strict=True)))
        self._texts = texts
        self.tls = ffi.new("fleet_posix_tls_t *")
        lib.fleet_posix_tls_open(self.tls, self.config)
        self.port = lib.fleet_posix_tls_port(self.tls)

    @property
    def error(self) -> str:
        """Why the last call failed."""
        return str(ffi.string(self.tls.error).decode())

    def connect(self, timeout_s: float = 20.0) -> int:
        """Status once it is no longer pending."""
        end = time.monotonic() + timeout_s
        while (status := self.port.connect(self.port.ctx)) == 1 and time.monotonic() < end:
            self.wait()
        return int(status)

    def wait(self, timeout_s: float = 0.2) -> None:
        """Until the socket is ready."""
        descriptor, events = lib.fleet_posix_tls_socket(self.tls), lib.fleet_posix_tls_events(self.tls)
        if descriptor >= 0 and not lib.fleet_posix_tls_has_bytes(self.tls):
            poller = select.poll()
            poller.register(descriptor, events)
            poller.poll(timeout_s * 1000)

    def send_all(self, data: bytes) -> int:
        """0, or the negative status."""
        held, at = ffi.new("uint8_t[]", data), 0
        while at < len(data):
            taken = self.port.send(self.port.ctx, held + at, len(data) - at)
            if taken < 0:
                return int(taken)
            at += taken
            if taken == 0:
                self.wait()
        return 0

    def recv(self, timeout_s: float = 20.0) -> bytes | int:
        """Some bytes, or the negative status; empty when nothing came in time."""
        room, end = ffi.new("uint8_t[]", 4096), time.monotonic() + timeout_s
        while (got := self.port.recv(self.port.ctx, room, 4096)) == 0 and time.monotonic() < end:
            self.wait()
        return int(got) if got < 0 else bytes(ffi.buffer(room, got))

    def close(self) -> None:
        """Ends the connection."""
        self.port.close(self.port.ctx)


_CONFIG = ("host", "port", "ca_path", "cert_path", "key_path")


class Crypto:
    """The crypto port over a key file."""

    def __init__(self, key_path: Path) -> None:
        self.state = ffi.new("fleet_posix_crypto_t *")
        lib.fleet_posix_crypto_open(self.state, str(key_path).encode())
        self.port = ffi.new("fleet_crypto_t *", lib.fleet_posix_crypto_port(self.state))

    def public_key(self) -> bytes:
        """X || Y; raises on failure."""
        out = ffi.new("uint8_t[64]")
        status = self.port.p256_key(self.port.ctx, out)
        if status != 0:
            raise OSError(status)
        return bytes(out)

    def csr(self, name: str) -> bytes:
        """DER of a certificate request."""
        out, size = ffi.new("uint8_t[320]"), ffi.new("uint32_t *")
        status = lib.fleet_csr_write(self.port, name.encode(), out, size)
        if status != 0:
            raise ValueError(status)
        return bytes(out)[: size[0]]

    def close(self) -> None:
        """Forgets the key in memory."""
        lib.fleet_posix_crypto_close(self.state)
