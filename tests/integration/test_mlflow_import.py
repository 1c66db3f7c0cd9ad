"""Versions of an MLflow registry become versions here: against a real MLflow server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import web
from postgres import free_port
from service_harness import DIGITS, Api, running_api
from tinyfleet_service.cli.main import main
from tinyfleet_service.cli.mlflow_source import fetch_version
from tinyfleet_service.errors import InvalidInputError, NotFoundError, SettingsError, UnavailableError

PATIENCE_S = 300.0
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from mlflow.tracking import MlflowClient  # seconds, which others that collect this module need not spend

    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "files"), "--host", "127.0.0.1", "--workers", "1"]
    with (folder / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        server = subprocess.Popen(
            [*command, "--port", url.rsplit(":", 1)[1]], stdout=log, stderr=log, env=os.environ | QUIET
        )
        try:
            wait_until_up(server, url)
            fill(MlflowClient(tracking_uri=url))
            yield url
        finally:
            server.terminate()
            server.wait()


def wait_until_up(server: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < until, "the server does not answer"
        try:
            if web.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def fill(client: Any) -> None:
    """digits/1 from a run with everything, digits/2 without a model file."""
    from mlflow.entities import Dataset, DatasetInput

    run = client.create_run(client.create_experiment("digits")).info.run_id
    client.log_param(run, "learning_rate", "0.1")
    client.log_metric(run, "f1", 0.93)
    client.log_metric(run, "loss", float("nan"))
    client.set_tag(run, "mlflow.source.git.commit", "abc123")
    data = Dataset(name="field", digest="9f8e7d6c", source_type="local", source="{}")
    client.log_inputs(run, [DatasetInput(data, [])])
    client.log_artifact(run, str(DIGITS / "digits_v1.onnx"), "model")
    client.log_artifact(run, str(DIGITS / "calibration.npz"), "data")
    client.create_registered_model("digits")
    client.create_model_version("digits", f"runs:/{run}/model", run_id=run)
    client.create_model_version("digits", f"runs:/{run}/data", run_id=run)
    client.set_registered_model_alias("digits", "champion", "1")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("data")) as api:
        yield api


def test_an_import_keeps_where_the_model_comes_from(api: Api, registry: str) -> None:
    words = ["--url", api.url, "--token", api.token, "model", "import", "models:/digits@champion", "digits:v1"]
    data = ["--calibration", str(DIGITS / "calibration.npz"), "--tracking", registry, "--no-wait"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *data])
    assert ended.value.code == 0
    found = api.client().version("digits", "v1")
    lineage = found["lineage"]
    assert found["file_name"] == "digits_v1.onnx"
    assert found["model_bytes"] == (DIGITS / "digits_v1.onnx").stat().st_size
    assert lineage["mlflow_version"] == "digits/1"
    assert (lineage["metrics"], lineage["parameters"]) == ({"f1": 0.93, "loss": "nan"}, {"learning_rate": "0.1"})
    assert (lineage["dataset_hash"], lineage["git_commit"]) == ("9f8e7d6c", "abc123")
    assert len(lineage["run_id"]) == 32


@pytest.mark.parametrize(
    ("reference", "error", "told"),
    [
        ("mlflow://digits/2", InvalidInputError, "0 ONNX or TFLite files"),
        ("mlflow://digits/7", NotFoundError, "digits/7"),
        ("models:/nothing@champion", NotFoundError, "nothing"),
        ("models:/digits", InvalidInputError, "NAME/VERSION"),
        ("runs:/abc/model", InvalidInputError, "NAME/VERSION"),
    ],
)
def test_what_is_no_model_there_is_named(
    registry: str, tmp_path: Path, reference: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        fetch_version(reference, tmp_path, registry)


def test_a_registry_that_is_away_or_not_named_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI"):
        fetch_version("models:/digits/1", tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UnavailableError, match="does not answer"):
        fetch_version("models:/digits/1", tmp_path, f"http://127.0.0.1:{free_port()}")
