"""docs/api.md, rendered from the OpenAPI document and the rollout specification."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tinyfleet_service.database.engine import make_engine
from tinyfleet_service.error_table import ERROR_TABLE
from tinyfleet_service.http.app import create_app, openapi
from tinyfleet_service.rollouts import RolloutSpec
from tinyfleet_service.settings import Settings, load_settings
from tinyfleet_service.telemetry import TelemetryStore

HEAD = """\
# HTTP API

<!-- made from the OpenAPI document by scripts/make_reference.py -->

Every route but `/healthz` and `/readyz` needs `Authorization: Bearer TOKEN`; the role named with it is the least that
may call it.
The full OpenAPI document, with every answer's fields, is at `GET /api/v1/openapi.json`. Lists are `{"items": [...]}`.
`tinyfleet_service.client` has `Client`, a method per route, and `Fleet`, a small client for notebooks and CI.

```
curl -H "Authorization: Bearer $(cat my-fleet/admin.token)" http://127.0.0.1:8420/api/v1/overview
```
"""
ROLLOUT_HEAD = """\
## What a rollout is asked for

Body of `POST /api/v1/rollouts/plan` and `POST /api/v1/rollouts`. Shares are `"5%"` or a count of devices, times are
seconds, accuracies fractions. What is left out comes from the settings of the service, by default as below.
"""
FROM_THE_TOKEN = ("project_id", "created_by")


def api_document() -> dict[str, Any]:
    """The OpenAPI document of an application that serves nobody."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(Path(folder))
        engine, telemetry = make_engine(settings), TelemetryStore(settings)
        document = openapi(create_app(settings, engine, telemetry))
        engine.dispose()
    return document


def render_api() -> str:
    """docs/api.md."""
    document = api_document()
    parts = [HEAD]
    for tag, operations in _by_tag(document).items():
        parts.append(f"## {tag.capitalize()}\n")
        parts.append("| route | role | what it does |\n| --- | --- | --- |")
        parts.append("\n".join(_route_row(*operation) for operation in operations) + "\n")
        parts += [text for operation in operations if (text := _details(document, *operation))]
    parts.append(_rollout_fields())
    parts.append(_errors())
    return "\n".join(parts)


def _by_tag(document: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return found


def _route_row(method: str, path: str, operation: dict[str, Any]) -> str:
    roles = [role for need in operation.get("security", []) for scopes in need.values() for role in scopes]
    what = _line(operation["description"])
    return f"| `{method} {path}` | {', '.join(roles) or 'none'} | {what} |"


def _details(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """Body and query fields of one route; nothing when there are none."""
    rows = [
        _field_row(
            p["name"], p["schema"] | {"description": p.get("description", "")}, p.get("required", False), p["in"]
        )
        for p in operation.get("parameters", [])
        if p["in"] != "path"
    ]
    form = ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolve(document, content["schema"])
        form = "" if media == "application/json" else f" ({media})"
        required = schema.get("required", [])
        rows += [
            _field_row(name, field, name in required, "body") for name, field in schema.get("properties", {}).items()
        ]
    if not rows:
        return ""
    head = "| field | in | type | |\n| --- | --- | --- | --- |"
    return "\n".join([f"`{method} {path}` takes{form}\n", head, *rows, ""])


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _field_row(name: str, schema: dict[str, Any], required: bool, where: str) -> str:
    return f"| `{name}` | {where} | {_type(schema)} | {_note(schema, required)} |"


def _note(schema: dict[str, Any], required: bool) -> str:
    notes = [_line(schema.get("description", ""))]
    if required:
        notes.append("required")
    elif schema.get("default") not in (None, "", {}, []):
        notes.append(f"default `{_plain(schema['default'])}`")
    return "; ".join(note for note in notes if note)


def _plain(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def _type(schema: dict[str, Any]) -> str:
    kinds = [_type(each) for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if kinds:
        return " or ".join(kinds)
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].lower()
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("contentMediaType") or schema.get("format") == "binary":
        return "file"
    if schema.get("type") == "array":
        return "list of text"
    return {"string": "text", "object": "object"}.get(schema.get("type", ""), str(schema.get("type", "any")))


def _rollout_fields() -> str:
    schema = RolloutSpec.model_json_schema()
    rows = [
        f"| `{name}` | {_type(field)} | {_note(_described(name, field), name in schema['required'])} |"
        for name, field in schema["properties"].items()
        if name not in FROM_THE_TOKEN
    ]
    return "\n".join([ROLLOUT_HEAD, "| field | type | |\n| --- | --- | --- |", *rows, ""])


def _described(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """A field that is a setting too says there what it means."""
    setting = Settings.model_fields.get(name)
    return {"description": setting.description if setting else ""} | field


def _errors() -> str:
    rows = [f"| `{row.code}` | {row.status} | {_line(row.error.__doc__ or '')} |" for row in ERROR_TABLE]
    text = '## Errors\n\nEvery answer that is no success is `{"error": {"code", "message", "next", ...facts}}`.\n'
    return "\n".join([text, "| code | status | |\n| --- | --- | --- |", *rows, ""])


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
