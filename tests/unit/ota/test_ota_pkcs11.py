"""Keys in a PKCS#11 module: SoftHSM2, a real one in software."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from tinyfleet_ota import Algorithm, FileSigner, Root, make_release, make_root, parse_release
from tinyfleet_ota.errors import KeyFileError, SignatureError
from tinyfleet_ota.keys import verify
from tinyfleet_ota.pkcs11 import Pkcs11Key, Pkcs11Signer, generate_pkcs11

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "4711"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Label of a new token; the module reads its settings once a process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--pin", PIN, "--so-pin", "0815"]
    subprocess.run(command, check=True, capture_output=True)
    yield "fleet"
    del os.environ["SOFTHSM2_CONF"]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_token_signs_what_both_readers_take(token: str, algorithm: Algorithm) -> None:
    where = Pkcs11Key(MODULE, token, f"release-{algorithm.name}")
    signer = generate_pkcs11(where, PIN, algorithm)
    verify(signer.public_key, b"message", signer.sign(b"message"))
    with pytest.raises(SignatureError):
        verify(signer.public_key, b"massage", signer.sign(b"message"))
    again = Pkcs11Signer(where, PIN)
    assert (again.public_key, again.kid) == (signer.public_key, signer.kid)
    release = make_release(
        b"image", device_class="cortex-m4", abi=1, release_counter=1, security_floor=0, component="model/0",
        version="v1", signer=again,
    )  # fmt: skip
    assert parse_release(release, [signer.public_key]).kid == signer.kid


def test_root_keys_may_be_a_file_and_a_token(token: str) -> None:
    held, file = generate_pkcs11(Pkcs11Key(MODULE, token, "root"), PIN), FileSigner.generate()
    others = [FileSigner.generate().public_key for _ in range(2)]
    keys = tuple(sorted((held.public_key, file.public_key)))
    root = Root(1, 2, keys, (others[0],), (others[1],), 1)
    assert len(make_root(root, [held, file])) <= 512


@pytest.mark.parametrize(
    ("where", "pin", "word"),
    [
        (Pkcs11Key("/nowhere.so", "fleet", "root"), PIN, "nowhere.so"),
        (Pkcs11Key(MODULE, "another", "root"), PIN, "not there"),
        (Pkcs11Key(MODULE, "fleet", "no such key"), PIN, "0 keys"),
        (Pkcs11Key(MODULE, "fleet", "root"), "0000", "PIN"),
    ],
)
def test_what_is_not_there_is_said(token: str, where: Pkcs11Key, pin: str, word: str) -> None:
    with pytest.raises(KeyFileError, match=word):
        Pkcs11Signer(where, pin)


def test_a_wrong_pin_is_tried_once(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks for keys, or for a token that came back, tries again and again, and would lock the token."""
    where = Pkcs11Key(MODULE, token, "tried")
    signer = generate_pkcs11(where, PIN)
    with pytest.raises(KeyFileError, match="PIN"):
        Pkcs11Signer(where, "1111")
    monkeypatch.setattr("pkcs11.lib", Mock(side_effect=AssertionError("asked again")))
    with pytest.raises(KeyFileError, match="not tried again"):
        Pkcs11Signer(Pkcs11Key(MODULE, token, "root"), "1111")
    monkeypatch.undo()
    verify(signer.public_key, b"message", signer.sign(b"message"))


def test_a_label_in_use_is_not_replaced(token: str) -> None:
    where = Pkcs11Key(MODULE, token, "twice")
    first = generate_pkcs11(where, PIN)
    with pytest.raises(KeyFileError, match="already"):
        generate_pkcs11(where, PIN)
    assert Pkcs11Signer(where, PIN).public_key == first.public_key


def test_the_pin_is_in_no_error(token: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        Pkcs11Signer(Pkcs11Key(MODULE, token, "none"), PIN)
    assert PIN not in f"{caught.value!r} {caught.value.__cause__!r}"
