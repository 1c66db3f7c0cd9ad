"""Changes of trust: each makes root n + 1, which counts when enough keys of root n and of itself have signed it.

rotate, revoke   write a draft and sign it with the root keys that are here
export           one file: all roots, the draft, release manifests that wait for a signature
sign             on the machine that holds the keys: adds what its keys can sign
import           takes finished roots and signatures back
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinyfleet_ota import (
    Algorithm,
    OtaError,
    Pkcs11Key,
    Release,
    Root,
    Signer,
    draft_of,
    draft_root,
    join_signatures,
    key_id,
    make_root,
    missing_signatures,
    parse_release,
    parse_root,
    read_draft,
    read_root,
    sign_release,
    sign_root,
)
from tinyfleet_service.errors import InvalidInputError, SettingsError, StateConflictError
from tinyfleet_service.keys.external import ExternalKey
from tinyfleet_service.keys.folder import PUBLIC, KeyFolder, write_whole

ROOT_KEYS = 3
ROOT_THRESHOLD = 2
ROLES = {"root": "root_keys", "release": "release_keys", "director": "director_keys"}
FORMAT = "tinyfleet-ceremony-1"
FILE_BYTES_MAX = 4 << 20


def make_first_root(folder: KeyFolder, algorithm: Algorithm = Algorithm.EDDSA) -> None:
    """Root, release and director keys and root 1. Root 1 is written last: a start cut in the middle goes on there.

    Raises SettingsError when a root that is here does not hold, or one before it is missing.
    """
    if folder.count_roots():
        folder.roots()
        with suppress(SettingsError):  # a token that is away stops no start
            take_up(folder)
        return
    folder.create()
    names = [*(f"root{n}" for n in range(1, ROOT_KEYS + 1)), "release", "director"]
    *roots, release, director = [_load_or_make(folder, name, algorithm) for name in names]
    root = Root(
        number=1,
        threshold=ROOT_THRESHOLD,
        root_keys=tuple(sorted(key.public_key for key in roots)),
        release_keys=(release.public_key,),
        director_keys=(director.public_key,),
        director_epoch=1,
    )
    folder.add_root(make_root(root, roots[:ROOT_THRESHOLD]))


def rotate(
    folder: KeyFolder,
    name: str,
    algorithm: Algorithm = Algorithm.EDDSA,
    where: Pkcs11Key | ExternalKey | None = None,
) -> int | None:
    """Replace a key by name or id; the number of the new root, or None while signatures are missing.

    The old private key is put aside only when the new root holds; it may be lost. Raises SettingsError, NotFoundError,
    StateConflictError.
    """
    if not _is_id(name):
        _role(name)  # a word that is no key's changes nothing
    _begin(folder)
    root = folder.newest()
    name, role, old = _to_replace(folder, root, name)
    signers = _root_signers(folder)  # an old root key still signs
    new = folder.make(f"{name}.next", algorithm, where)
    if new.public_key in _held(root):
        folder.retire(f"{name}.next")
        raise StateConflictError(f"root {root.number} names this key already", next="make a new one where it is held")
    return _propose(folder, _exchanged(root, role, old, new.public_key), [*signers, new])


def revoke(folder: KeyFolder, name: str) -> int | None:
    """Leave the key `name` (or key id) out of the next root, as `rotate` otherwise.

    Raises StateConflictError for the last key of a role: that one can only be rotated.
    """
    _begin(folder)
    old, root = folder.find(name), folder.newest()
    role = _role_of(root, old)
    left = tuple(key for key in getattr(root, role) if key != old)
    if not left or (role == "root_keys" and len(left) < root.threshold):
        raise StateConflictError(f"{name} is needed: root {root.number} would have too few keys", next="rotate it")
    return _propose(folder, _next(root, **{role: left}), _root_signers(folder))


def settle(folder: KeyFolder) -> int | None:
    """Make the draft a root when its signatures suffice: its number, else None."""
    draft = folder.draft()
    if draft is None or missing_signatures(draft, folder.newest()):
        return None
    number = folder.add_root(draft)
    take_up(folder)
    return number


def take_up(folder: KeyFolder) -> None:
    """Put new keys in the place of those before them, if the newest root names them. Raises SettingsError.

    A cut between the root and its keys leaves this to the next start or command; a key may lie where `drop` put it, as
    what was signed elsewhere meanwhile may still come back.
    """
    held = _held(folder.newest()) if any(folder.path.glob("*.next.*")) else ()
    for key in held:
        folder.bring_back(key)
    for name in folder.names():
        if name.endswith(".next") and folder.load(name).public_key in held:
            folder.promote(name)


def take_draft(folder: KeyFolder, draft: bytes) -> int | None:
    """Add the signatures of a draft that comes back to those that are here, and settle it.

    Raises InvalidInputError for a signature that does not hold, StateConflictError for a change that is not the one
    under way; both change nothing.
    """
    newest, here = folder.newest(), folder.draft()
    try:
        proposed = read_root(draft)[0]
        if proposed in [read_root(data)[0] for data in folder.roots()]:
            return proposed.number  # it was finished before
        if here is not None and proposed != read_root(here)[0]:
            raise StateConflictError("another change is under way here", next="`keys drop` it, or finish it first")
        if proposed.number != newest.number + 1:
            message = f"the draft of root {proposed.number} does not follow root {newest.number}, which holds here"
            raise StateConflictError(message, next="begin the change anew")
        joined = join_signatures(here or draft_root(proposed), draft, newest)
    except OtaError as error:
        raise InvalidInputError(f"the draft does not hold: {error}", next="export it again, and sign that") from error
    folder.set_draft(joined)
    return settle(folder)


def missing(folder: KeyFolder) -> list[str]:
    """What the draft still needs, in words."""
    draft = folder.draft()
    if draft is None:
        return []
    return [
        f"{more} more of {', '.join(key_id(key).hex() for key in keys)}"
        for more, keys in missing_signatures(draft, folder.newest())
    ]


# ---- the file that is carried


@dataclass
class Ceremony:
    """What one file carries. Releases: build id -> manifest to sign, or the signed envelope."""

    roots: list[bytes]
    draft: bytes | None = None
    waiting: dict[int, bytes] = field(default_factory=dict)
    signed: dict[int, bytes] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; it holds no secrets. Raises StorageError."""
        document = {
            "format": FORMAT,
            "roots": [root.hex() for root in self.roots],
            "draft": self.draft.hex() if self.draft else None,
            "waiting": {str(build): data.hex() for build, data in self.waiting.items()},
            "signed": {str(build): data.hex() for build, data in self.signed.items()},
        }
        write_whole(path, json.dumps(document, indent=1).encode() + b"\n", PUBLIC)

    @classmethod
    def read(cls, path: Path) -> Ceremony:
        """Read the file. Raises InvalidInputError."""
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                raise ValueError("too large")
            document = json.loads(path.read_text())
            if not isinstance(document, dict) or document["format"] != FORMAT:
                raise ValueError("another format")
            return cls(
                roots=[bytes.fromhex(root) for root in document["roots"]],
                draft=bytes.fromhex(document["draft"]) if document["draft"] else None,
                waiting=_by_build(document["waiting"]),
                signed=_by_build(document["signed"]),
            )
        except OSError as error:
            next_step = "give a file of `keys export`"
            raise InvalidInputError(f"cannot read {path}: {error.strerror}", next=next_step) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInputError(f"{path} is no ceremony file: {error}", next="export it again") from error

    def newest(self) -> Root:
        """What the newest of its roots says, each verified. Raises InvalidInputError."""
        previous: Root | None = None
        try:
            for data in self.roots:
                previous = parse_root(data, previous)
        except OtaError as error:
            raise InvalidInputError(f"a root in this file does not hold: {error}", next="export it again") from error
        if previous is None:
            raise InvalidInputError("this file holds no root", next="export it again")
        return previous


