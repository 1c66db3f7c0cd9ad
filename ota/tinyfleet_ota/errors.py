"""What this package raises.

OtaError                 root
├── ProtocolError        a payload that is not what `protocol.cddl` says
├── SignatureError       a signed message whose signatures do not hold
├── KeyFileError         a key that cannot be loaded or is not usable
├── ReleaseError         a release manifest outside our profile, or a release that cannot be made
├── RootError            a root that does not follow its predecessor
├── DeltaError           a patch that is malformed or belongs to another base
└── EncryptionError      a blob or content key that cannot be sealed or opened

Errors carry their data as attributes; the message says what to do next.
"""

from __future__ import annotations

from typing import Any


class OtaError(Exception):
    """Root of this package's errors; keyword arguments become `.data`."""

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


class ProtocolError(OtaError):
    """A payload that is not what `protocol.cddl` says."""


class SignatureError(OtaError):
    """A signed message whose signatures do not hold."""


class KeyFileError(OtaError):
    """A key that cannot be loaded or is not usable."""


class ReleaseError(OtaError):
    """A release manifest outside our profile, or a release that cannot be made."""


class RootError(OtaError):
    """A root that does not follow its predecessor."""


class DeltaError(OtaError):
    """A patch that is malformed or belongs to another base."""


class EncryptionError(OtaError):
    """A blob or content key that cannot be sealed or opened."""
