"""Encrypted blobs and wrapped keys: what opens, and everything that does not."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet_ota import EncryptionError, SealedBlob, decrypt_blob, encrypt_blob, unwrap_key, wrap_key

KEY = ec.generate_private_key(ec.SECP256R1())
BLOB = bytes(range(16))


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(17, 1024))
def test_blobs_open_again(plain: bytes, chunk_bytes: int) -> None:
    sealed = encrypt_blob(plain, chunk_bytes)
    chunks = -(-len(plain) // (chunk_bytes - 16))
    assert len(sealed.data) == len(plain) + 16 * chunks
    assert decrypt_blob(sealed, chunk_bytes) == plain


def test_no_two_blobs_share_a_key() -> None:
    sealed = [encrypt_blob(b"the same image", 64) for _ in range(20)]
    assert len({one.key for one in sealed}) == len({one.data for one in sealed}) == 20


@pytest.mark.parametrize(("plain", "size"), [(b"x", 0), (b"x", 1), (b"x", 16), (b"", 64)])
def test_chunks_without_room_and_blobs_of_nothing_are_refused(plain: bytes, size: int) -> None:
    with pytest.raises(EncryptionError, match="more than 16"):
        encrypt_blob(plain, size)


def test_damage_key_order_and_end_are_noticed() -> None:
    sealed = encrypt_blob(bytes(100), 48)
    data = sealed.data
    bad = [
        SealedBlob(data, bytes(16)),
        SealedBlob(data[:-1], sealed.key),
        SealedBlob(data[48:96] + data[:48] + data[96:], sealed.key),
        *(
            SealedBlob(data[:at] + bytes([data[at] ^ 128]) + data[at + 1 :], sealed.key)
            for at in range(0, len(data), 7)
        ),
    ]
    for one in bad:
        with pytest.raises(EncryptionError, match="another key"):
            decrypt_blob(one, 48)


def test_only_the_device_blob_and_key_it_was_wrapped_for_unwrap() -> None:
    wrapped = wrap_key(b"k" * 16, KEY.public_key(), BLOB, "m4-7")
    assert len(wrapped) == 96
    assert unwrap_key(wrapped, KEY, BLOB, "m4-7") == b"k" * 16
    assert wrap_key(b"k" * 16, KEY.public_key(), BLOB, "m4-7") != wrapped
    other = ec.generate_private_key(ec.SECP256R1())
    for attempt in ((KEY, BLOB, "m4-8"), (KEY, bytes(16), "m4-7"), (other, BLOB, "m4-7")):
        with pytest.raises(EncryptionError, match="another device"):
            unwrap_key(wrapped, *attempt)
    for at in (0, 63, 64, 95):
        damaged = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        with pytest.raises(EncryptionError):
            unwrap_key(damaged, KEY, BLOB, "m4-7")


def test_keys_of_another_curve_or_length_are_refused() -> None:
    for size in (15, 17):
        with pytest.raises(EncryptionError, match="16 bytes"):
            wrap_key(bytes(size), KEY.public_key(), BLOB, "m4-7")
    with pytest.raises(EncryptionError, match="P-256"):
        wrap_key(bytes(16), ec.generate_private_key(ec.SECP384R1()).public_key(), BLOB, "m4-7")
