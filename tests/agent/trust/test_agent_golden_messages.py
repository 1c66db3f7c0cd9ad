"""The agent's readers give each golden message the verdict written beside it (tests/golden/ota)."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agent import cbuild, red_zones
from tinyfleet_ota.protocol import Reason

HERE = cbuild.ROOT / "tests" / "agent" / "trust"
POSIX = cbuild.DEVICE_AGENT / "ports" / "posix"
SRC = cbuild.DEVICE_AGENT / "src"
MESSAGES = json.loads((cbuild.ROOT / "tests" / "golden" / "ota" / "messages.json").read_text())
DEVICE = MESSAGES["device"]
ROOT_1 = next(bytes.fromhex(case["bytes"]) for case in MESSAGES["cases"] if case["name"] == "valid root 1")

ffi = red_zones.make_ffi()
ffi.cdef("""
typedef struct trust_t trust_t;
trust_t *trust_new(const char *device, const char *device_class, uint32_t floor, uint64_t epoch, uint64_t sequence,
                   const uint8_t *nonces);
void trust_free(trust_t *trust);
int trust_root(trust_t *trust, const uint8_t *data, uint32_t bytes, int follows);
int trust_release(trust_t *trust, const uint8_t *digest, const uint8_t *data, uint32_t bytes);
int trust_assignment(trust_t *trust, const uint8_t *data, uint32_t bytes);
int trust_verify(trust_t *trust, const uint8_t *key, uint32_t key_bytes, const uint8_t *message, uint32_t bytes,
                 const uint8_t *signature);
""")


@pytest.fixture(scope="module")
def lib() -> Any:
    sources = [
        *sorted(SRC.glob("*.c")),
        *cbuild.runtime_sources(),
        POSIX / "crypto.c",
        POSIX / "file.c",
        HERE / "trust_rig.c",
    ]
    library = cbuild.shared_library("trust", sources, include=[SRC, POSIX], libraries=["-lcrypto"])
    return red_zones.load(ffi, library)


@pytest.fixture
def trust(lib: Any) -> Iterator[Any]:
    names = [ffi.new("char[]", DEVICE[name].encode()) for name in ("device", "device_class")]
    nonces = bytes.fromhex("".join(DEVICE["nonces"]))
    state = lib.trust_new(*names, DEVICE["floor"], DEVICE["director_epoch"], DEVICE["sequence"], nonces)
    assert lib.trust_root(state, ROOT_1, len(ROOT_1), 0)
    yield state
    lib.trust_free(state)
    del names


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in MESSAGES["cases"] if case["kind"] == kind]


def reason(number: int) -> str:
    return "OK" if number == Reason.NONE else Reason(number).name


@pytest.mark.parametrize("case", cases("release"))
def test_release(lib, trust, case):
    data = bytes.fromhex(case["bytes"])
    verdict = lib.trust_release(trust, bytes.fromhex(case["manifest_digest"]), data, len(data))
    assert reason(verdict) == case["expect"]


@pytest.mark.parametrize("case", cases("assignment"))
def test_assignment(lib, trust, case):
    data = bytes.fromhex(case["bytes"])
    assert reason(lib.trust_assignment(trust, data, len(data))) == case["expect"]


@pytest.mark.parametrize("case", cases("root"))
def test_root(lib, trust, case):
    data = bytes.fromhex(case["bytes"])
    taken = lib.trust_root(trust, data, len(data), int(case["number"] > 1))
    assert bool(taken) == (case["expect"] == "OK")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in MESSAGES["signatures"]])
def test_signature(lib, trust, case):
    key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
    assert bool(lib.trust_verify(trust, key, len(key), message, len(message), signature)) == case["valid"]
