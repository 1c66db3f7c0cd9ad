"""The sentinel: a retained mark that tells what the broker holds, CBOR `[number, digest]`.

`number` is the newest acknowledged retained message of the outbox, `digest` eight bytes of SHA-256 over its topic and
payload. A broker that lost its retained messages has none, one that came back with an older snapshot has an older one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2

DIGEST_BYTES = 8


@dataclass(frozen=True)
class Sentinel:
    """What the broker is known to hold."""

    number: int
    digest: bytes

    def encode(self) -> bytes:
        """Payload of the sentinel topic."""
        return cbor2.dumps([self.number, self.digest], canonical=True)

    @classmethod
    def decode(cls, payload: bytes) -> Sentinel | None:
        """The mark, or None for anything else: an unreadable mark is treated as a missing one."""
        try:
            value = cbor2.loads(payload)
        except (cbor2.CBORError, ValueError, EOFError):
            return None
        match value:
            case [int(number), bytes(digest)] if len(digest) == DIGEST_BYTES:
                return cls(number, digest)
        return None
