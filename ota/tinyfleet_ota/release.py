"""Release manifests: what an image *is*, signed by the release key. A strict SUIT profile, SPEC section 3."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tinyfleet_ota import cbor
from tinyfleet_ota.cose import check_algorithm
from tinyfleet_ota.errors import ProtocolError, ReleaseError
from tinyfleet_ota.keys import KID_BYTES, SIGNATURE_BYTES, Algorithm, algorithm_of, key_by_id, verify
from tinyfleet_ota.signers import Signer
from tinyfleet_ota.suit_profile import ENVELOPE_BYTES_MAX, PIECES, SIGNED, VERSION_BYTES_MAX, class_id

_DIGEST_BYTES = 32
_CLASS_BYTES = 16
_COMPONENT_BYTES_MAX = 16
_UINT32_MAX = 2**32 - 1
_HEAD = ("ENVELOPE", "SIGN1", "KID", "SIGNATURE", "MANIFEST_KEY")
_MANIFEST_AT = sum(len(PIECES[piece]) for piece in _HEAD) + _DIGEST_BYTES + 1 + KID_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True)
class Release:
    """What a release manifest says of an image."""

    component: str
    version: str
    class_id: bytes
    image_digest: bytes
    image_bytes: int
    abi: int
    release_counter: int
    security_floor: int
    kid: bytes


def make_release(
    image: bytes,
    *,
    device_class: str,
    abi: int,
    release_counter: int,
    security_floor: int,
    component: str,
    version: str,
    signer: Signer,
) -> bytes:
    """The signed SUIT envelope of `image`. Raises ReleaseError for values outside SPEC section 3."""
    draft = draft_release(
        image,
        device_class=device_class,
        abi=abi,
        release_counter=release_counter,
        security_floor=security_floor,
        component=component,
        version=version,
    )
    return sign_release(draft, signer)


def draft_release(
    image: bytes,
    *,
    device_class: str,
    abi: int,
    release_counter: int,
    security_floor: int,
    component: str,
    version: str,
) -> bytes:
    """The manifest of `image`, not signed: what is carried to the release key. Raises ReleaseError."""
    release = Release(
        component=component,
        version=version,
        class_id=class_id(device_class),
        image_digest=hashlib.sha256(image).digest(),
        image_bytes=len(image),
        abi=abi,
        release_counter=release_counter,
        security_floor=security_floor,
        kid=b"",
    )
    _check(release)
    return cbor.encode(_manifest(release))


def read_draft(draft: bytes) -> Release:
    """What a manifest that is to be signed says; its `kid` is empty. Raises ReleaseError outside the template."""
    release = _read_manifest(_Reader(draft), b"")
    _check(release)
    return release


def sign_release(draft: bytes, signer: Signer) -> bytes:
    """The envelope around a manifest, signed. Raises ReleaseError for a manifest outside the template."""
    read_draft(draft)
    return seal(draft, signer)


def draft_of(envelope: bytes) -> bytes:
    """The manifest inside an envelope, as `draft_release` made it. Raises ReleaseError."""
    _read(envelope)
    return envelope[_MANIFEST_AT:]


def seal(manifest: bytes, signer: Signer) -> bytes:
    """The envelope around the manifest byte string, signed; `sign_release` checks the manifest first."""
    digest = hashlib.sha256(manifest).digest()
    algorithm = algorithm_of(signer.public_key)
    signature = signer.sign(_signed_bytes(algorithm, signer.kid, digest))
    head = PIECES["ENVELOPE"] + digest + PIECES["SIGN1"] + _wire(algorithm) + PIECES["KID"] + signer.kid
    return head + PIECES["SIGNATURE"] + signature + PIECES["MANIFEST_KEY"] + manifest


def parse_release(envelope: bytes, release_keys: Sequence[bytes]) -> Release:
    """The release, after template, digest and signature were verified.

    Raises ReleaseError for bytes outside the template, SignatureError for an unknown key or a wrong signature.
    """
    release, algorithm, digest, signature = _read(envelope)
    key = key_by_id(release_keys, release.kid)
    check_algorithm(algorithm, key)
    verify(key, _signed_bytes(algorithm, release.kid, digest), signature)
    return release


def read_release(envelope: bytes) -> Release:
    """What the envelope says, template and digest checked, **signature not verified**. Raises ReleaseError."""
    return _read(envelope)[0]


def _read(envelope: bytes) -> tuple[Release, Algorithm, bytes, bytes]:
    """Release, algorithm of its signature, manifest digest and signature."""
    if len(envelope) > ENVELOPE_BYTES_MAX:
        raise ReleaseError(f"a release manifest has at most {ENVELOPE_BYTES_MAX} bytes", got=len(envelope))
    reader = _Reader(envelope)
    digest = reader.after("ENVELOPE", _DIGEST_BYTES)
    wire = reader.after("SIGN1", 1)
    kid = reader.after("KID", KID_BYTES)
    signature = reader.after("SIGNATURE", SIGNATURE_BYTES)
    reader.after("MANIFEST_KEY", 0)
    manifest = envelope[reader.offset :]
    release = _read_manifest(reader, kid)
    _check(release)
    if hashlib.sha256(manifest).digest() != digest:
        raise ReleaseError("the manifest's digest differs: the envelope was changed after signing", release=release)
    algorithm = next((one for one in Algorithm if _wire(one) == wire), None)
    if algorithm is None:
        raise ReleaseError("a release is signed with EdDSA or ES256", got=wire)
    return release, algorithm, digest, signature


def manifest_id(envelope: bytes) -> bytes:
    """Id of a release manifest in topics: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(envelope).digest()[:16]


