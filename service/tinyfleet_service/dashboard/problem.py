"""What a browser is shown in place of the API's JSON when something went wrong."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates

from tinyfleet_service.error_table import row_of
from tinyfleet_service.errors import FleetError, InvalidInputError, problem_texts

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def page_route(templates: Jinja2Templates) -> type[APIRoute]:
    """A class of routes whose errors are pages, with the status that the API would give."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Handler:
            answer = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await answer(request)
                except RequestValidationError as error:
                    return _show(templates, request, _of_request(error))
                except FleetError as error:
                    return _show(templates, request, error)

            return handle

    return PageRoute


def _of_request(error: RequestValidationError) -> InvalidInputError:
    problems = "; ".join(problem_texts([{**e, "loc": e["loc"][-1:]} for e in error.errors()]))
    return InvalidInputError(f"the request makes no sense: {problems}", next="go back and mend it")


def _show(templates: Jinja2Templates, request: Request, error: FleetError) -> Response:
    status = row_of(type(error)).status
    if status >= 500:
        raise error  # the API's handlers log it and answer
    return templates.TemplateResponse(request, "problem.html", {"error": error}, status_code=status)
