"""A small client for notebooks and CI: push a model, wait for its builds, roll it out, read the verdict.

from tinyfleet_service.client import Fleet

fleet = Fleet()                                   # TINYFLEET_URL and TINYFLEET_TOKEN, or url= and token=
version = fleet.push("digits", "v3", "digits.onnx", calibration={"x": x}, evaluation={"x": x, "y": y},
                     lineage={"run_id": run, "git_commit": commit, "parent": "v2"})
print(version.wait().accuracy())                  # {"cortex-m4": 0.97}
print(fleet.rollout("digits:v3", canary="5%").wait())
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyfleet_service.api_client import Client, Document
from tinyfleet_service.errors import InvalidInputError, SettingsError, UnavailableError

Data = str | Path | Mapping[str, Any] | None
POLL_S = 1.0
UNDER_WAY = ("queued", "running")
DECIDED = ("promoted", "rolled_back", "aborted", "held")


class Fleet:
    """One service. Raises SettingsError without an address or a token, and what `Client` raises."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        url, token = url or os.environ.get("TINYFLEET_URL"), token or os.environ.get("TINYFLEET_TOKEN")
        if not url or not token:
            raise SettingsError("which service?", next="give url= and token=, or set TINYFLEET_URL and TINYFLEET_TOKEN")
        self.client = Client(url, token)

    def push(
        self,
        name: str,
        version: str,
        model: str | Path,
        *,
        calibration: Data = None,
        evaluation: Data = None,
        metric: str | None = None,
        lineage: Document | None = None,
        component: str | None = None,
    ) -> Version:
        """Register a version. Data is an NPZ file or arrays by name (`x` in the model's own layout, `y`).

        `component`: where devices with several models run it, model/0 to model/9; a model's first version fixes it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.client.push_model(
                name,
                version,
                Path(model),
                calibration=_as_file(calibration, Path(folder) / "calibration.npz"),
                evaluation=_as_file(evaluation, Path(folder) / "evaluation.npz"),
                metric=metric,
                lineage=lineage,
                component=component,
            )
        return Version(self.client, name, version)

    def version(self, reference: str) -> Version:
        """`digits:v3`, or `digits@champion`. Raises NotFoundError."""
        name, version = split_reference(reference)
        return Version(self.client, name, str(self.client.version(name, version)["version"]))

    def gates(self, name: str, **changes: str | None) -> dict[str, str]:
        """A model's own policy of gates, after `changes`: `gates("digits", accuracy="proxy")`; None for the default."""
        own: dict[str, str] = self.client.model_gates(name)["own"]
        if changes:
            wanted = {gate: policy for gate, policy in (own | changes).items() if policy is not None}
            own = self.client.set_model_gates(name, wanted)["own"]
        return own

    def rollout(self, reference: str, **spec: Any) -> Rollout:
        """Start a rollout; `spec` as in docs/api.md: canary, waves, where, gates ..."""
        name, version = split_reference(reference)
        started = self.client.start_rollout({"model": name, "version": version, **spec})
        return Rollout(self.client, int(started["id"]))

    def devices(self, where: str | None = None) -> list[Document]:
        """Devices, all or those a selector matches."""
        return self.client.devices(where=where)

    def group(self, name: str, *, create: bool = False) -> Group:
        """A group of devices, made when `create` and it is not there. Raises NotFoundError."""
        if not create or name not in {group["name"] for group in self.client.groups()}:
            (self.client.create_group if create else self.client.group)(name)
        return Group(self.client, name)


@dataclass(frozen=True)
class Version:
    """A registered version."""

    client: Client
    name: str
    version: str

    def builds(self) -> list[Document]:
        """Its builds as they stand, one a device class."""
        found: list[Document] = self.client.version(self.name, self.version)["builds"]
        return found

    def wait(self, timeout_s: float = 600.0) -> Version:
        """Until no build is under way. Raises UnavailableError when that takes too long."""
        until = time.monotonic() + timeout_s
        while any(build["state"] in UNDER_WAY for build in self.builds()):
            _sleep(until, f"builds of {self.name}:{self.version}")
        return self

    def accuracy(self) -> dict[str, float | None]:
        """Accuracy of the quantised model by device class, None where it was not measured."""
        return {b["device_class"]: (b["report"].get("accuracy") or {}).get("quantized") for b in self.builds()}

    def alias(self, alias: str) -> None:
        """Let `NAME@alias` mean this version from now on."""
        self.client.set_alias(self.name, alias, self.version)

    def approve(self, state: str = "approved") -> None:
        """Say whether it may go out: `approved` or `rejected`."""
        self.client.set_approval(self.name, self.version, state)

    def diff(self, other: str) -> Document:
        """What another version of the model would change, by device class."""
        return self.client.diff_versions(self.name, self.version, other)


@dataclass(frozen=True)
class Group:
    """A named set of devices; selectors know it as `group=NAME`."""

    client: Client
    name: str

    def add(self, device_ids: Sequence[str] = (), *, where: str | None = None) -> int:
        """Put devices in, by id or by a selector; how many were not in before."""
        return int(self.client.add_to_group(self.name, device_ids, where=where)["changed"])

    def remove(self, device_ids: Sequence[str] = (), *, where: str | None = None) -> int:
        """Take devices out; how many were in."""
        return int(self.client.remove_from_group(self.name, device_ids, where=where)["changed"])

    def devices(self) -> list[Document]:
        """The devices in it."""
        return self.client.devices(where=f"group={self.name}")


@dataclass(frozen=True)
class Rollout:
    """A rollout."""

    client: Client
    id: int

    def state(self) -> str:
        """running, paused, held, promoted, rolled_back or aborted."""
        return str(self.client.rollout(self.id)["state"])

    def wait(self, timeout_s: float = 7 * 86400.0) -> str:
        """Until it is decided, or held for a person. Raises UnavailableError when that takes too long."""
        until = time.monotonic() + timeout_s
        while (state := self.state()) not in DECIDED:
            _sleep(until, f"rollout {self.id}")
        return state


def split_reference(reference: str) -> tuple[str, str]:
    """`model:v3` or `model@alias` as name and version, which keeps the `@`. Raises InvalidInputError otherwise."""
    mark = "@" if "@" in reference else ":"
    name, found, version = reference.partition(mark)
    if not (name and found and version):
        raise InvalidInputError(
            f"'{reference}' names no model version", next="write it as NAME:VERSION or NAME@ALIAS, e.g. model:v3"
        )
    return name, version if mark == ":" else f"@{version}"


def _as_file(data: Data, path: Path) -> Path | None:
    if data is None or isinstance(data, str | Path):
        return Path(data) if data else None
    import numpy as np  # a script that passes files needs none of it

    np.savez(path, allow_pickle=False, **{str(key): np.asarray(value) for key, value in data.items()})
    return path


def _sleep(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise UnavailableError(f"{what} took too long", next="look at it with `fleetctl`, or wait longer")
    time.sleep(POLL_S)
