"""Crypto port and certificate requests against `cryptography`, an independent implementation."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.ports.posix_port import Crypto, ffi, lib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER_Y = [
    0,
    1,
    P - 1,
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
]


@pytest.fixture
def crypto(tmp_path: Path) -> Iterator[Crypto]:
    port = Crypto(tmp_path / "key.pem")
    yield port
    port.close()


def verify(crypto: Crypto, key: bytes, message: bytes, signature: bytes) -> bool:
    """The port's verdict."""
    return bool(crypto.port.ed25519_verify(crypto.port.ctx, key, message, len(message), signature))


def test_sha256_in_parts(crypto: Crypto) -> None:
    state, digest = ffi.new("fleet_sha256_t *"), ffi.new("uint8_t[32]")
    data = os.urandom(1000)
    crypto.port.sha256_init(crypto.port.ctx, state)
    for part in (data[:1], data[1:65], data[65:]):
        crypto.port.sha256_update(crypto.port.ctx, state, part, len(part))
    crypto.port.sha256_final(crypto.port.ctx, state, digest)
    assert bytes(digest) == hashlib.sha256(data).digest()


def test_ed25519_accepts_valid_and_refuses_each_changed_part(crypto: Crypto) -> None:
    # RFC 8032 section 7.1, test 3.
    key = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert verify(crypto, key, b"\xaf\x82", signature)
    assert not verify(crypto, key, b"\xaf\x83", signature)
    for position in range(64):
        flipped = bytearray(signature)
        flipped[position] ^= 1
        assert not verify(crypto, key, b"\xaf\x82", bytes(flipped))


def test_ed25519_refuses_s_not_below_the_order(crypto: Crypto) -> None:
    private = Ed25519PrivateKey.generate()
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    assert verify(crypto, key, b"m", signature)
    assert not verify(crypto, key, b"m", signature[:32] + (s + L).to_bytes(32, "little"))
    assert not lib.fleet_ed25519_is_strict(key, signature[:32] + L.to_bytes(32, "little"))
    for y in SMALL_ORDER_Y:
        assert not lib.fleet_ed25519_is_strict(key, y.to_bytes(32, "little") + signature[32:])
    assert lib.fleet_ed25519_is_strict(key, signature[:32] + (L - 1).to_bytes(32, "little"))


@pytest.mark.parametrize("sign_bit", [0, 1 << 255])
@pytest.mark.parametrize("y", SMALL_ORDER_Y)
def test_ed25519_refuses_small_order_keys(crypto: Crypto, y: int, sign_bit: int) -> None:
    key = (y | sign_bit).to_bytes(32, "little")
    forged = (1).to_bytes(32, "little") + bytes(32)  # R = identity, S = 0: fits any message for the identity as key
    assert not verify(crypto, key, b"anything", forged)
    assert not lib.fleet_ed25519_is_strict(key, forged)
    if y < 19:
        assert not lib.fleet_ed25519_is_strict((y + P | sign_bit).to_bytes(32, "little"), forged)


def test_small_order_refusal_is_ours_where_the_library_accepts() -> None:
    forged = (1).to_bytes(32, "little") + bytes(32)
    try:
        Ed25519PublicKey.from_public_bytes((1).to_bytes(32, "little")).verify(forged, b"anything")
    except InvalidSignature:
        pytest.skip("this library refuses small-order keys itself")
    assert not lib.fleet_ed25519_is_strict((1).to_bytes(32, "little"), forged)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_strictness_is_what_the_numbers_say(key: bytes, signature: bytes) -> None:
    points = [int.from_bytes(point, "little") & ((1 << 255) - 1) for point in (key, signature[:32])]
    s = int.from_bytes(signature[32:], "little")
    expected = s < L and all(y < P and y not in SMALL_ORDER_Y for y in points)
    assert lib.fleet_ed25519_is_strict(key, signature) == expected


