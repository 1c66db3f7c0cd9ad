"""Commands to one device, signed by the director key: reboot, diagnostics. SPEC section 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyfleet_ota import cose, protocol
from tinyfleet_ota.errors import ProtocolError
from tinyfleet_ota.protocol import Action
from tinyfleet_ota.protocol_codec import decode_message, encode_message
from tinyfleet_ota.signers import Signer
from tinyfleet_ota.topics import DEVICE_ID

COMMAND_BYTES_MAX = 512
NUMBERS = range(1, 1 << 24)
"""A device keeps the newest number in three bytes; numbers begin anew under a new director epoch."""


@dataclass(frozen=True)
class Command:
    """What one device is to do once; fields as `command` in the CDDL. `expires` is in Unix seconds."""

    device: str
    director_epoch: int
    number: int
    nonce: bytes
    expires: int
    action: Action


def make_command(command: Command, signer: Signer) -> bytes:
    """COSE_Sign1 of `command` by the director key. Raises ProtocolError for what no device would accept."""
    _check(command)
    message = vars(command) | {"protocol": protocol.PROTOCOL_VERSION}
    return cose.sign1(encode_message("command", message), signer)


def parse_command(data: bytes, director_keys: Sequence[bytes]) -> Command:
    """The command, after its signature was verified. Raises ProtocolError, SignatureError."""
    payload = cose.open_sign1(data, director_keys, size_max=COMMAND_BYTES_MAX)
    message = decode_message("command", payload, size_max=COMMAND_BYTES_MAX)
    if message.pop("protocol") != protocol.PROTOCOL_VERSION:
        raise ProtocolError("the command has another protocol version: update the older of the two")
    command = Command(**message)
    _check(command)
    return command


def _check(command: Command) -> None:
    if not DEVICE_ID.fullmatch(command.device):
        raise ProtocolError("command: device must be 1 to 64 of a-z, 0-9 and -", field="device", got=command.device)
    if command.number not in NUMBERS:
        raise ProtocolError(
            f"command: number must be 1 to {NUMBERS[-1]}; a root with a higher director epoch begins anew",
            field="number",
            got=command.number,
        )
