"""Signed commands against the C agent: carried out once, in order, and nothing else is."""

from dataclasses import replace

import cbor2
import pytest

from agent.agent.rig import DIRECTOR_KEY, OTHER_KEY, ROOT_KEYS, Device, installed, release, root_one
from tinyfleet_ota import Command, make_command, make_root, parse_command, topics
from tinyfleet_ota.cbor import encode
from tinyfleet_ota.cose import sign1
from tinyfleet_ota.protocol import Action, EventKind, Reason

V1 = release(0, 1)
TOPIC = topics.command("m4-7")
NOW_S = 1_800_000_000


def command(device: Device, number: int, action: Action = Action.DIAGNOSTICS, **other: object) -> Command:
    asked = Command("m4-7", 1, number, device.state()["nonce"], NOW_S + 60, action)
    return replace(asked, **other)


def give(device: Device, message: bytes) -> tuple[Reason, int, int]:
    """The answer to a message on the command topic: reason, number, detail."""
    before = len(device.events(EventKind.COMMAND))
    device.broker.publish(TOPIC, message)
    del device.broker.retained[TOPIC]  # commands are not retained
    device.run(3000)
    (event,) = device.events(EventKind.COMMAND)[before:]
    return event["reason"], event["sequence"], event["detail"]


def resets(device: Device) -> int:
    return int(device.lib.rig_resets(device.rig))


def test_commands_are_carried_out_once_and_in_order() -> None:
    device, _ = installed(V1)
    device.run(2000)
    reports = len(device.broker.of("/telemetry"))
    first = make_command(command(device, 1), DIRECTOR_KEY)
    assert parse_command(first, [DIRECTOR_KEY.public_key]) == command(device, 1)
    reason, number, uptime_s = give(device, first)
    assert (reason, number, uptime_s > 0) == (Reason.NONE, 1, True)
    assert len(device.broker.of("/telemetry")) > reports
    reboot = make_command(command(device, 5, Action.REBOOT), DIRECTOR_KEY)
    assert give(device, reboot)[:2] == (Reason.NONE, 5)
    assert resets(device) == 1
    assert device.boot() == 0  # the replayed command meets a device that has started again
    device.run(2000)
    for replayed in (reboot, first):
        assert give(device, replayed)[::2] == (Reason.ASSIGNMENT_OLD_SEQUENCE, 5)
    assert resets(device) == 0  # of this boot
    assert device.state()["last_reason"] == Reason.NONE


def test_a_reboot_waits_for_its_answer_to_arrive() -> None:
    device, _ = installed(V1)
    message = make_command(command(device, 1, Action.REBOOT), DIRECTOR_KEY)
    device.broker.publish(TOPIC, message)
    del device.broker.retained[TOPIC]
    device.broker.silent = True  # from now on nothing is acknowledged
    device.run(5000)
    assert resets(device) == 0
    device.broker.silent = False
    assert device.run_until(lambda d: resets(d) == 1, ms=200_000)
    assert [event["reason"] for event in device.events(EventKind.COMMAND)] == [Reason.NONE]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"device": "m4-8"}, Reason.ASSIGNMENT_OTHER_DEVICE),
        ({"director_epoch": 2}, Reason.ASSIGNMENT_OLD_SEQUENCE),
        ({"director_epoch": 0}, Reason.ASSIGNMENT_OLD_SEQUENCE),
        ({"nonce": bytes(8)}, Reason.ASSIGNMENT_STALE_NONCE),
        ({"expires": NOW_S}, Reason.COMMAND_EXPIRED),
    ],
    ids=["other device's", "later epoch", "earlier epoch", "stale", "expired"],
)
def test_a_command_that_is_not_for_here_and_now_is_refused(changed: dict[str, object], reason: Reason) -> None:
    device, _ = installed(V1)
    device.lib.rig_clock(device.rig, 1, NOW_S)
    asked = replace(command(device, 1, Action.REBOOT), **changed)
    assert give(device, make_command(asked, DIRECTOR_KEY)) == (reason, 1, 0)
    assert resets(device) == 0
    assert give(device, make_command(command(device, 1), DIRECTOR_KEY))[0] == Reason.NONE  # the number is still free


def unsigned(message: bytes) -> bytes:
    item = cbor2.loads(message)
    return cbor2.dumps(cbor2.CBORTag(item.tag, [*item.value[:3], bytes(64)]), canonical=True)


def signed(members: dict[int, object]) -> bytes:
    return sign1(encode(members), DIRECTOR_KEY)


def test_what_the_director_did_not_sign_or_nobody_can_read_is_refused() -> None:
    device, service = installed(V1)
    good = command(device, 1, Action.REBOOT)
    members = {0: 1, 1: good.device, 2: 1, 3: 1, 4: good.nonce, 5: good.expires, 6: 1}
    bad = {
        unsigned(make_command(good, DIRECTOR_KEY)): Reason.ASSIGNMENT_SIGNATURE,
        make_command(good, OTHER_KEY): Reason.ASSIGNMENT_SIGNATURE,
        make_command(good, DIRECTOR_KEY)[:-1]: Reason.ASSIGNMENT_MALFORMED,
        b"x": Reason.ASSIGNMENT_MALFORMED,
        device.broker.retained[topics.desired("m4-7")]: Reason.ASSIGNMENT_MALFORMED,  # an assignment is no command
        signed({key: value for key, value in members.items() if key != 6}): Reason.ASSIGNMENT_MALFORMED,
        signed(members | {0: 2}): Reason.ASSIGNMENT_MALFORMED,
        signed(members | {3: 1 << 24}): Reason.ASSIGNMENT_MALFORMED,
        signed(members | {6: 7}): Reason.COMMAND_UNSUPPORTED,
    }
    for message, reason in bad.items():
        assert give(device, message)[0] == reason, message.hex()
    assert resets(device) == 0
    device.broker.publish(topics.desired("m4-7"), make_command(command(device, 9), DIRECTOR_KEY))
    device.run(2000)
    assert device.state()["last_reason"] == Reason.ASSIGNMENT_MALFORMED  # and a command is no assignment
    assert signed(members) == make_command(good, DIRECTOR_KEY)
    assert service.sequence == device.info.sequence


def test_numbers_begin_anew_under_a_new_director() -> None:
    """A stolen director key can use numbers up, until a root names another director."""
    device, _ = installed(V1)
    assert give(device, make_command(command(device, (1 << 24) - 1), DIRECTOR_KEY))[0] == Reason.NONE
    root = replace(root_one(), number=2, director_epoch=2, director_keys=(OTHER_KEY.public_key,))
    device.broker.publish(topics.root(2), make_root(root, ROOT_KEYS[:1], root_one()))
    device.run(2000)
    assert give(device, make_command(command(device, 1, director_epoch=2), OTHER_KEY))[:2] == (Reason.NONE, 1)
    assert give(device, make_command(command(device, 2), DIRECTOR_KEY))[0] == Reason.ASSIGNMENT_SIGNATURE
