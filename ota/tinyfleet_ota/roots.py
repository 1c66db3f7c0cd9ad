"""Roots: which keys are trusted for what, each following its predecessor. SPEC section 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tinyfleet_ota import cose, protocol
from tinyfleet_ota.errors import RootError, SignatureError
from tinyfleet_ota.keys import check_public_key, key_by_id, key_id
from tinyfleet_ota.protocol_codec import decode_message, encode_message
from tinyfleet_ota.signers import Signer

ROOT_BYTES_MAX = 512
SIGNATURES_MAX = 4
KEYS_MAX = 3


@dataclass(frozen=True)
class Root:
    """Trusted public keys (Ed25519 or P-256), each list ascending bytewise. `number` counts roots from 1."""

    number: int
    threshold: int
    root_keys: tuple[bytes, ...]
    release_keys: tuple[bytes, ...]
    director_keys: tuple[bytes, ...]
    director_epoch: int


def make_root(root: Root, signers: Sequence[Signer], previous: Root | None = None) -> bytes:
    """COSE_Sign of `root` by `signers`, checked as a device will: against `previous` (None for root 1).

    Raises RootError for a root no device would take, also for missing signatures or more than 512 bytes.
    """
    message = asdict(root) | {"protocol": protocol.PROTOCOL_VERSION}
    data = cose.sign(encode_message("root", message), signers)
    if len(data) > ROOT_BYTES_MAX:
        raise RootError(f"a root has at most {ROOT_BYTES_MAX} bytes: change the keys in two steps", got=len(data))
    parse_root(data, previous)
    return data


def draft_root(root: Root) -> bytes:
    """COSE_Sign of `root` without signatures, for `sign_root`. Raises RootError for a root no device would take."""
    _check(root)
    return cose.sign(encode_message("root", asdict(root) | {"protocol": protocol.PROTOCOL_VERSION}), [])


def read_root(data: bytes) -> tuple[Root, list[bytes]]:
    """What a root or a draft of one says, and the key ids in its signatures, **not verified**.

    Raises ProtocolError, RootError.
    """
    payload, signatures = cose.read_sign(data, size_max=ROOT_BYTES_MAX)
    return _read(payload), [one.kid for one in signatures]


def sign_root(data: bytes, signers: Sequence[Signer], previous: Root | None = None) -> bytes:
    """A draft with the signatures of these signers that it still needs, keys of both roots first; it has room for few.

    Raises ProtocolError, RootError.
    """
    payload, signatures = cose.read_sign(data, size_max=ROOT_BYTES_MAX)
    root = _read(payload)
    judges = [root, *([previous] if previous else [])]
    for signer in sorted(signers, key=lambda one: -sum(one.public_key in judge.root_keys for judge in judges)):
        needed = {key for _, keys in _missing(judges, [one.kid for one in signatures]) for key in keys}
        if signer.public_key in needed:
            _, added = cose.read_sign(cose.sign(payload, [signer]), size_max=ROOT_BYTES_MAX)
            signatures += added
    return cose.assemble_sign(payload, signatures)


def join_signatures(data: bytes, more: bytes, previous: Root) -> bytes:
    """A draft with those signatures of another copy of it that it still needs; all of the copy's must hold.

    Raises ProtocolError, RootError for a draft of another root, SignatureError.
    """
    payload, signatures = cose.read_sign(data, size_max=ROOT_BYTES_MAX)
    copied, offered = cose.read_sign(more, size_max=ROOT_BYTES_MAX)
    _require(copied == payload, "draft", "the same in both")
    judges = [_read(payload), previous]
    trusted = {key_id(key): key for judge in judges for key in judge.root_keys}
    for one in sorted(offered, key=lambda one: -sum(trusted.get(one.kid) in judge.root_keys for judge in judges)):
        cose.verify_sign(payload, one, key_by_id(trusted.values(), one.kid))
        if any(trusted[one.kid] in keys for _, keys in _missing(judges, [kept.kid for kept in signatures])):
            signatures.append(one)
    return cose.assemble_sign(payload, signatures)


def missing_signatures(data: bytes, previous: Root | None) -> list[tuple[int, list[bytes]]]:
    """What a draft still needs: (how many more, of which keys) for the previous root's keys and for its own.

    Both empty means `parse_root` decides. Signatures count as they stand, not verified.
    """
    root, kids = read_root(data)
    return _missing([*([previous] if previous else []), root], kids)


def _missing(judges: Sequence[Root], kids: Sequence[bytes]) -> list[tuple[int, list[bytes]]]:
    wanted = []
    for judge in judges:
        open_keys = [key for key in judge.root_keys if key_id(key) not in kids]
        more = judge.threshold - (len(judge.root_keys) - len(open_keys))
        if more > 0:
            wanted.append((more, open_keys))
    return wanted


def parse_root(data: bytes, previous: Root | None = None) -> Root:
    """The root, verified: self-signed to its threshold, and by `previous`'s keys to theirs.

    Without `previous` only root 1 is accepted, which the caller trusts because it was provisioned.
    Raises ProtocolError, RootError, SignatureError.
    """
    payload, signatures = cose.read_sign(data, size_max=ROOT_BYTES_MAX)
    root = _read(payload)
    _check_succession(root, previous)
    _check_signatures(root, previous, payload, signatures)
    return root


def _read(payload: bytes) -> Root:
    message = decode_message("root", payload, size_max=ROOT_BYTES_MAX)
    _require(message.pop("protocol") == protocol.PROTOCOL_VERSION, "protocol", "this version: update the older side")
    lists = {name: tuple(message[name]) for name in ("root_keys", "release_keys", "director_keys")}
    root = Root(**{**message, **lists})
    _require(
        encode_message("root", asdict(root) | {"protocol": protocol.PROTOCOL_VERSION}) == payload,
        "payload",
        "the known fields only",
    )
    _check(root)
    return root


def _require(condition: bool, field: str, expected: str) -> None:
    if not condition:
        raise RootError(f"root: {field} must be {expected}", field=field, expected=expected)


def _check(root: Root) -> None:
    _require(root.number >= 1, "number", "1 or more")
    _require(1 <= root.threshold <= len(root.root_keys), "threshold", "1 to the number of root keys")
    for name in ("root_keys", "release_keys", "director_keys"):
        keys = getattr(root, name)
        ascending = list(keys) == sorted(set(keys))
        _require(1 <= len(keys) <= KEYS_MAX and ascending, name, f"1 to {KEYS_MAX} distinct keys in ascending order")
    everyone = [*root.root_keys, *root.release_keys, *root.director_keys]
    _require(len(set(everyone)) == len(everyone), "keys", "in one role only")
    for key in everyone:
        check_public_key(key)


def _check_succession(root: Root, previous: Root | None) -> None:
    if previous is None:
        _require(root.number == 1, "number", "1 when there is no previous root")
        return
    _require(root.number == previous.number + 1, "number", f"{previous.number + 1}: walk roots one by one")
    lowest = previous.director_epoch + (root.director_keys != previous.director_keys)
    _require(root.director_epoch >= lowest, "director_epoch", f"{lowest} or more")


def _check_signatures(root: Root, previous: Root | None, payload: bytes, signatures: list[cose.Signature]) -> None:
    trusted = {key_id(key): key for key in [*root.root_keys, *(previous.root_keys if previous else ())]}
    _require(1 <= len(signatures) <= SIGNATURES_MAX, "signatures", f"1 to {SIGNATURES_MAX}")
    for one in signatures:
        if one.kid not in trusted:
            raise SignatureError(f"root {root.number} is signed by an unknown key {one.kid.hex()}", kid=one.kid)
        cose.verify_sign(payload, one, trusted[one.kid])
    signed_by = {one.kid for one in signatures}
    for judge in [root, *([previous] if previous else [])]:
        count = len(signed_by & {key_id(key) for key in judge.root_keys})
        if count < judge.threshold:
            message = f"root {root.number} has {count} of {judge.threshold} signatures of root {judge.number}'s keys"
            raise SignatureError(message, count=count, threshold=judge.threshold)
