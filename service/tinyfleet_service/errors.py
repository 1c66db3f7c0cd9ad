"""What can go wrong in the service. Errors carry data and what to do next, no HTTP status: see `error_table.py`.

FleetError
+-- InvalidInputError            what was sent makes no sense
|   +-- ModelInvalidError        the compiler cannot read or support the model
|   +-- SelectorError            a device selector does not parse
|   +-- PlanError                a rollout cannot be planned as asked
|   +-- TooLargeError            more bytes than the limit
|   +-- CertificateRequestError  a CSR that does not hold
+-- NotFoundError                no such model, version, build, device, rollout, blob ...
+-- ConflictError                what was sent contradicts what is there
|   +-- VersionConflictError     the same version with other bytes
|   +-- RolloutConflictError     the same component and an intersecting set of devices
|   +-- StateConflictError       the thing exists but is in a state that forbids this
+-- UnauthenticatedError         no token, an unknown or an expired one
+-- ForbiddenError               the role or the certificate does not allow it
|   +-- QuotaError               a claim certificate or limit is used up
+-- UnavailableError             a part we need does not answer; the same request may work later
|   +-- DatabaseUnavailableError
|   +-- BrokerUnavailableError
|   +-- StorageError             disk full or not writable
|   +-- RateLimitError           more requests than allowed; later ones will pass
|   +-- LeaseLostError           another process took over; this one must drop its work
+-- CorruptError                 stored bytes no longer match their digest
+-- SettingsError                a setting or the data directory is unusable
+-- StartError                   a process of `serve` cannot start (port in use, program missing, already running)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class FleetError(Exception):
    """Root of the tree. `message` says what happened, `next` what to do about it, `data` holds the facts."""

    def __init__(self, message: str, *, next: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.data: dict[str, Any] = data

    def __str__(self) -> str:
        return f"{self.message}; {self.next}" if self.next else self.message


class InvalidInputError(FleetError):
    """What was sent makes no sense."""


class ModelInvalidError(InvalidInputError):
    """The compiler cannot read or support the model; `data["problems"]` lists everything at once."""


class SelectorError(InvalidInputError):
    """A device selector does not parse; `data["position"]` is where."""


class PlanError(InvalidInputError):
    """A rollout cannot be planned as asked."""


class TooLargeError(InvalidInputError):
    """More bytes than the limit; `data["limit_bytes"]`."""


class CertificateRequestError(InvalidInputError):
    """A certificate signing request that does not hold."""


class NotFoundError(FleetError):
    """No such thing; `data["what"]` and `data["name"]`."""


class ConflictError(FleetError):
    """What was sent contradicts what is there."""


class VersionConflictError(ConflictError):
    """The same version with other bytes: versions are immutable."""


class RolloutConflictError(ConflictError):
    """Another live rollout has the same component and some of the same devices."""


class StateConflictError(ConflictError):
    """The thing exists but is in a state that forbids this."""


class UnauthenticatedError(FleetError):
    """No token, an unknown one or an expired one."""


class ForbiddenError(FleetError):
    """The role or the certificate does not allow it."""


class QuotaError(ForbiddenError):
    """A quota is used up."""


class UnavailableError(FleetError):
    """A part we need does not answer; the same request may work later."""


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer or stays locked."""


class BrokerUnavailableError(UnavailableError):
    """The MQTT broker does not answer."""


class StorageError(UnavailableError):
    """The disk is full or not writable."""


class RateLimitError(UnavailableError):
    """More requests than allowed; `data["retry_after_s"]` says when the next will pass."""


class LeaseLostError(UnavailableError):
    """Another process holds the lease by now: drop the work, write nothing."""


class CorruptError(FleetError):
    """Stored bytes no longer match their digest."""


class SettingsError(FleetError):
    """A setting or the data directory is unusable."""


class StartError(FleetError):
    """A process of `serve` cannot start."""


def problem_texts(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """`where: what` of each finding of a pydantic validation, of those of our own checks without pydantic's words."""
    lines = ((".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")) for error in errors)
    return [": ".join(filter(None, line)) for line in lines]