def test_key_is_made_once_private_and_reopened(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first, again = Crypto(path), Crypto(path)
    assert first.public_key() == again.public_key()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    point = loaded.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert point[1:] == first.public_key()
    first.close()
    again.close()


def test_damaged_key_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n")
    crypto = Crypto(path)
    with pytest.raises(OSError, match=str(lib.FLEET_ERR_CRYPTO)):
        crypto.public_key()
    assert "nonsense" in path.read_text()


def test_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(lib.FLEET_ERR_STORAGE)):
        Crypto(tmp_path / "missing" / "key.pem").public_key()


def test_p256_signature_verifies(crypto: Crypto) -> None:
    point = b"\x04" + crypto.public_key()
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    digest, out = hashlib.sha256(b"message").digest(), ffi.new("uint8_t[64]")
    assert crypto.port.p256_sign(crypto.port.ctx, digest, out) == lib.FLEET_OK
    raw = bytes(out)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


@pytest.mark.parametrize("name", ["x", "cortex-m4-k7x2qz5a", "n" * 64])
def test_csr_is_what_an_independent_parser_expects(crypto: Crypto, name: str) -> None:
    for _ in range(20):  # integers of the signature come in several lengths
        der = crypto.csr(name)
        csr = x509.load_der_x509_csr(der)
        assert csr.is_signature_valid
        assert [a.value for a in csr.subject] == [name]
        assert csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert list(csr.extensions) == []
        assert csr.public_bytes(serialization.Encoding.DER) == der


def test_csr_encodes_every_integer_shape() -> None:
    """A signer that gives the values DER treats specially: leading zeros, top bit set, zero."""
    shapes = [b"\0" * 31 + b"\1", b"\x80" + bytes(31), b"\0" * 32, b"\xff" * 32, b"\0\x80" + b"\7" * 30]
    fixed = ffi.new("fleet_posix_crypto_t *")
    lib.fleet_posix_crypto_open(fixed, b"/nonexistent")
    for r in shapes:
        for s in shapes:

            @ffi.callback("fleet_status_t(void *, const uint8_t *, uint8_t *)")
            def sign(_ctx: object, _digest: object, out: object, raw: bytes = r + s) -> int:
                ffi.memmove(out, raw, 64)
                return 0

            @ffi.callback("fleet_status_t(void *, uint8_t *)")
            def key(_ctx: object, out: object) -> int:
                point = ec.derive_private_key(7, ec.SECP256R1()).public_key()
                form = serialization.PublicFormat.UncompressedPoint
                ffi.memmove(out, point.public_bytes(serialization.Encoding.X962, form)[1:], 64)
                return 0

            port = ffi.new("fleet_crypto_t *", lib.fleet_posix_crypto_port(fixed))
            port.p256_sign, port.p256_key = sign, key
            out, size = ffi.new("uint8_t[320]"), ffi.new("uint32_t *")
            assert lib.fleet_csr_write(port, b"n" * 64, out, size) == lib.FLEET_OK
            csr = x509.load_der_x509_csr(bytes(out)[: size[0]])
            assert utils.decode_dss_signature(csr.signature) == (int.from_bytes(r, "big"), int.from_bytes(s, "big"))


@pytest.mark.parametrize("name", ["", "n" * 65, "new\nline", "caf\u00e9"])
def test_csr_refuses_names_it_cannot_write(crypto: Crypto, name: str) -> None:
    with pytest.raises(ValueError, match=str(lib.FLEET_ERR_ARGUMENT)):
        crypto.csr(name)


def test_csr_without_key_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(lib.FLEET_ERR_STORAGE)):
        Crypto(tmp_path / "missing" / "key.pem").csr("x")


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("a", True),
        ("cortex-m4-7", True),
        ("z" * 64, True),
        ("", False),
        ("z" * 65, False),
        ("A", False),
        ("a/b", False),
    ],
)
def test_device_ids(name: str, legal: bool) -> None:
    assert lib.fleet_device_id_is_legal(name.encode()) == legal
