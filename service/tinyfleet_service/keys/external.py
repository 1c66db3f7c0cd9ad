"""A key held by a program of the operator's own: the way to any key management service.

The program is called with one argument more than configured, and gets nothing else:

    public-key   prints the public key in hexadecimal: 32 bytes of Ed25519, or 33 of P-256, compressed
    sign         reads the message from standard input, prints the signature in hexadecimal, 64 bytes

Exit status 0 means success; otherwise the last line it wrote to standard error is the reason. It has a minute. The
message is no secret. Each signature is verified before it is used, so a program that answers nonsense breaks nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tinyfleet_ota import KeyFileError, SignatureError, algorithm_of, key_id
from tinyfleet_ota.keys import verify

TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 4096


@dataclass(frozen=True)
class ExternalKey:
    """Program and arguments."""

    command: tuple[str, ...]


class ExternalSigner:
    """Signs by calling the program; see the head of this file."""

    def __init__(self, key: ExternalKey, public_key: bytes | None = None) -> None:
        """Ask for the public key unless it is known. Raises KeyFileError."""
        self._command = key.command
        self.public_key: bytes = public_key or _call(self._command, "public-key")
        try:
            algorithm_of(self.public_key)
        except SignatureError as error:
            raise KeyFileError(f"{key.command[0]} names no usable public key: {error}") from error
        self.kid: bytes = key_id(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Signature over `message`, 64 bytes. Raises KeyFileError."""
        signature = _call(self._command, "sign", message)
        try:
            verify(self.public_key, message, signature)
        except SignatureError as error:
            raise KeyFileError(f"{self._command[0]} gave a signature that does not hold: {error}") from error
        return signature


def _call(command: Sequence[str], verb: str, message: bytes = b"") -> bytes:
    try:
        done = subprocess.run([*command, verb], input=message, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise KeyFileError(f"{command[0]} {verb}: no answer within {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise KeyFileError(f"cannot start {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise KeyFileError(f"{command[0]} {verb}: exit status {done.returncode}: {_last_line(done.stderr)}")
    try:
        return bytes.fromhex(done.stdout[:ANSWER_BYTES_MAX].decode("ascii").strip())
    except ValueError as error:
        raise KeyFileError(f"{command[0]} {verb}: the answer is not hexadecimal") from error


def _last_line(text: bytes) -> str:
    lines = text[-ANSWER_BYTES_MAX:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
