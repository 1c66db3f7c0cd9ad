"""The error tree and its table."""

from __future__ import annotations

import inspect

import pytest

from tinyfleet_service import errors
from tinyfleet_service.error_table import ERROR_TABLE, from_document, row_of, to_document
from tinyfleet_service.errors import FleetError, NotFoundError, QuotaError, VersionConflictError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, FleetError)]


def test_every_class_stands_in_the_drawing_and_has_a_row() -> None:
    assert errors.__doc__ is not None
    for error in CLASSES:
        assert error.__name__ in errors.__doc__
    assert {row.error for row in ERROR_TABLE} == set(CLASSES)


def test_codes_are_unique() -> None:
    codes = [row.code for row in ERROR_TABLE]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", CLASSES)
def test_errors_survive_the_wire(error: type[FleetError]) -> None:
    sent = error("what happened", next="what to do", name="v3", problems=["a", "b"])
    received = from_document(to_document(sent), row_of(error).status)
    assert type(received) is error
    assert (received.message, received.next, received.data) == (sent.message, sent.next, sent.data)


def test_a_class_without_a_row_uses_its_parents() -> None:
    class Special(QuotaError):
        pass

    assert row_of(Special).code == "quota"


@pytest.mark.parametrize("body", [None, [], "text", {}, {"error": "text"}, {"error": {"code": ["x"]}}])
def test_foreign_answers_become_plain_errors(body: object) -> None:
    assert type(from_document(body, 502)) is FleetError


def test_facts_cannot_overwrite_the_shape() -> None:
    document = to_document(NotFoundError("m", next="n", code="evil"))
    assert document["error"]["code"] == "not-found"


def test_text_says_what_to_do_next() -> None:
    assert str(VersionConflictError("it exists", next="push another")) == "it exists; push another"
