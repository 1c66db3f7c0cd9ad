"""Names that move (`model@champion`), and whether a version may go out."""

from __future__ import annotations

import re

from sqlmodel import Session, select

from tinyfleet_service.database.models import Approval, Model, ModelAlias, ModelVersion
from tinyfleet_service.errors import InvalidInputError, NotFoundError

MARK = "@"
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")


def set_alias(session: Session, model: Model, alias: str, version: ModelVersion) -> ModelAlias:
    """Let the alias name this version, whatever it named before. Raises InvalidInputError for a bad name."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidInputError(f"bad alias {alias!r}", next="use 1 to 32 of a-z, 0-9, '_' and '-'")
    assert model.id is not None
    assert version.id is not None
    row = _find(session, model.id, alias) or ModelAlias(model_id=model.id, name=alias, version_id=version.id)
    row.version_id = version.id
    session.add(row)
    return row


def drop_alias(session: Session, model: Model, alias: str) -> None:
    """Forget the alias. Raises NotFoundError."""
    assert model.id is not None
    row = _find(session, model.id, alias)
    if row is None:
        raise _unknown(session, model, alias)
    session.delete(row)


def aliases_of(session: Session, model_id: int) -> dict[str, int]:
    """Version id by alias."""
    rows = session.exec(select(ModelAlias).where(ModelAlias.model_id == model_id).order_by(ModelAlias.name))
    return {row.name: row.version_id for row in rows}


def resolve_alias(session: Session, model: Model, reference: str) -> ModelVersion:
    """The version that `@alias` names. Raises NotFoundError."""
    assert model.id is not None
    row = _find(session, model.id, reference.removeprefix(MARK))
    if row is None:
        raise _unknown(session, model, reference.removeprefix(MARK))
    return session.get_one(ModelVersion, row.version_id)


def set_approval(session: Session, version: ModelVersion, approval: Approval, by: str) -> None:
    """Note who approved or rejected the version."""
    version.approval, version.approved_by = approval.value, by
    session.add(version)


def _find(session: Session, model_id: int, alias: str) -> ModelAlias | None:
    query = select(ModelAlias).where(ModelAlias.model_id == model_id, ModelAlias.name == alias)
    return session.exec(query).first()


def _unknown(session: Session, model: Model, alias: str) -> NotFoundError:
    known = ", ".join(aliases_of(session, model.id or 0)) or "none"
    name = f"{model.name}{MARK}{alias}"
    return NotFoundError(f"no alias {name}", next=f"known aliases: {known}", what="alias", name=name)
