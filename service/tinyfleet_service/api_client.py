"""A typed client of the HTTP API, used by `fleetctl` and by scripts.

    client = Client("http://127.0.0.1:8420", token)
    client.push_model("digits", "v1", Path("digits.onnx"))

Every method raises the FleetError subclass that the service answered with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tinyfleet_service.error_table import from_document
from tinyfleet_service.errors import FleetError, UnauthenticatedError, UnavailableError

API = "/api/v1"
TIMEOUT_S = 60.0
PLAN_S = 600.0
"""A plan makes patches that nobody has made yet: seconds, and minutes for large models on a busy machine."""
_PLANNING = httpx.Timeout(TIMEOUT_S, read=PLAN_S)
GROUP_IDS = 1000
Document = dict[str, Any]


class Client:
    """One service, one token. Also a context manager that closes its connections."""

    def __init__(self, url: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        if not (token.isascii() and token.isprintable()):
            raise UnauthenticatedError("this is no API token", next="take the text of a token as it was shown")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self) -> Document:
        """The service answers. Raises UnavailableError."""
        return self._object("GET", "/healthz")

    def ready(self) -> Document:
        """Database, broker and controller: each `ok` or what is wrong with it."""
        answer = self._try("GET", "/readyz")
        return self._document(answer)

    def metrics(self) -> str:
        """Prometheus text of the API process and of the project."""
        return self._send("GET", "/metrics").text

    def push_model(
        self,
        name: str,
        version: str,
        model: Path,
        *,
        calibration: Path | None = None,
        evaluation: Path | None = None,
        metric: str | None = None,
        options: Document | None = None,
        lineage: Document | None = None,
        component: str | None = None,
    ) -> Document:
        """Register a version; the version with its queued builds. `options`: registry/build_options.py.

        `component`: model/0 (the default) to model/9; a model's first version fixes it.
        """
        form = {"version": version, "lineage": json.dumps(lineage or {}), "options": json.dumps(options or {})}
        form |= {key: value for key, value in (("metric", metric), ("component", component)) if value}
        paths = {"model": model, "calibration": calibration, "evaluation": evaluation}
        with ExitStack() as stack:
            files = {key: (path.name, stack.enter_context(path.open("rb"))) for key, path in paths.items() if path}
            return self._object("POST", f"{API}/models/{name}/versions", data=form, files=files)

    def push_firmware(self, name: str, version: str, images: Mapping[str, Path], *, abi: int | None = None) -> Document:
        """Register a firmware version: by device class an image as `imgtool sign` made it; the version with builds."""
        form: dict[str, Any] = {"version": version, "device_class": list(images)}
        form |= {} if abi is None else {"abi": str(abi)}
        with ExitStack() as stack:
            files = [("image", (path.name, stack.enter_context(path.open("rb")))) for path in images.values()]
            return self._object("POST", f"{API}/models/{name}/firmware", data=form, files=files)

    def models(self) -> list[Document]:
        """Every model."""
        return self._items("/models")

    def model(self, name: str) -> Document:
        """A model with its versions and builds."""
        return self._object("GET", f"{API}/models/{name}")

    def version(self, name: str, version: str) -> Document:
        """A version with its builds."""
        return self._object("GET", f"{API}/models/{name}/versions/{version}")

    def set_alias(self, name: str, alias: str, version: str) -> Document:
        """Let `name@alias` mean a version; the version."""
        return self._object("PUT", f"{API}/models/{name}/aliases/{alias}", json={"version": version})

    def drop_alias(self, name: str, alias: str) -> None:
        """Forget an alias."""
        self._send("DELETE", f"{API}/models/{name}/aliases/{alias}")

    def set_approval(self, name: str, version: str, state: str) -> Document:
        """approved, rejected or none; the version."""
        return self._object("PUT", f"{API}/models/{name}/versions/{version}/approval", json={"state": state})

    def diff_versions(self, name: str, old: str, new: str) -> Document:
        """What `new` would change against `old`, by device class."""
        return self._object("GET", f"{API}/models/{name}/diff", params={"old": old, "new": new})

    def cancel_build(self, build_id: int) -> Document:
        """Cancel a build that waits or runs; the build."""
        return self._object("POST", f"{API}/builds/{build_id}/cancel")

    def retry_build(self, build_id: int) -> Document:
        """Queue a build that failed, did not fit or was cancelled again; the build."""
        return self._object("POST", f"{API}/builds/{build_id}/retry")

    def builds(self, limit: int = 50) -> list[Document]:
        """The newest builds, each with the last line of its log as `step`."""
        return self._items("/builds", params={"limit": limit})

    def build_log(self, build_id: int, after: int = 0) -> list[Document]:
        """Lines of a build's log after line `after`, oldest first."""
        return self._items(f"/builds/{build_id}/log", params={"after": after})

    def build(self, build_id: int) -> Document:
        """A build with its report."""
        return self._object("GET", f"{API}/builds/{build_id}")

    def waiting_manifests(self) -> dict[int, bytes]:
        """Build id -> release manifest that waits for a signature."""
        return {item["build"]: bytes.fromhex(item["manifest"]) for item in self._items("/signatures")}

    def sign_build(self, build_id: int, envelope: bytes) -> Document:
        """Hand in a release that was signed elsewhere; the build."""
        return self._object("POST", f"{API}/builds/{build_id}/signature", json={"envelope": envelope.hex()})

    def build_report(self, build_id: int) -> str:
        """The report page, HTML."""
        return self._send("GET", f"{API}/builds/{build_id}/report.html").text

    def build_image(self, build_id: int) -> bytes:
        """The model image."""
        return self._send("GET", f"{API}/builds/{build_id}/image").content

    def device_classes(self) -> list[Document]:
        """Classes the project builds for."""
        return self._items("/device-classes")

    def add_device_class(self, name: str | None = None, *, toml: str | None = None) -> Document:
        """Add a shipped class by name, or your own by its TOML."""
        return self._object("POST", f"{API}/device-classes", json={"name": name, "toml": toml})

    def encrypt_class(self, name: str, encrypted: bool = True) -> Document:
        """Have images for a class travel encrypted, or in the clear again; the class."""
        return self._object("PATCH", f"{API}/device-classes/{name}", json={"encrypted": encrypted})

    def create_claim(
        self,
        name: str,
        device_class: str,
        *,
        tags: dict[str, str] | None = None,
        quota: int = 1000,
        days: float = 365.0,
    ) -> Document:
        """A claim certificate: `certificate_pem`, `key_pem` and what they are good for."""
        body = {"name": name, "device_class": device_class, "tags": tags or {}, "quota": quota, "days": days}
        return self._object("POST", f"{API}/claims", json=body)

    def claims(self) -> list[Document]:
        """Claim certificates in the order they were made, page by page."""
        return self._pages("/claims", {})

    def revoke_claim(self, claim_id: int) -> Document:
        """Let nobody enrol with it any more; the claim."""
        return self._object("POST", f"{API}/claims/{claim_id}/revoke")

    def ca(self) -> bytes:
        """Certificate of the authority that devices trust, PEM."""
        return self._send("GET", f"{API}/ca").content

    def root(self) -> bytes:
        """Root 1 that devices are provisioned with, CBOR."""
        return self._send("GET", f"{API}/root/1").content

    def devices(self, *, where: str | None = None) -> list[Document]:
        """Devices, all or those a selector matches, page by page."""
        return self._pages("/devices", {"where": where} if where else {})

    def device(self, device_id: str) -> Document:
        """A device and its twin."""
        return self._object("GET", f"{API}/devices/{device_id}")

    def set_tags(self, device_id: str, tags: dict[str, str]) -> Document:
        """Replace a device's tags; the device."""
        return self._object("PUT", f"{API}/devices/{device_id}/tags", json=tags)

    def groups(self) -> list[Document]:
        """Groups of devices, each with the number of its members."""
        return self._items("/groups")

    def create_group(self, name: str, description: str = "") -> Document:
        """A new group without devices."""
        return self._object("POST", f"{API}/groups", json={"name": name, "description": description})

    def group(self, name: str) -> Document:
        """A group, its devices counted by class and state."""
        return self._object("GET", f"{API}/groups/{name}")

    def delete_group(self, name: str) -> None:
        """Forget a group; its devices stay."""
        self._send("DELETE", f"{API}/groups/{name}")

    def add_to_group(self, name: str, device_ids: Sequence[str] = (), *, where: str | None = None) -> Document:
        """Put devices into a group, by id or by a selector; `changed` and `devices` of the answer are counts."""
        return self._change_group(name, "add", device_ids, where)

    def remove_from_group(self, name: str, device_ids: Sequence[str] = (), *, where: str | None = None) -> Document:
        """Take devices out of a group, by id or by a selector."""
        return self._change_group(name, "remove", device_ids, where)

    def _change_group(self, name: str, verb: str, device_ids: Sequence[str], where: str | None) -> Document:
        """As many requests as it takes, each bounded; repeated after an error, they change what is left."""
        ids = [list(device_ids[at : at + GROUP_IDS]) for at in range(0, len(device_ids), GROUP_IDS)]
        asked: list[Document] = [{"devices": part} for part in ids] if where is None else [{"where": where}]
        changed, answer = 0, Document()
        while asked:
            body = asked.pop(0)
            answer = self._object("POST", f"{API}/groups/{name}/{verb}", json=body)
            changed += answer["changed"]
            asked += [{**body, "after": answer["next"]}] if answer["next"] else []
        return {**(answer or self.group(name)), "changed": changed}

    def revoke_device(self, device_id: str) -> Document:
        """End a device's certificates and connection for good."""
        return self._object("POST", f"{API}/devices/{device_id}/revoke")

    def reset_device(self, device_id: str) -> Document:
        """Let a device enrol again under its id."""
        return self._object("POST", f"{API}/devices/{device_id}/reset")

    def command_device(self, device_id: str, action: str, expires_s: int = 3600) -> Document:
        """Ask a device to `reboot`, or for `diagnostics`."""
        asked = {"action": action, "expires_s": expires_s}
        return self._object("POST", f"{API}/devices/{device_id}/commands", json=asked)

    def device_commands(self, device_id: str) -> list[Document]:
        """The newest commands to a device and what became of them."""
        return self._items(f"/devices/{device_id}/commands")

    def device_telemetry(self, device_id: str) -> list[Document]:
        """What a device counted of each image that it ever ran, those of its newest report first."""
        return self._items(f"/devices/{device_id}/telemetry")

    def model_gates(self, name: str) -> Document:
        """A model's own policy of gates (`own`), and what its rollouts go by (`gates`, `gates_from`)."""
        return self._object("GET", f"{API}/models/{name}/gates")

    def set_model_gates(self, name: str, gates: Mapping[str, str]) -> Document:
        """Replace a model's own policy of gates; as `model_gates`."""
        return self._object("PUT", f"{API}/models/{name}/gates", json=dict(gates))

    def plan_rollout(self, spec: Document) -> Document:
        """What a rollout would do; nothing is changed."""
        return self._object("POST", f"{API}/rollouts/plan", json=spec, timeout=_PLANNING)

    def start_rollout(self, spec: Document) -> Document:
        """Plan and start; the rollout."""
        return self._object("POST", f"{API}/rollouts", json=spec, timeout=_PLANNING)

    def rollouts(self) -> list[Document]:
        """Every rollout, the newest first."""
        return self._items("/rollouts")

    def rollout(self, rollout_id: int) -> Document:
        """Where a rollout stands."""
        return self._object("GET", f"{API}/rollouts/{rollout_id}")

    def rollout_history(self, rollout_id: int) -> list[Document]:
        """What happened in a rollout."""
        return self._items(f"/rollouts/{rollout_id}/history")

    def explain_rollout(self, rollout_id: int) -> Any:
        """Every decision, recomputed from the stored snapshots."""
        return self._send("GET", f"{API}/rollouts/{rollout_id}/explain").json()

    def rollout_verb(self, rollout_id: int, verb: str) -> Document:
        """pause, resume, promote, approve, retry, abort or undo."""
        return self._object("POST", f"{API}/rollouts/{rollout_id}/{verb}")

    def fleet_verb(self, verb: str) -> Document:
        """freeze or thaw."""
        return self._object("POST", f"{API}/fleet/{verb}")

    def overview(self) -> Document:
        """Devices by version and state; accuracy and latency by version."""
        return self._object("GET", f"{API}/overview")

    def events(self, after: int = 0, limit: int = 100) -> list[Document]:
        """Events after an id, oldest first."""
        return self._items("/events", params={"after": after, "limit": limit})

    def stream(self, after: int | None = None) -> Iterator[Document]:
        """Events as they happen, for ever."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        with self._http.stream("GET", f"{API}/stream", headers=headers, timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise from_document(_json(answer), answer.status_code)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def audit(self, after: int = 0, limit: int = 100) -> list[Document]:
        """Entries of the audit log after a number, oldest first."""
        return self._items("/audit", params={"after": after, "limit": limit})

    def webhooks(self) -> list[Document]:
        """Webhooks of the project, without their secrets."""
        return self._items("/webhooks")

    def create_webhook(self, url: str, events: list[str] | None = None) -> Document:
        """A new webhook; `secret` holds what signs its requests, shown this once. No events means all."""
        return self._object("POST", f"{API}/webhooks", json={"url": url, "events": events or []})

    def remove_webhook(self, webhook_id: int) -> None:
        """Remove a webhook and its deliveries."""
        self._send("DELETE", f"{API}/webhooks/{webhook_id}")

    def webhook_deliveries(self, webhook_id: int, state: str | None = None) -> list[Document]:
        """The newest deliveries of a webhook; `state` is waiting, delivered or dead."""
        return self._items(f"/webhooks/{webhook_id}/deliveries", params={"state": state} if state else {})

    def retry_delivery(self, webhook_id: int, delivery_id: int) -> Document:
        """Send a dead delivery again."""
        return self._object("POST", f"{API}/webhooks/{webhook_id}/deliveries/{delivery_id}/retry")

    def create_token(
        self, name: str, role: str = "viewer", hours: float | None = None, scopes: Sequence[str] = ()
    ) -> Document:
        """A new API token; `token` holds its text, shown this once. No scopes means all that the role may."""
        asked = {"name": name, "role": role, "hours": hours, "scopes": list(scopes)}
        return self._object("POST", f"{API}/tokens", json=asked)

    def tokens(self) -> list[Document]:
        """Tokens of the project, without their texts."""
        return self._items("/tokens")

    def revoke_token(self, token_id: int) -> None:
        """Revoke a token."""
        self._send("DELETE", f"{API}/tokens/{token_id}")

    def _items(self, path: str, **options: Any) -> list[Document]:
        items: list[Document] = self._object("GET", API + path, **options)["items"]
        return items

    def _pages(self, path: str, params: dict[str, Any]) -> list[Document]:
        found: list[Document] = []
        while True:
            page = self._object("GET", API + path, params=params)
            found += page["items"]
            if page.get("next") is None:
                return found
            params = {**params, "after": page["next"]}

    def _object(self, method: str, path: str, **options: Any) -> Document:
        return self._document(self._send(method, path, **options))

    def _document(self, answer: httpx.Response) -> Document:
        document = _json(answer)
        if not isinstance(document, dict):
            raise FleetError(f"{self.url} answered something else", next="is this the address of a tinyfleet service?")
        return document

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self._try(method, path, **options)
        if answer.is_error:
            raise from_document(_json(answer), answer.status_code)
        return answer

    def _try(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise UnavailableError(
                f"no answer from {self.url}: {error}", next="is `fleetctl serve` running there?", url=self.url
            ) from error


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