def _signed_bytes(algorithm: Algorithm, kid: bytes, digest: bytes) -> bytes:
    return SIGNED["SIG_STRUCTURE"] + _wire(algorithm) + PIECES["KID"] + kid + SIGNED["SIG_PAYLOAD"] + digest


def _wire(algorithm: Algorithm) -> bytes:
    return cbor.encode(int(algorithm))


def _check(release: Release) -> None:
    _require(1 <= len(release.component.encode()) <= _COMPONENT_BYTES_MAX, "component", "1 to 16 bytes")
    _require(1 <= len(release.version.encode()) <= VERSION_BYTES_MAX, "version", "1 to 32 bytes")
    _require(1 <= release.image_bytes <= _UINT32_MAX, "image_bytes", "1 to 2^32 - 1")
    _require(0 <= release.abi <= _UINT32_MAX, "abi", "0 to 2^32 - 1")
    _require(1 <= release.release_counter <= _UINT32_MAX, "release_counter", "1 to 2^32 - 1")
    _require(0 <= release.security_floor <= release.release_counter, "security_floor", "0 to the release counter")


def _require(condition: bool, field: str, expected: str) -> None:
    if not condition:
        raise ReleaseError(f"release: {field} must be {expected}", field=field, expected=expected)


def _manifest(release: Release) -> bytes:
    """Content of the manifest byte string, assembled from the template's pieces."""
    component = cbor.encode(release.component.encode())
    shared = PIECES["SHARED"] + release.class_id + PIECES["IMAGE_DIGEST"] + release.image_digest
    shared += PIECES["IMAGE_SIZE"] + cbor.encode(release.image_bytes) + PIECES["ABI"] + cbor.encode(release.abi)
    shared += PIECES["FLOOR"] + cbor.encode(release.security_floor) + PIECES["TAIL"][:4]
    common = PIECES["COMPONENTS"] + component + PIECES["SHARED_KEY"] + cbor.encode(shared)
    text = PIECES["TEXT"] + component + PIECES["VERSION"] + cbor.encode(release.version)
    head = PIECES["MANIFEST"] + cbor.encode(release.release_counter)
    return head + PIECES["COMMON_KEY"] + cbor.encode(common) + PIECES["TAIL"][4:] + cbor.encode(text)


class _Reader:
    """Walks the template: every fixed piece must match, every nested byte string must end where the template says."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def after(self, piece: str, size: int) -> bytes:
        """The `size` bytes that follow `piece`."""
        fixed = PIECES[piece]
        start = self.offset + len(fixed)
        if self.data[self.offset : start] != fixed or start + size > len(self.data):
            raise ReleaseError(f"not our SUIT template: {piece} differs at byte {self.offset}", offset=self.offset)
        self.offset = start + size
        return self.data[start : self.offset]

    def head_after(self, piece: str, major: int) -> int:
        """Argument of the shortest head of type `major` that follows `piece`."""
        self.after(piece, 0)
        return self.head(major)

    def head(self, major: int) -> int:
        try:
            got, argument, after = cbor.read_head(self.data, self.offset)
        except ProtocolError as error:
            raise ReleaseError(f"not our SUIT template: {error}", offset=self.offset) from error
        if got != major:
            raise ReleaseError(f"not our SUIT template: wrong type at byte {self.offset}", offset=self.offset)
        self.offset = after
        return argument

    def take(self, size: int) -> bytes:
        self.offset += size
        if self.offset > len(self.data):
            raise ReleaseError("the release manifest is cut short: fetch it again", offset=self.offset)
        return self.data[self.offset - size : self.offset]

    def expect_end(self, end: int) -> None:
        if self.offset != end:
            raise ReleaseError(f"not our SUIT template: a part ends at {end} instead of {self.offset}", offset=end)


def _read_manifest(reader: _Reader, kid: bytes) -> Release:
    end = reader.head(cbor.BSTR) + reader.offset
    reader_end = len(reader.data)
    release_counter = reader.head_after("MANIFEST", cbor.UINT)
    common_end = reader.head_after("COMMON_KEY", cbor.BSTR) + reader.offset
    component = reader.take(reader.head_after("COMPONENTS", cbor.BSTR))
    shared_end = reader.head_after("SHARED_KEY", cbor.BSTR) + reader.offset
    device_class = reader.after("SHARED", _CLASS_BYTES)
    image_digest = reader.after("IMAGE_DIGEST", _DIGEST_BYTES)
    image_bytes = reader.head_after("IMAGE_SIZE", cbor.UINT)
    abi = reader.head_after("ABI", cbor.UINT)
    floor = reader.head_after("FLOOR", cbor.UINT)
    reader.expect_end(shared_end - 4)
    reader.expect_end(common_end - 4)
    text_end = reader.head_after("TAIL", cbor.BSTR) + reader.offset
    if reader.take(reader.head_after("TEXT", cbor.BSTR)) != component:
        raise ReleaseError("the text names another component", component=component)
    version = reader.take(reader.head_after("VERSION", cbor.TSTR))
    for expected in (text_end, end, reader_end):
        reader.expect_end(expected)
    return Release(
        component=_text(component),
        version=_text(version),
        class_id=device_class,
        image_digest=image_digest,
        image_bytes=image_bytes,
        abi=abi,
        release_counter=release_counter,
        security_floor=floor,
        kid=kid,
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ReleaseError("component and version must be UTF-8", got=data) from error
