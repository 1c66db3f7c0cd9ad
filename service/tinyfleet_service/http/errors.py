"""Every error as `{"error": {"code", "message", "next", ...}}`, by the one table in `error_table`."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from tinyfleet_service.error_table import row_of, to_document
from tinyfleet_service.errors import FleetError, problem_texts

RETRY_S = 2
_log = logging.getLogger(__name__)


def answer_error(error: FleetError) -> JSONResponse:
    """The answer to an error of ours."""
    status = row_of(type(error)).status
    return JSONResponse(to_document(error), status_code=status, headers=_headers(error, status))


def _headers(error: FleetError, status: int) -> dict[str, str] | None:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status in (429, 503):
        return {"Retry-After": str(error.data.get("retry_after_s", RETRY_S))}
    return None


def add_error_handlers(app: FastAPI) -> None:
    """Our errors, FastAPI's and bugs all answer in the same shape."""

    @app.exception_handler(FleetError)
    async def fleet_error(_: Request, error: FleetError) -> JSONResponse:
        if row_of(type(error)).status >= 500:
            _log.error("%s", error)
        return answer_error(error)

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = problem_texts(error.errors())
        return _answer(422, "invalid-input", "the request makes no sense: " + "; ".join(problems), problems=problems)

    @app.exception_handler(DataError)
    @app.exception_handler(OverflowError)
    async def not_storable(request: Request, error: Exception) -> JSONResponse:
        """A number or text that the database's columns do not hold, such as a zero byte in PostgreSQL."""
        _log.warning("not storable in %s %s: %s", request.method, request.url.path, error)
        return _answer(422, "invalid-input", "the request holds a number or text that cannot be stored")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, FleetError):  # raised while the body was read, wrapped by the framework
            return answer_error(error.__cause__)
        if error.status_code == 400:  # the framework's word for a body that cannot be read
            return _answer(422, "invalid-input", f"the request's body cannot be read: {error.detail}")
        codes = {404: "not-found", 405: "method-not-allowed"}
        answer = _answer(error.status_code, codes.get(error.status_code, "http"), str(error.detail))
        answer.headers.update(error.headers or {})  # of a 405, what is allowed
        return answer

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        _log.error("bug in %s %s", request.method, request.url.path, exc_info=error)
        return _answer(500, "internal", "internal error; it is in api.log")


def _answer(status: int, code: str, message: str, **facts: object) -> JSONResponse:
    document = {"error": {**facts, "code": code, "message": message, "next": "see /api/v1/openapi.json"}}
    return JSONResponse(document, status_code=status)
