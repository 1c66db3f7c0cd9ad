"""Where a webhook may be sent: not into the operator's own network, unless a setting says so.

The name is resolved once and the request goes to that very address, with the name in `Host` and in TLS, so that a name
server cannot answer differently the second time.
"""

from __future__ import annotations

import ipaddress
import socket

import httpx

from tinyfleet_service.errors import ForbiddenError, InvalidInputError, UnavailableError

MAX_URL = 1024
ASSIGNED = ipaddress.IPv6Network("2000::/3")
"""All that IANA gives out as public so far; the rest is local, or holds an IPv4 address in a way of former days."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_url(url: str, private_allowed: bool) -> httpx.URL:
    """The URL, if its form is fit for a webhook. Raises InvalidInputError; the network is not asked."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # decoded only now
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidInputError(f"not a URL: {error}", next="give one like https://host/path") from error
    schemes = ("http", "https") if private_allowed else ("https",)
    fits = len(url) <= MAX_URL and 0 < (parsed.port or 443) < 1 << 16
    if not fits or parsed.scheme not in schemes or not host or parsed.userinfo:
        raise InvalidInputError(
            "a webhook needs an https URL with a host, a port below 65536 if any, and without a password in it",
            next="plain http is for `webhook_private_addresses = true` only",
        )
    return parsed


def resolve(url: httpx.URL, private_allowed: bool) -> str:
    """The address to connect to. Raises ForbiddenError for one that is not public, UnavailableError without any."""
    try:
        found = socket.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"{url.host} has no address: {error}", next="check the name") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not private_allowed and not all(map(is_public, addresses)):
        raise ForbiddenError(
            f"{url.host} is an address of a private network",
            next="set TINYFLEET_WEBHOOK_PRIVATE_ADDRESSES=true if that is meant",
        )
    return addresses[0]


def is_public(text: str) -> bool:
    """True for an address that the whole internet can reach; an IPv4 address inside an IPv6 one counts as itself."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in NAT64:  # RFC 6052
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if inner is not None:
            return is_public(str(inner))
        if address not in ASSIGNED:
            return False
    return address.is_global and not address.is_multicast
