"""httpx with a minute for every answer: its own five seconds are few on a machine that runs many tests at once."""

from __future__ import annotations

from functools import partial

import httpx

TIMEOUT_S = 60.0

get = partial(httpx.get, timeout=TIMEOUT_S)
post = partial(httpx.post, timeout=TIMEOUT_S)
put = partial(httpx.put, timeout=TIMEOUT_S)
request = partial(httpx.request, timeout=TIMEOUT_S)
Client = partial(httpx.Client, timeout=TIMEOUT_S)
