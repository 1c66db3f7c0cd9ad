"""Well-signed messages whose maps are wrong: a member missing, twice, out of order, of another type or size."""

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import cbor2
import pytest

from agent import cbuild
from agent.trust.test_agent_golden_messages import lib, reason, trust
from tinyfleet_ota import cbor, cose
from tinyfleet_ota.protocol_codec import encode_message

__all__ = ["lib", "trust"]

Members = list[tuple[int, bytes]]
MALFORMED = "ASSIGNMENT_MALFORMED"
HUGE = cbor.encode(2**64 - 1)
WINDOW, OPTIONAL = 8, (7, 8, 13, 14, 15, 16)


def golden() -> Any:
    path = cbuild.ROOT / "tests" / "golden" / "ota" / "regenerate.py"
    spec = importlib.util.spec_from_file_location("ota_golden_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = golden()


def members_of(values: dict[int, Any]) -> Members:
    return [(key, cbor.encode(value)) for key, value in sorted(values.items())]


def joined(members: Members) -> bytes:
    """A map of these members as they are, legal or not."""
    return cbor.head(cbor.MAP, len(members)) + b"".join(cbor.encode(key) + value for key, value in members)


def wrong_values(value: bytes) -> Iterator[bytes]:
    """Of every other type, of other sizes, in a longer head, cut short."""
    kind, number = value[0] >> 5, value[0] & 31
    others = [0, -1, b"12345678", "m4-7", [], {}, None, True, 1.5, 2**64 - 1, cbor2.CBORTag(1, 1)]
    yield from (cbor2.dumps(other) for other in others if cbor2.dumps(other)[0] >> 5 != kind)
    yield b""
    yield bytes([kind << 5 | 31])
    if kind == 0:
        yield HUGE
        yield bytes([0x18, number]) if len(value) == 1 else bytes([0x1B, *bytes(9 - len(value)), *value[1:]])
    elif kind == 2:
        data = cbor2.loads(value)
        yield from (cbor.encode(data[:-1]), cbor.encode(data + b"\0"), b"\x5f" + value + b"\xff")


def wrong_maps(members: Members, wide: tuple[int, ...] = (), passed: tuple[int, ...] = ()) -> Iterator[bytes]:
    """What no reader may take, whichever member it is done to. `wide` have 64 bits, of `passed` it looks at nothing."""
    for at, (key, value) in enumerate(members):
        for wrong in wrong_values(value):
            if key not in passed and not (key in wide and wrong == HUGE):
                yield joined([*members[:at], (key, wrong), *members[at + 1 :]])
        yield joined([*members[: at + 1], *members[at:]])
        yield (
            joined([*members[:at], *members[at + 1 :], members[at]]) if at + 1 < len(members) else joined(members)[:-1]
        )
    whole = joined(members)
    yield from (
        whole + b"\0",
        bytes([whole[0] + 1]) + whole[1:],
        bytes([whole[0] - 1]) + whole[1:],
        b"\xbf" + whole[1:] + b"\xff",
    )
    yield from (
        joined([*members, (77, bad)])
        for bad in (b"\xf7", b"\xfb" + bytes(8), b"\x81" * 9 + b"\0", b"\x9f\xff", b"\xa1\0", b"\xbb\x80" + bytes(7))
    )


def assignment() -> Members:
    return members_of(MAKER.payload_of(MAKER.wanted()))


def full_entry() -> Members:
    delta = MAKER.entry(codec=1, base_digest=bytes(32), latency_budget_us=9, not_before=5, window=(60, 120))
    (values,) = MAKER.payload_of(MAKER.wanted(entries=(delta,)))[5]
    return members_of(values | {15: bytes(96), 16: 3})


def with_entry(entry: bytes) -> bytes:
    return joined([*assignment()[:5], (5, b"\x81" + entry)])


@pytest.fixture
def judge(lib: Any, trust: Any) -> Any:
    def verdict(payload: bytes) -> str:
        data = MAKER.signed(payload)
        return reason(lib.trust_assignment(trust, data, len(data)))

    return verdict


def test_what_is_bent_below_was_good(judge: Any) -> None:
    assert judge(joined(assignment())) == "OK"
    assert judge(with_entry(joined(full_entry()))) == "OK"


def test_a_bent_assignment_is_malformed(judge: Any) -> None:
    members = assignment()
    # the nonce may be null, and is the only one
    bent = [data for data in wrong_maps(members, wide=(2,)) if data != joined([*members[:4], (4, b"\xf6"), members[5]])]
    bent += [joined([*members[:at], *members[at + 1 :]]) for at in range(len(members))]
    bent.append(joined([*members[:3], (3, cbor.encode(2**53)), *members[4:]]))
    assert [data.hex() for data in bent if judge(data) != MALFORMED] == []


def test_a_bent_entry_is_malformed(judge: Any) -> None:
    members = full_entry()
    bent = list(wrong_maps(members, wide=(7,), passed=(3, 16)))
    bent += [joined([one for one in members if one[0] != key]) for key, _ in members if key not in OPTIONAL]
    for key in (key for key, value in members if value[0] >> 5 == 0 and key not in (3, 7, 16)):
        bent.append(joined([(k, cbor.encode(2**32) if k == key else value) for k, value in members]))
    for window in ([0], [0, 0], [1440, 1], [0, 1441], [0, 1, 2], [0, None], [2**32, 1]):
        bent.append(joined([(k, cbor.encode(window) if k == WINDOW else value) for k, value in members]))
    assert [data.hex() for data in bent if judge(with_entry(data)) != MALFORMED] == []


def test_entries_in_another_order_twice_or_too_many_are_malformed(judge: Any) -> None:
    entry = joined(full_entry())
    names = ["model/0", "model/1", "firmware"]
    named = {name: joined([(0, cbor.encode(name)), *full_entry()[1:]]) for name in [*names, "", "m" * 17]}
    assert judge(joined([*assignment()[:5], (5, b"\x82" + entry * 2)])) == MALFORMED
    assert judge(joined([*assignment()[:5], (5, b"\x8b" + entry * 11)])) == MALFORMED
    assert judge(with_entry(named[""])) == judge(with_entry(named["m" * 17])) == MALFORMED
    assert judge(with_entry(named["model/1"])) == judge(with_entry(named["firmware"])) == "UNKNOWN_COMPONENT"


def test_unknown_members_of_any_kind_are_passed(judge: Any) -> None:
    for key in (17, 31, 32, 77, 2**31):
        for value in (0, -5, b"x" * 300, "text", [[[1]], {2: [3]}], None, False, cbor2.CBORTag(9, [1])):
            more = (key, cbor2.dumps(value))
            assert judge(joined([*assignment(), more])) == "OK", more
            assert judge(with_entry(joined([*full_entry(), more]))) == "OK", more


def test_a_bent_root_is_refused(lib: Any, trust: Any) -> None:
    first = MAKER.root_of(1, MAKER.ROOTS[:3])
    members = members_of(cbor2.loads(encode_message("root", asdict(first) | {"protocol": 1})))

    def taken(payload: bytes) -> bool:
        data = cose.sign(payload, MAKER.ROOTS[:2])
        return bool(lib.trust_root(trust, data, len(data), 0))

    assert taken(joined(members))
    bent = [
        *wrong_maps(members, wide=(6,)),
        *(joined([*members[:at], *members[at + 1 :]]) for at in range(len(members))),
    ]
    bent += [joined([*members, (key, b"\0")]) for key in (7, 31, 32, 77)]
    assert [data.hex() for data in bent if taken(data)] == []