@dataclass(frozen=True)
class ToSign:
    """One thing that keys here could sign; `sign` does it, in the ceremony it came from."""

    text: str
    keys: tuple[str, ...]
    sign: Callable[[], None]


def to_sign(ceremony: Ceremony, signers: dict[str, Signer]) -> list[ToSign]:
    """What of a ceremony the keys of this machine can sign. Raises InvalidInputError for what nobody should sign."""
    root = ceremony.newest()
    found: list[ToSign] = []
    if ceremony.draft:
        found += _draft_to_sign(ceremony, ceremony.draft, root, signers)
    by_key = {signer.public_key: (name, signer) for name, signer in signers.items()}
    mine = [by_key[key] for key in root.release_keys if key in by_key]
    for build, manifest in sorted(ceremony.waiting.items()) if mine else ():
        name, signer = mine[0]
        found.append(ToSign(_describe(build, manifest), (name,), _release_signing(ceremony, build, signer)))
    return found


def check_signed(draft: bytes, envelope: bytes, root: Root) -> Release:
    """The release of a signature made elsewhere, which must be over that very manifest. Raises InvalidInputError."""
    try:
        release = parse_release(envelope, root.release_keys)
        if draft_of(envelope) != draft:
            raise InvalidInputError("this signature is over another manifest", next="export, sign and import again")
    except OtaError as error:
        raise InvalidInputError(f"this signature does not hold: {error}", next="sign with a release key") from error
    return release


