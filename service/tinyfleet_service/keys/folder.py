"""The keys folder: private keys by name, their passphrase, and every root so far.

A key is `<name>.key`, an encrypted PKCS#8 file, or `<name>.pkcs11`, which says where in a PKCS#11 module it is, or
`<name>.command`, which says what program signs with it (`external.py`). Keys that were replaced are kept as
`<name>.<key id>.<form>.old`, or with `lost-` and a digest of the file where it cannot be used. `content.pem`, encrypted
with the same passphrase, opens the content keys of encrypted blobs. Nothing here is ever overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tinyfleet_ota import (
    Algorithm,
    FileSigner,
    OtaError,
    Pkcs11Key,
    Pkcs11Signer,
    Root,
    Signer,
    generate_pkcs11,
    key_id,
    parse_root,
)
from tinyfleet_service.errors import NotFoundError, SettingsError, StateConflictError, StorageError
from tinyfleet_service.keys.external import ExternalKey, ExternalSigner

PIN = "TINYFLEET_PKCS11_PIN"
DRAFT = "root.draft"
CONTENT = "content.pem"
PRIVATE, PUBLIC = 0o600, 0o666
FORMS = (".key", ".pkcs11", ".command")


@dataclass(frozen=True)
class KeyFolder:
    """A folder of keys: the service's own, or one on a machine that is never on a network."""

    path: Path

    def create(self) -> KeyFolder:
        """Make the folder and a passphrase. Raises StorageError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot make {self.path}: {error.strerror}", next="choose another folder") from error
        if not (self.path / "passphrase").exists():
            write_private(self.path / "passphrase", secrets.token_urlsafe(32).encode())
        return self

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For changes: two at once could make two roots of one number, and half of the devices would follow neither.

        Raises StateConflictError while another command is at it.
        """
        with ExitStack() as stack:
            if self.path.is_dir():
                stack.callback(os.close, folder := os.open(self.path, os.O_RDONLY))
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    next_step = "wait until it is done, then look at `fleetctl keys list`"
                    raise StateConflictError("another command changes these keys", next=next_step) from error
            yield

    def names(self) -> list[str]:
        """Names of the keys that are here, sorted."""
        return sorted({path.stem for path in self.path.glob("*") if path.suffix in FORMS})

    def has(self, name: str) -> bool:
        """Whether the key `name` is here."""
        return name in self.names()

    def load(self, name: str) -> Signer:
        """The signer of `name`. Raises SettingsError."""
        key, token, command = self._forms(name)
        try:
            if token.exists():
                return Pkcs11Signer(Pkcs11Key(**json.loads(token.read_text())), self._pin())
            if command.exists():
                return _external(json.loads(command.read_text()))
            return FileSigner.load(key, self._passphrase())
        except (OtaError, OSError, ValueError, TypeError, KeyError) as error:
            used = next((path for path in (token, command) if path.exists()), key)
            raise SettingsError(
                f"cannot use the signing key {used}: {error}",
                next="restore the keys folder from a backup, or TINYFLEET_DATA names another installation",
                path=str(key),
            ) from error

    def signers(self) -> dict[str, Signer]:
        """Every key that is here, by name. Raises SettingsError."""
        return {name: self.load(name) for name in self.names()}

    def make(
        self, name: str, algorithm: Algorithm = Algorithm.EDDSA, where: Pkcs11Key | ExternalKey | None = None
    ) -> Signer:
        """A new key `name`, in a file or on a token; or the one that a program holds already, whatever its algorithm.

        Raises SettingsError, also when there is one already.
        """
        if self.has(name):
            raise SettingsError(f"there is a key {name} in {self.path}", next="`fleetctl keys rotate` replaces it")
        try:
            if isinstance(where, Pkcs11Key):
                signer: Signer = generate_pkcs11(where, self._pin(), algorithm)
                write_private(self.path / f"{name}.pkcs11", json.dumps(asdict(where), indent=1).encode())
                return signer
            if isinstance(where, ExternalKey):
                held = ExternalSigner(where)
                document = {"command": where.command, "public_key": held.public_key.hex()}
                write_private(self.path / f"{name}.command", json.dumps(document, indent=1).encode())
                return held
            made = FileSigner.generate(algorithm)
            made.save(self.path / f"{name}.key", self._passphrase())
            return made
        except OtaError as error:
            raise SettingsError(
                f"cannot make the key {name}: {error}", next="check folder, token and PIN, or the program"
            ) from error

    def content_key(self) -> ec.EllipticCurvePrivateKey:
        """The P-256 key that content keys of encrypted blobs rest under; made when missing. Raises SettingsError."""
        path = self.path / CONTENT
        if not path.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            encryption = BestAvailableEncryption(self._passphrase())
            write_private(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        try:
            key = load_pem_private_key(_read(path), self._passphrase())
        except (ValueError, TypeError) as error:
            raise SettingsError(f"cannot use {path}: {error}", next="restore the keys folder from a backup") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SettingsError(f"{path} holds another kind of key", next="restore the keys folder from a backup")
        return key

    def retire(self, name: str) -> None:
        """Put the key `name` aside, if it is here, so that `make` can replace it."""
        for path in self._forms(name):
            if path.exists():
                path.rename(path.with_name(f"{name}.{self._label(name, path)}{path.suffix}.old"))

    def promote(self, name: str) -> None:
        """Make the key `<role>.next` the key `<role>`; the one before is put aside."""
        role = name.removesuffix(".next")
        self.retire(role)
        for path in self._forms(name):
            if path.exists():
                path.rename(path.with_name(role + path.suffix))

    def drop(self) -> bool:
        """Give the draft up, and put aside the keys made for it; False when there is none."""
        there = self.draft() is not None
        for name in [name for name in self.names() if name.endswith(".next")]:
            self.retire(name)
        (self.path / DRAFT).unlink(missing_ok=True)
        return there

    def bring_back(self, public_key: bytes) -> None:
        """Undo what `drop` did to the key made for a change, if it lies here."""
        for path in self.path.glob(f"*.next.{key_id(public_key).hex()}.*.old"):
            name, form = path.name.split(".next.")[0] + ".next", Path(path.stem).suffix
            self.retire(name)
            path.rename(path.with_name(name + form))

    def roots(self) -> list[bytes]:
        """Every root so far, verified one by one, root 1 first. Raises SettingsError."""
        found: list[bytes] = []
        previous: Root | None = None
        for number in range(1, self.count_roots() + 1):
            if not (path := self._root(number)).exists():
                next_step = "restore it from a backup: devices follow no root made anew"
                raise SettingsError(f"no {path.name} in {self.path}, though later roots are there", next=next_step)
            data = _read(path)
            try:
                previous = parse_root(data, previous)
            except OtaError as error:
                raise SettingsError(f"{path} does not hold: {error}", next="restore it from a backup") from error
            found.append(data)
        if not found:
            raise SettingsError(
                f"no root 1 in {self.path}", next="start `fleetctl serve` once, or restore the keys folder"
            )
        return found

    def count_roots(self) -> int:
        """The number of the newest root that is here, 0 without any; not verified: a cheap look for a new one."""
        numbers = [path.stem.removeprefix("root-") for path in self.path.glob("root-*.cbor")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def newest(self) -> Root:
        """What the newest root says. Raises SettingsError."""
        previous: Root | None = None
        for data in self.roots():
            previous = parse_root(data, previous)
        assert previous is not None
        return previous

    def add_root(self, data: bytes) -> int:
        """Take a further root; its number. Raises SettingsError, StateConflictError for one that does not follow."""
        try:
            known = self.roots() if self.count_roots() else []
            previous = self.newest() if known else None
            if data in known:
                if data == self.draft():
                    (self.path / DRAFT).unlink()
                return known.index(data) + 1
            root = parse_root(data, previous)
        except OtaError as error:
            next_step = "sign it further, or start anew"
            raise StateConflictError(f"this root does not follow: {error}", next=next_step) from error
        write_private(self._root(root.number), data)
        (self.path / DRAFT).unlink(missing_ok=True)
        return root.number

    def draft(self) -> bytes | None:
        """The root under way, or None."""
        return _read(self.path / DRAFT) if (self.path / DRAFT).exists() else None

    def set_draft(self, data: bytes) -> None:
        """Keep a root that still lacks signatures. Raises StorageError."""
        write_private(self.path / DRAFT, data)

    def find(self, name: str) -> bytes:
        """Public key by name or by the start of its key id, if the newest root holds it. Raises NotFoundError."""
        root = self.newest()
        held = [*root.root_keys, *root.release_keys, *root.director_keys]
        if self.has(name) and (key := self.load(name).public_key) in held:
            return key
        matches = [key for key in held if len(name) >= 4 and key_id(key).hex().startswith(name)]
        if len(matches) != 1:
            raise NotFoundError(
                f"no key {name!r} in root {root.number}", next="see `fleetctl keys list`", what="key", name=name
            )
        return matches[0]

    def _label(self, name: str, path: Path) -> str:
        try:
            return self.load(name).kid.hex()
        except SettingsError:
            return f"lost-{hashlib.sha256(_read(path)).hexdigest()[:16]}"

    def _forms(self, name: str) -> tuple[Path, Path, Path]:
        key, token, command = (self.path / f"{name}{form}" for form in FORMS)
        return key, token, command

    def _root(self, number: int) -> Path:
        return self.path / f"root-{number}.cbor"

    def _passphrase(self) -> bytes:
        return _read(self.path / "passphrase").strip()

    def _pin(self) -> str:
        if pin := os.environ.get(PIN):
            return pin
        path = self.path / "pkcs11.pin"
        if not path.exists():
            raise SettingsError("the token needs its PIN", next=f"set {PIN}, or write it to {path}")
        return _read(path).decode().strip()


def _external(document: dict[str, Any]) -> ExternalSigner:
    key = ExternalKey(tuple(map(str, document["command"])))
    return ExternalSigner(key, bytes.fromhex(document["public_key"]))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all. Raises StorageError."""
    write_whole(path, data, PRIVATE)


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file, whole or not at all; `mode` under the umask, as a stick may know none. Raises StorageError."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}", next="check the folder and its space") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}", next="start `fleetctl serve` once, or restore the keys folder"
        ) from error
