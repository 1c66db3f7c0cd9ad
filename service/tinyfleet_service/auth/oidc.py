"""Login at an OpenID Connect provider: authorization code with PKCE (RFC 7636), state and nonce.

Signatures and claims of the ID token are checked with joserfc, which Authlib's own JOSE module has moved to. A role
comes from the groups of the token; who is in none of the named groups gets in nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tinyfleet_service.auth.roles import Role
from tinyfleet_service.errors import ForbiddenError, SettingsError, UnauthenticatedError, UnavailableError
from tinyfleet_service.settings import Settings

ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]  # none that is symmetric, or no signature at all
LEEWAY_S = 60
TIMEOUT_S = 10.0
KEEP_S = 3600.0


@dataclass(frozen=True)
class Pending:
    """A login under way: what must come back, and what proves that it is ours."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True)
class Person:
    """Who logged in."""

    name: str
    role: Role


class OidcProvider:
    """One provider, by its issuer's URL; its document and keys are read when needed and kept for an hour."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._roles = parse_roles(settings.oidc_roles)
        self._document: dict[str, Any] = {}
        self._read_at = float("-inf")

    def begin(self, redirect_uri: str) -> tuple[str, Pending]:
        """Where to send the browser, and what to remember until it is back. Raises UnavailableError."""
        pending = Pending(*(secrets.token_urlsafe(32) for _ in range(3)))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": redirect_uri,
            "scope": self._settings.oidc_scope,
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return str(httpx.URL(self._discovered("authorization_endpoint")).copy_merge_params(asked)), pending

    def finish(self, pending: Pending, answer: Mapping[str, str], redirect_uri: str) -> Person:
        """Who came back with the provider's `state` and `code`, or its `error` (RFC 6749, 4.1.2).

        Raises UnauthenticatedError, ForbiddenError (no role), UnavailableError.
        """
        if not secrets.compare_digest(answer.get("state", "").encode(), pending.state.encode()):
            raise UnauthenticatedError("this login was not begun here", next="log in again")
        if answer.get("error"):  # read after the state: else anybody's link could put words on our page
            raise _refused(answer)
        given = self._redeem(pending, answer.get("code", ""), redirect_uri)
        claims = self._checked(str(given.get("id_token", "")), pending.nonce)
        return Person(_name_of(claims), self._role_of(claims))

    def _redeem(self, pending: Pending, code: str, redirect_uri: str) -> dict[str, Any]:
        """What the token endpoint gives for a code: by our secret (RFC 6749, 2.3.1), without one as a public client."""
        name, secret = self._settings.oidc_client_id, self._settings.oidc_client_secret
        asked = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": pending.verifier,
        }
        proof: dict[str, Any] = {"auth": (quote_plus(name), quote_plus(secret))} if secret else {}
        data = asked if secret else {**asked, "client_id": name}
        return _fetch("POST", self._discovered("token_endpoint"), data=data, **proof)

    def _discovered(self, key: str) -> str:
        if time.monotonic() - self._read_at > KEEP_S:
            issuer = self._settings.oidc_issuer.rstrip("/")
            document = _fetch("GET", f"{issuer}/.well-known/openid-configuration")
            if str(document.get("issuer", "")).rstrip("/") != issuer:
                raise UnavailableError("the provider calls itself otherwise", next="check TINYFLEET_OIDC_ISSUER")
            self._document, self._read_at = document, time.monotonic()
        value = self._document.get(key)
        if not isinstance(value, str):
            raise UnavailableError(f"the provider's document has no {key}", next="check TINYFLEET_OIDC_ISSUER")
        return value

    def _checked(self, id_token: str, nonce: str) -> dict[str, Any]:
        """Claims of a token that the provider signed for us, now, in answer to this login."""
        keys = _read_keys(_fetch("GET", self._discovered("jwks_uri")))
        registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._discovered("issuer")},
            aud={"essential": True, "value": self._settings.oidc_client_id},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            token = jwt.decode(id_token, keys, algorithms=ALGORITHMS)
            registry.validate(token.claims)
        except (JoseError, ValueError) as error:
            raise UnauthenticatedError(f"the provider's token does not hold: {error}", next="log in again") from error
        return dict(token.claims)

    def _role_of(self, claims: Mapping[str, Any]) -> Role:
        groups = claims.get(self._settings.oidc_claim)
        named = {groups} if isinstance(groups, str) else set(map(str, groups)) if isinstance(groups, list) else set()
        roles = [role for group, role in self._roles.items() if group in named]
        if not roles:
            raise ForbiddenError(
                f"none of your groups has a role here (claim {self._settings.oidc_claim!r})",
                next="ask an administrator to map one in TINYFLEET_OIDC_ROLES",
            )
        return max(roles, key=list(Role).index)


def parse_roles(text: str) -> dict[str, Role]:
    """`fleet-admins=admin, ml=operator` as group -> role. Raises SettingsError."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    known = {role.value for role in Role}
    for group, _, role in pairs:
        if not group.strip() or role.strip() not in known:
            raise SettingsError(
                f"TINYFLEET_OIDC_ROLES has {group}={role}",
                next=f"write GROUP=ROLE, comma-separated, with {', '.join(sorted(known))}",
            )
    return {group.strip(): Role(role.strip()) for group, _, role in pairs}


def _refused(answer: Mapping[str, Any]) -> UnauthenticatedError:
    """What a provider's `error` and `error_description` (RFC 6749, 4.1.2.1 and 5.2) come to."""
    said = ": ".join(str(answer[key])[:200] for key in ("error", "error_description") if answer.get(key))
    ours = answer.get("error") in ("invalid_client", "unauthorized_client", "invalid_scope")
    return UnauthenticatedError(
        "the provider refused this login" + (f" ({said})" if said else ""),
        next="check TINYFLEET_OIDC_CLIENT_ID, _CLIENT_SECRET and _SCOPE" if ours else "log in again",
    )


def _read_keys(document: Any) -> KeySet:
    try:
        return KeySet.import_key_set(document)
    except (JoseError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnavailableError(f"the provider's keys cannot be read: {error}", next="try again later") from error


def _name_of(claims: Mapping[str, Any]) -> str:
    for key in ("email", "preferred_username", "sub"):
        if isinstance(claims.get(key), str) and claims[key]:
            return str(claims[key])[:64]
    raise UnauthenticatedError("the provider's token names nobody", next="log in again")


def _fetch(method: str, url: str, **options: Any) -> dict[str, Any]:
    """A JSON object from the provider. Raises UnavailableError, UnauthenticatedError for a refused code."""
    try:
        answer = httpx.request(method, url, timeout=TIMEOUT_S, **options)
        if method == "POST" and answer.status_code in (400, 401, 403):
            raise _refused(_object_of(answer))
        answer.raise_for_status()
        document = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise UnavailableError(
            f"the identity provider does not answer: {error}", next="try again, or log in with an API token"
        ) from error
    if not isinstance(document, dict):
        raise UnavailableError("the identity provider answers nonsense", next="check TINYFLEET_OIDC_ISSUER")
    return document


def _object_of(answer: httpx.Response) -> dict[str, Any]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
