"""The one table from errors to HTTP status and code; the client reads it the other way round.

A new error class needs a row only when its parent's row does not fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyfleet_service import errors


class ErrorRow(NamedTuple):
    """How one error class travels."""

    error: type[errors.FleetError]
    status: int
    code: str


ERROR_TABLE = (
    ErrorRow(errors.FleetError, 500, "internal"),
    ErrorRow(errors.InvalidInputError, 422, "invalid-input"),
    ErrorRow(errors.ModelInvalidError, 422, "model-invalid"),
    ErrorRow(errors.SelectorError, 422, "selector"),
    ErrorRow(errors.PlanError, 422, "plan"),
    ErrorRow(errors.TooLargeError, 413, "too-large"),
    ErrorRow(errors.CertificateRequestError, 422, "certificate-request"),
    ErrorRow(errors.NotFoundError, 404, "not-found"),
    ErrorRow(errors.ConflictError, 409, "conflict"),
    ErrorRow(errors.VersionConflictError, 409, "version-conflict"),
    ErrorRow(errors.RolloutConflictError, 409, "rollout-conflict"),
    ErrorRow(errors.StateConflictError, 409, "state-conflict"),
    ErrorRow(errors.UnauthenticatedError, 401, "unauthenticated"),
    ErrorRow(errors.ForbiddenError, 403, "forbidden"),
    ErrorRow(errors.QuotaError, 403, "quota"),
    ErrorRow(errors.UnavailableError, 503, "unavailable"),
    ErrorRow(errors.DatabaseUnavailableError, 503, "database-unavailable"),
    ErrorRow(errors.BrokerUnavailableError, 503, "broker-unavailable"),
    ErrorRow(errors.StorageError, 507, "storage"),
    ErrorRow(errors.RateLimitError, 429, "rate-limited"),
    ErrorRow(errors.LeaseLostError, 503, "lease-lost"),
    ErrorRow(errors.CorruptError, 500, "corrupt"),
    ErrorRow(errors.SettingsError, 500, "settings"),
    ErrorRow(errors.StartError, 500, "start"),
)
_BY_CLASS = {row.error: row for row in ERROR_TABLE}
_BY_CODE = {row.code: row for row in ERROR_TABLE}


def row_of(error: type[errors.FleetError]) -> ErrorRow:
    """The row of the class or of its nearest ancestor."""
    return next(_BY_CLASS[base] for base in error.__mro__ if base in _BY_CLASS)


def to_document(error: errors.FleetError) -> dict[str, Any]:
    """The JSON body of an error answer: `{"error": {"code", "message", "next", ...data}}`."""
    facts = {key: value for key, value in error.data.items() if key not in ("code", "message", "next")}
    return {"error": {**facts, "code": row_of(type(error)).code, "message": error.message, "next": error.next}}


def from_document(document: Any, status: int) -> errors.FleetError:
    """The error that an answer describes; an unknown code or a foreign body becomes a plain FleetError."""
    found = document.get("error") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        return errors.FleetError(f"the service answered with status {status}", next="is this a tinyfleet service?")
    facts = {str(key): value for key, value in found.items() if key not in ("code", "message", "next")}
    row = _BY_CODE.get(str(found.get("code")), ERROR_TABLE[0])
    return row.error(str(found.get("message", "")), next=str(found.get("next", "")), **facts)
