"""Protection of the dashboard's forms against requests that another site makes a browser send.

The session cookie is `SameSite=Strict`; that alone leaves other services on the same host name. So each form carries
an HMAC of its cookie, which no other origin can read, and a request whose `Origin` names another host is refused.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from fastapi import Request

from tinyfleet_service.errors import ForbiddenError

FIELD = "csrf"


class Csrf:
    """Makes and checks the hidden field; `key` is secret and outlives the process."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.sha256(b"csrf" + key).digest()

    def token(self, cookie: str) -> str:
        """The hidden field of a form that is sent with this cookie."""
        return hmac.new(self._key, cookie.encode(), hashlib.sha256).hexdigest()

    def check(self, request: Request, cookie: str | None, sent: str) -> None:
        """Raises ForbiddenError unless the form came from our own page, which was shown with this cookie."""
        same_form = cookie is not None and hmac.compare_digest(self.token(cookie).encode(), sent.encode())
        if not (same_form and _same_origin(request)):
            raise ForbiddenError("this form did not come from this dashboard", next="load the page again, then repeat")


def _same_origin(request: Request) -> bool:
    """A browser sends `Origin` with every POST; programs that send none have no cookies to be misused."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
