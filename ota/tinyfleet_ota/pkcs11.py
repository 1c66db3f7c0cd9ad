"""Keys in a PKCS#11 module: the private key never leaves the token. Needs the extra `hsm` (python-pkcs11).

ES256 works with every token that has CKM_ECDSA on P-256; Ed25519 where the token offers CKM_EDDSA.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tinyfleet_ota.errors import KeyFileError
from tinyfleet_ota.keys import ED25519_BYTES, Algorithm, algorithm_of, key_id

_P256_POINT_BYTES = 65
_ONE_LOGIN = threading.Lock()
"""A process is logged in to a token or it is not, whichever thread asked: one at a time."""
_REFUSED: set[tuple[str, str, str]] = set()
"""(module, token, PIN) that this process does not try again: asked a few times more, the token would lock itself."""
_WRONG_PIN = "refused the PIN: give the right one; this one is not tried again before a restart: few lock a token"
_P256_PARAMETERS = bytes.fromhex("06082a8648ce3d030107")
"""CKA_EC_PARAMS of P-256: its object identifier in DER."""
_ED25519_PARAMETERS = b"\x13\x0cedwards25519"
"""CKA_EC_PARAMS of Ed25519: the curve's name as PrintableString (PKCS#11 3.0 section 2.3.5)."""


@dataclass(frozen=True)
class Pkcs11Key:
    """Where a key is: path of the module's library, label of the token, label of the key pair on it."""

    module: str
    token: str
    label: str


class Pkcs11Signer:
    """Signs with a key of a token. Each signature logs in and out: tokens share one login among all of a process."""

    def __init__(self, where: Pkcs11Key, pin: str) -> None:
        """Find the key pair. Raises KeyFileError: no module, no token, wrong PIN, no such key."""
        self._where, self._pin = where, pin
        with _session(where, pin) as session:
            self.public_key: bytes = _public_bytes(_find(session, where, "PUBLIC_KEY"), where)
            _find(session, where, "PRIVATE_KEY")
        self.kid: bytes = key_id(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes. Raises KeyFileError when the token refuses."""
        pkcs11 = _library()
        with _session(self._where, self._pin) as session:
            private = _find(session, self._where, "PRIVATE_KEY")
            if algorithm_of(self.public_key) == Algorithm.EDDSA:
                return bytes(private.sign(message, mechanism=pkcs11.Mechanism.EDDSA))
            return bytes(private.sign(hashlib.sha256(message).digest(), mechanism=pkcs11.Mechanism.ECDSA))


def generate_pkcs11(where: Pkcs11Key, pin: str, algorithm: Algorithm = Algorithm.ES256) -> Pkcs11Signer:
    """Make a key pair on the token; an existing label is never replaced. Raises KeyFileError."""
    with _session(where, pin) as session:
        if list(session.get_objects({_library().Attribute.LABEL: where.label})):
            raise _refused(where, "has a key of that label already: choose another")
        _generate(session, where, algorithm)
    return Pkcs11Signer(where, pin)


def _generate(session: Any, where: Pkcs11Key, algorithm: Algorithm) -> None:
    pkcs11 = _library()
    if algorithm == Algorithm.EDDSA:
        kind, curve = pkcs11.KeyType.EC_EDWARDS, _ED25519_PARAMETERS
        mechanism = pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    else:
        kind, curve = pkcs11.KeyType.EC, _P256_PARAMETERS
        mechanism = pkcs11.Mechanism.EC_KEY_PAIR_GEN
    domain = session.create_domain_parameters(kind, {pkcs11.Attribute.EC_PARAMS: curve}, local=True)
    domain.generate_keypair(mechanism=mechanism, store=True, label=where.label)


@contextmanager
def _session(where: Pkcs11Key, pin: str) -> Iterator[Any]:
    """A session, logged in; whatever the module says on the way becomes a KeyFileError."""
    pkcs11 = _library()
    with _ONE_LOGIN:
        if (where.module, where.token, pin) in _REFUSED:
            raise _refused(where, _WRONG_PIN)
        try:
            token = pkcs11.lib(where.module).get_token(token_label=where.token)
            with token.open(rw=True, user_pin=pin) as session:
                yield session
        except pkcs11.exceptions.NoSuchToken as error:
            raise _refused(where, "is not there: check the token label") from error
        except pkcs11.exceptions.PinIncorrect as error:
            _REFUSED.add((where.module, where.token, pin))
            raise _refused(where, _WRONG_PIN) from error
        except pkcs11.exceptions.PinLocked as error:
            raise _refused(
                where, "is locked after wrong PINs: unlock it with the PIN of its security officer"
            ) from error
        except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
            raise _refused(where, f"failed: {error or type(error).__name__}") from error


def _find(session: Any, where: Pkcs11Key, kind: str) -> Any:
    pkcs11 = _library()
    wanted = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass[kind], pkcs11.Attribute.LABEL: where.label}
    keys = list(session.get_objects(wanted))
    if len(keys) != 1:
        raise _refused(where, f"has {len(keys)} keys of label {where.label!r}: exactly one pair is needed")
    return keys[0]


def _public_bytes(public: Any, where: Pkcs11Key) -> bytes:
    pkcs11 = _library()
    point = bytes(public[pkcs11.Attribute.EC_POINT])
    content = point[2:] if len(point) in (2 + ED25519_BYTES, 2 + _P256_POINT_BYTES) and point[0] == 4 else point
    if len(content) == ED25519_BYTES:
        return content
    if len(content) == _P256_POINT_BYTES:
        return bytes([2 + content[-1] % 2]) + content[1:33]
    raise _refused(where, "holds a key that is neither Ed25519 nor P-256")


def _library() -> Any:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError as error:
        raise KeyFileError("PKCS#11 needs python-pkcs11: pip install 'tinyfleet[hsm]'") from error
    return pkcs11


def _refused(where: Pkcs11Key, what: str) -> KeyFileError:
    return KeyFileError(f"PKCS#11 token {where.token!r} {what}", module=where.module, token=where.token)
