"""The HTTP API: `/api/v1`, a bearer token on every route, one shape of errors."""

from tinyfleet_service.http.app import create_app

__all__ = ["create_app"]