def _draft_to_sign(ceremony: Ceremony, draft: bytes, root: Root, signers: dict[str, Signer]) -> list[ToSign]:
    try:
        proposed, kids = read_root(draft)
    except OtaError as error:
        raise InvalidInputError(f"the draft is no root: {error}", next="export it again") from error
    trusted = {*proposed.root_keys, *root.root_keys}
    able = {n: s for n, s in signers.items() if s.public_key in trusted and s.kid not in kids}
    if not able:
        return []

    def sign() -> None:
        ceremony.draft = sign_root(draft, list(able.values()), root)

    return [ToSign(describe_change(root, proposed), tuple(able), sign)]


def _release_signing(ceremony: Ceremony, build: int, signer: Signer) -> Callable[[], None]:
    def sign() -> None:
        ceremony.signed[build] = sign_release(ceremony.waiting.pop(build), signer)

    return sign


def describe_change(old: Root, new: Root) -> str:
    """What a root changes, in words: the thing a person signs."""
    lines = [f"root {new.number}, threshold {new.threshold}, director epoch {new.director_epoch}"]
    for role, name in ROLES.items():
        before, after = set(getattr(old, name)), set(getattr(new, name))
        lines += [f"- {role} key {key_id(key).hex()}" for key in sorted(before - after)]
        lines += [f"+ {role} key {key_id(key).hex()}" for key in sorted(after - before)]
    return "\n".join(lines)


def _describe(build: int, manifest: bytes) -> str:
    try:
        release = read_draft(manifest)
    except OtaError as error:
        raise InvalidInputError(f"build {build} has no manifest: {error}", next="export it again") from error
    if not (release.component + release.version).isprintable():
        raise InvalidInputError(f"build {build} is named to deceive: {release.version!r}", next="ask who named it so")
    return (
        f"release of build {build}: {release.component} {release.version}, counter {release.release_counter}, "
        f"floor {release.security_floor}, {release.image_bytes} B, SHA-256 {release.image_digest.hex()}"
    )


def _by_build(document: Any) -> dict[int, bytes]:
    return {int(build): bytes.fromhex(data) for build, data in document.items()}


def _role(name: str) -> str:
    role = name.rstrip("0123456789")
    if role not in ROLES or (role != "root" and name != role):
        raise InvalidInputError(f"no key {name!r}", next="root1, root2, ..., release or director")
    return ROLES[role]


def _role_of(root: Root, key: bytes) -> str:
    (role,) = [field for field in ROLES.values() if key in getattr(root, field)]
    return role


def _to_replace(folder: KeyFolder, root: Root, name: str) -> tuple[str, str, bytes]:
    """What the key will be called here, its role, and the public key that it replaces."""
    if not _is_id(name):
        role = _role(name)
        alone = getattr(root, role)
        return name, role, alone[0] if len(alone) == 1 else folder.find(name)
    old = folder.find(name)
    role = _role_of(root, old)
    (word,) = [word for word, field in ROLES.items() if field == role]
    return _name_of_root(folder, old) if word == "root" else word, role, old


def _is_id(name: str) -> bool:
    return len(name) >= 4 and not set(name) - set("0123456789abcdef")


def _name_of_root(folder: KeyFolder, key: bytes) -> str:
    """The root key's name where it is here; else one that no root key had where it is."""
    names = [name for name in folder.names() if name.startswith("root")]
    numbers = [int(name[4:]) for name in names if name[4:].isdecimal()]
    here = [name for name in names if folder.load(name).public_key == key]
    return here[0] if here else f"root{max(ROOT_KEYS, *numbers) + 1}"


def _exchanged(root: Root, role: str, old: bytes, new: bytes) -> Root:
    return _next(root, **{role: tuple(sorted({*getattr(root, role), new} - {old}))})


def _next(root: Root, **changes: tuple[bytes, ...]) -> Root:
    further = int("director_keys" in changes)
    proposed = replace(root, number=root.number + 1, director_epoch=root.director_epoch + further)
    return replace(proposed, **changes)  # type: ignore[arg-type]


def _held(root: Root) -> tuple[bytes, ...]:
    return (*root.root_keys, *root.release_keys, *root.director_keys)


def _begin(folder: KeyFolder) -> None:
    """One change at a time; keys that one left which never became a draft are put aside."""
    if folder.draft() is not None:
        raise StateConflictError("a change is under way", next="finish it with `keys sign`, or `keys drop` it")
    take_up(folder)
    folder.drop()


def _propose(folder: KeyFolder, root: Root, signers: Sequence[Signer]) -> int | None:
    folder.set_draft(sign_root(draft_root(root), signers, folder.newest()))
    return settle(folder)


def _root_signers(folder: KeyFolder) -> list[Signer]:
    """Root keys by their names: a lost token of another role does not hinder its own replacement."""
    held = folder.newest().root_keys
    signers = [folder.load(name) for name in folder.names() if name.startswith("root")]
    return [signer for signer in signers if signer.public_key in held]


def _load_or_make(folder: KeyFolder, name: str, algorithm: Algorithm) -> Signer:
    return folder.load(name) if folder.has(name) else folder.make(name, algorithm)
