"""Reading the log of a project."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from tinyfleet_service.audit.chain import HASHED
from tinyfleet_service.database.models import AuditEntry


def read_entries(session: Session, project_id: int, after: int, limit: int) -> list[dict[str, Any]]:
    """Entries with a number above `after`, oldest first, as the chain hashes them."""
    query = select(AuditEntry).where(AuditEntry.project_id == project_id, col(AuditEntry.number) > after)
    return [entry_document(row) for row in session.exec(query.order_by(col(AuditEntry.number)).limit(limit))]


def newest_entries(session: Session, project_id: int, limit: int) -> list[dict[str, Any]]:
    """The last entries, newest first."""
    query = select(AuditEntry).where(AuditEntry.project_id == project_id)
    return [entry_document(row) for row in session.exec(query.order_by(col(AuditEntry.number).desc()).limit(limit))]


def entry_document(row: AuditEntry) -> dict[str, Any]:
    """The entry as `chain` reads it."""
    values = row.model_dump() | {"project": row.project_id}
    return {key: values[key] for key in (*HASHED, "entry_sha256")}
