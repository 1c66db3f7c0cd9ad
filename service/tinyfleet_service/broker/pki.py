"""The public-key infrastructure of one installation, in `<data>/pki`.

Two authorities that know nothing of each other:

* `ca` signs the server certificate, one client certificate per service process and the devices' certificates. The
  broker trusts this one alone, but for what is said below.
* `claim-ca` signs claim certificates. The EST listener trusts it, the broker does not: so a claim certificate is
  refused in the TLS handshake there, whatever its name.

`ca` signs itself, or stands below somebody else's root (`change_authority.py`): then `ca-chain.crt` holds those above
it. While devices still hold certificates of an authority that was replaced, that one lies in `previous/`: both are
trusted, devices get certificates of the new one, and the server and the services keep certificates of the old one,
because it is what devices know.

With `TINYFLEET_DEVICE_CA` device certificates come from an authority outside (`external_ca.py`); `ca` goes on being
that of server and services, and what it gave to devices stays good until it ends.

A device certificate is for client authentication only, so that no device can pose as the broker; a service's name
starts with `svc-`, which no device id may.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tinyfleet_service.broker import certificates as x
from tinyfleet_service.broker.authority_files import ensure_authority, read_authority, read_certificate, read_key
from tinyfleet_service.broker.certificates import Authority
from tinyfleet_service.broker.external_ca import ExternalAuthority
from tinyfleet_service.broker.files import PRIVATE, PUBLIC, write_file
from tinyfleet_service.errors import InvalidInputError, SettingsError
from tinyfleet_service.settings import Settings

MAX_INGESTERS = 8
SERVICE_PREFIX = "svc-"
PREVIOUS = "previous"
TRUSTED = "trusted.crt"
CLIENTS = "clients.crt"
SHARE = "ingest.share"
INGESTERS = tuple(f"svc-ingest-{n}" for n in range(MAX_INGESTERS))
SERVICES = ("svc-api", "svc-controller", "svc-publisher", "svc-est", "svc-builder", "svc-tool", *INGESTERS)
DEVICE_ID = re.compile(r"[a-z0-9-]{1,64}")
LEAF_DAYS = 10 * 365.0
DEVICE_DAYS = 365.0
CLAIM_DAYS = 365.0
RENEW_BEFORE = timedelta(days=30)


@dataclass(frozen=True)
class TlsFiles:
    """What a TLS endpoint needs: trusted authority, own certificate, own key (paths of PEM files)."""

    ca: Path
    certificate: Path
    key: Path


class Pki:
    """Authorities, certificates and the revocation list of one installation."""

    outside = False

    def __init__(
        self, path: Path, ca: Authority, claim_ca: Authority, external: ExternalAuthority | None = None
    ) -> None:
        self.external = external
        self.path = path
        self.ca = ca
        self.claim_ca = claim_ca
        self.previous = read_authority(path / PREVIOUS, "ca") if (path / PREVIOUS).is_dir() else None

    @classmethod
    def create(cls, settings: Settings) -> Pki:
        """Load the infrastructure, making what is missing. Raises StorageError, SettingsError."""
        path = settings.dirs.pki
        ca, claim_ca = (
            ensure_authority(path, "ca", "tinyfleet CA"),
            ensure_authority(path, "claim-ca", "tinyfleet claim CA"),
        )
        pki = cls(path, ca, claim_ca, _external(settings))
        if pki.ca_path.name == TRUSTED:
            write_file(pki.ca_path, x.certificates_pem(*pki.trusted), PUBLIC)
        hosts = [settings.public_host, "localhost", "127.0.0.1", "::1"]
        if settings.host not in {"0.0.0.0", "::"}:
            hosts.append(settings.host)
        pki._ensure_leaf("server", usage=x.SERVER, hosts=hosts)
        for name in SERVICES:
            pki._ensure_leaf(name, usage=x.CLIENT)
        if not pki.crl_path.exists():
            write_file(pki.crl_path, pki._own_lists([]), PUBLIC)
        if not (path / SHARE).exists():
            write_file(path / SHARE, secrets.token_urlsafe(16).encode(), PRIVATE)
        if pki.external:
            pki.external.refresh_or_keep()
            with pki.held():
                pki._write_clients()
        return pki

    @property
    def authorities(self) -> tuple[Authority, ...]:
        """Those whose device certificates are good, the newest first."""
        return (self.ca, self.previous) if self.previous else (self.ca,)

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """What services and devices trust: each authority and those above it, each once."""
        return tuple(dict.fromkeys(one for authority in self.authorities for one in authority.chain))

    @property
    def clients(self) -> tuple[x509.Certificate, ...]:
        """What broker and EST listener trust."""
        return tuple(dict.fromkeys((*self.trusted, *(self.external.chain if self.external else ()))))

    def issued_device(self, certificate: x509.Certificate) -> bool:
        """Whether an authority whose device certificates are good signed it."""
        outside = self.external is not None and self.external.issued(certificate)
        return outside or any(authority.issued(certificate) for authority in self.authorities)

    @classmethod
    def load(cls, settings: Settings) -> Pki:
        """Load an infrastructure that must be there. Raises SettingsError."""
        path = settings.dirs.pki
        return cls(path, read_authority(path, "ca"), read_authority(path, "claim-ca"), _external(settings))

    @property
    def ca_path(self) -> Path:
        """What broker and devices trust, PEM: the authority, or several with those above them."""
        return self.path / (TRUSTED if self.previous or self.ca.above else "ca.crt")

    @property
    def crl_path(self) -> Path:
        """Our revocation lists."""
        return self.path / "ca.crl"

    @property
    def clients_crl(self) -> Path:
        """Revocation lists the broker reads: those of an authority outside too."""
        return self.path / "clients.crl" if self.external else self.crl_path

    @property
    def server(self) -> TlsFiles:
        """Server side of broker and EST listener."""
        files = self._files("server")
        return TlsFiles(self.path / CLIENTS, files.certificate, files.key) if self.external else files

    def service(self, name: str) -> TlsFiles:
        """Client side of a service process, by its certificate name (one of `SERVICES`)."""
        if name not in SERVICES:
            raise SettingsError(f"no service certificate {name!r}", next=f"use one of {', '.join(SERVICES)}")
        return self._files(name)

    @property
    def share(self) -> str:
        """Name of the ingesters' shared subscription, a secret: a broker lets anybody join whose name they know, and
        what falls to a device there is lost at its access rules. Raises SettingsError.
        """
        try:
            return (self.path / SHARE).read_text()
        except OSError as error:
            raise SettingsError(
                f"cannot read {self.path / SHARE}: {error.strerror}",
                next="start `fleetctl serve` once, which makes it, or copy it from the machine that has it",
            ) from error

    def issue_device(
        self, device_id: str, public_key: ec.EllipticCurvePublicKey, days: float = DEVICE_DAYS
    ) -> x509.Certificate:
        """A device certificate: CN = device id, client authentication only. Raises InvalidInputError for a bad id."""
        check_device_id(device_id)
        return x.issue(self.ca, device_id, public_key, usage=x.CLIENT, days=days)

    def issue_claim(self, name: str, days: float = CLAIM_DAYS) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """A claim certificate and its key, from the authority only the EST listener trusts."""
        key = x.new_key()
        return x.issue(self.claim_ca, f"claim {name}"[:64], key.public_key(), usage=x.CLIENT, days=days), key

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes a revocation list meanwhile: of two, the one that writes last must have read last."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def write_crl(self, serials: Iterable[int]) -> Path:
        """Replace the revocation list, `held`; the broker reads it again on `broker.reload`."""
        write_file(self.crl_path, self._own_lists(list(serials)), PUBLIC)
        if self.external:
            self._write_clients()
        return self.clients_crl

    def _own_lists(self, serials: list[int]) -> bytes:
        return b"".join(x.make_crl(authority, serials) for authority in self.authorities)

    def _write_clients(self) -> None:
        """Give the broker what it trusts, with an authority outside."""
        assert self.external is not None
        write_file(self.server.ca, x.certificates_pem(*self.clients), PUBLIC)
        write_file(self.clients_crl, self.crl_path.read_bytes() + self.external.lists, PUBLIC)

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self.ca_path, self.path / f"{name}.crt", self.path / f"{name}.key")

    def _ensure_leaf(self, name: str, *, usage: x509.ObjectIdentifier, hosts: Iterable[str] = ()) -> None:
        files = self._files(name)
        if files.certificate.exists() and files.key.exists() and self._still_good(files, set(hosts)):
            return
        key, authority = x.new_key(), self.authorities[-1]
        certificate = x.issue(authority, name, key.public_key(), usage=usage, days=LEAF_DAYS, hosts=hosts)
        write_file(files.key, x.key_pem(key), PRIVATE)
        write_file(files.certificate, x.certificates_pem(certificate, *authority.sent), PUBLIC)

    def _still_good(self, files: TlsFiles, hosts: set[str]) -> bool:
        try:
            certificate, key = read_certificate(files.certificate), read_key(files.key)
        except SettingsError:
            return False  # a leaf can be made again at any time, unlike an authority
        now = datetime.now(UTC)  # before a leaf begins, where the clock was set back since
        fresh = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
        matches = certificate.public_key() == key.public_key()
        return fresh and matches and self.authorities[-1].issued(certificate) and hosts <= _hosts(certificate)


def check_device_id(device_id: str) -> None:
    """Raises InvalidInputError for a name that no device may have."""
    if not DEVICE_ID.fullmatch(device_id) or is_reserved(device_id):
        raise InvalidInputError(
            f"{device_id!r} cannot be a device id",
            next=f"use 1 to 64 of a-z, 0-9 and -, not starting with {SERVICE_PREFIX}",
        )


def is_reserved(device_id: str) -> bool:
    """True for names that no device may have: those of the service's own processes."""
    return device_id.startswith(SERVICE_PREFIX) or device_id in {"server", "localhost", "svc"}


def _external(settings: Settings) -> ExternalAuthority | None:
    return ExternalAuthority(settings.device_ca, settings.dirs.pki) if settings.device_ca else None


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in names}
