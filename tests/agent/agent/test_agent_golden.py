"""The golden messages of ota, valid and attacked, through the agent's own readers: each ends with its stated reason."""

import json
from functools import cache
from typing import Any

import cffi
import pytest

from agent import cbuild
from agent.agent.rig import HERE, POSIX, SRC
from tinyfleet_ota.protocol import Reason

GOLDEN = json.loads((cbuild.ROOT / "tests" / "golden" / "ota" / "messages.json").read_text())
CASES = {kind: [case for case in GOLDEN["cases"] if case["kind"] == kind] for kind in ("release", "assignment", "root")}


@cache
def load() -> tuple[cffi.FFI, Any]:
    ffi = cffi.FFI()
    ffi.cdef("""
        int golden_release(const char *device_class, const uint8_t *release_key, uint32_t floor, const uint8_t *digest,
                           const uint8_t *data, uint32_t bytes);
        int golden_assignment(const char *device, const uint8_t *director_key, uint64_t epoch, uint64_t sequence,
                              const uint8_t *nonces, const uint8_t *data, uint32_t bytes);
        int golden_root(const uint8_t *previous, uint32_t previous_bytes, const uint8_t *data, uint32_t bytes);
    """)
    sources = [
        *sorted(SRC.glob("*.c")),
        *cbuild.runtime_sources(),
        POSIX / "crypto.c",
        POSIX / "file.c",
        HERE / "golden.c",
    ]
    library = cbuild.shared_library("agent_golden", sources, include=[SRC, POSIX, HERE], libraries=["-lcrypto"])
    return ffi, ffi.dlopen(str(library))


def buffer(ffi: cffi.FFI, data: bytes) -> Any:
    return ffi.new("uint8_t[]", data or b"\0")


@pytest.mark.parametrize("case", CASES["release"], ids=lambda case: case["name"])
def test_release(case: dict[str, Any]) -> None:
    ffi, lib = load()
    device, data = GOLDEN["device"], bytes.fromhex(case["bytes"])
    key, digest = (buffer(ffi, bytes.fromhex(text)) for text in (device["release_keys"][0], case["manifest_digest"]))
    floor = device["floor"]
    reason = Reason(
        lib.golden_release(device["device_class"].encode(), key, floor, digest, buffer(ffi, data), len(data))
    )
    expected = "NONE" if case["expect"] == "OK" else case["expect"]
    also = {
        "MANIFEST_SIGNATURE": {"KEY_REVOKED"},
        "MANIFEST_MALFORMED": {"MANIFEST_DIGEST"},
    }  # other order, same refusal
    assert reason.name in {expected} | also.get(expected, set())


@pytest.mark.parametrize("case", CASES["assignment"], ids=lambda case: case["name"])
def test_assignment(case: dict[str, Any]) -> None:
    ffi, lib = load()
    device, data = GOLDEN["device"], bytes.fromhex(case["bytes"])
    key = buffer(ffi, bytes.fromhex(device["director_keys"][0]))
    nonces = buffer(ffi, bytes.fromhex("".join(device["nonces"])))
    epoch, sequence = device["director_epoch"], device["sequence"]
    found = lib.golden_assignment(device["device"].encode(), key, epoch, sequence, nonces, buffer(ffi, data), len(data))
    assert Reason(found).name == ("NONE" if case["expect"] == "OK" else case["expect"])


@pytest.mark.parametrize("case", CASES["root"], ids=lambda case: case["name"])
def test_root(case: dict[str, Any]) -> None:
    ffi, lib = load()
    data = bytes.fromhex(case["bytes"])
    first = bytes.fromhex(CASES["root"][0]["bytes"]) if case["number"] != 1 else b""
    accepted = lib.golden_root(buffer(ffi, first), len(first), buffer(ffi, data), len(data))
    assert accepted == (case["expect"] == "OK")
