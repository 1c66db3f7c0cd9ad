"""suit_manifest.cddl, read by a validator that is not ours: our envelopes fit, bent ones do not."""

from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest
from cddl_verifier import validate

from tinyfleet_ota import FileSigner, make_release
from tinyfleet_ota.keys import Algorithm

CDDL = Path(__file__).parents[3] / "ota" / "tinyfleet_ota" / "suit_manifest.cddl"


def envelope(algorithm: Algorithm = Algorithm.EDDSA, **changes: object) -> bytes:
    signer = FileSigner.generate(algorithm)
    terms = {
        "abi": 1,
        "release_counter": 70_000,
        "security_floor": 12,
        "component": "model/0",
        "version": "v2",
    } | changes
    return make_release(b"weights" * 100, device_class="cortex-m4", signer=signer, **terms)  # type: ignore[arg-type]


def fits(data: bytes) -> bool:
    return bool(validate(CDDL.read_text(), data, "SUIT_Envelope", require_deterministic=True).valid)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_envelopes_fit_the_cddl(algorithm: Algorithm) -> None:
    assert fits(envelope(algorithm))
    assert fits(envelope(algorithm, release_counter=(1 << 32) - 1, component="m", version="x" * 32))


def bend(data: bytes, key: int, change: Callable[[dict[int, object]], object]) -> bytes:
    """The manifest changed at one of its members, in an envelope around it."""
    item = cbor2.loads(data)
    outer = dict(item.value)
    manifest = dict(cbor2.loads(outer[3]))
    manifest[key] = change(manifest)
    outer[3] = cbor2.dumps(manifest)
    return cbor2.dumps(cbor2.CBORTag(item.tag, outer))


BENDS: dict[str, tuple[int, Callable[[dict[int, object]], object]]] = {
    "version": (1, lambda manifest: 2),
    "sequence": (2, lambda manifest: "70000"),
    "common": (3, lambda manifest: cbor2.dumps({2: [[b"model/0"]]})),
    "validate": (7, lambda manifest: cbor2.dumps([3, 14])),
    "install": (20, lambda manifest: cbor2.dumps([20, {21: "https://example.org"}, 21, 2, 3, 15])),
    "invoke": (9, lambda manifest: cbor2.dumps([23, 2])),
    "text": (23, lambda manifest: cbor2.dumps({"en": {}})),
}


@pytest.mark.parametrize("name", BENDS)
def test_what_is_not_our_profile_does_not_fit(name: str) -> None:
    assert not fits(bend(envelope(), *BENDS[name]))


def test_another_tag_or_a_missing_signature_does_not_fit() -> None:
    item = cbor2.loads(envelope())
    outer = dict(item.value)
    assert not fits(cbor2.dumps(cbor2.CBORTag(108, outer)))
    digest, _ = cbor2.loads(outer[2])
    assert not fits(cbor2.dumps(cbor2.CBORTag(107, {**outer, 2: cbor2.dumps([digest])})))
