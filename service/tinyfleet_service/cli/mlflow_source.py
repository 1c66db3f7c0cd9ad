"""A version of an MLflow registry: its model file, and what its run says of where it comes from.

References are `models:/NAME/VERSION`, `models:/NAME@ALIAS`, or the same behind `mlflow://`. The registry is that of
MLFLOW_TRACKING_URI, as for every MLflow client, or the address given. A file is fetched; nothing is loaded.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tinyfleet_service.errors import InvalidInputError, NotFoundError, SettingsError, UnavailableError

_REFERENCE = re.compile(r"(?:models:/|mlflow://)(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))")
SUFFIXES = (".onnx", ".tflite")
MAX_FACTS = 100


@dataclass(frozen=True)
class MlflowVersion:
    """A model file on this disk, and its lineage as `fleetctl model show` shows it."""

    model: Path
    lineage: dict[str, Any]


def fetch_version(reference: str, folder: Path, tracking: str = "") -> MlflowVersion:
    """Fetch a registered version into `folder`.

    Raises InvalidInputError for a reference or files that make no sense, NotFoundError, UnavailableError when the
    registry does not answer, SettingsError without mlflow-skinny or an address.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InvalidInputError(
            f"{reference!r} names no version of an MLflow registry",
            next="write models:/NAME/VERSION or models:/NAME@ALIAS",
        )
    address = tracking or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        raise SettingsError("which MLflow registry?", next="set MLFLOW_TRACKING_URI, or give --tracking")
    client = _client(address)
    try:
        found = _find(client, match)
        source = client.get_model_version_download_uri(found.name, found.version)
        artifacts = import_module("mlflow.artifacts")
        fetched = Path(artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder), tracking_uri=address))
        lineage = _lineage(client, found, reference)
    except import_module("mlflow.exceptions").MlflowException as error:
        raise _translated(error, reference) from error
    return MlflowVersion(_model_file(fetched, reference), lineage)


def _client(address: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        return import_module("mlflow.tracking").MlflowClient(tracking_uri=address, registry_uri=address)
    except ImportError as error:
        raise SettingsError("this needs an MLflow client", next="pip install 'tinyfleet[mlflow]'") from error


def _find(client: Any, match: re.Match[str]) -> Any:
    if match["alias"]:
        return client.get_model_version_by_alias(match["name"], match["alias"])
    return client.get_model_version(match["name"], match["version"])


def _lineage(client: Any, found: Any, reference: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"mlflow": reference, "mlflow_version": f"{found.name}/{found.version}"}
    if not found.run_id:
        return facts
    run = client.get_run(found.run_id)
    datasets = [{"name": entry.dataset.name, "hash": entry.dataset.digest} for entry in run.inputs.dataset_inputs]
    facts |= {
        "run_id": found.run_id,
        "metrics": _first(_numbers(run.data.metrics)),
        "parameters": _first(run.data.params),
    }
    facts |= {"dataset_hash": datasets[0]["hash"], "datasets": datasets[:MAX_FACTS]} if datasets else {}
    commit = run.data.tags.get("mlflow.source.git.commit")
    return facts | ({"git_commit": commit} if commit else {})


def _numbers(metrics: dict[str, float]) -> dict[str, Any]:
    """JSON knows neither NaN nor infinity: those as text."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}


def _first(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in sorted(facts)[:MAX_FACTS]}


def _model_file(fetched: Path, reference: str) -> Path:
    files = sorted(fetched.rglob("*")) if fetched.is_dir() else [fetched]
    models = [path for path in files if path.is_file() and path.suffix.lower() in SUFFIXES]
    if len(models) != 1:
        raise InvalidInputError(
            f"{reference} holds {len(models)} ONNX or TFLite files", next="log exactly one with the version's artifacts"
        )
    return models[0]


def _translated(error: Any, reference: str) -> Exception:
    if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return NotFoundError(
            f"no {reference}: {error}", next="see the registry's models", what="version", name=reference
        )
    return UnavailableError(
        f"the MLflow registry does not answer as it should: {str(error)[:300]}", next="check MLFLOW_TRACKING_URI"
    )
