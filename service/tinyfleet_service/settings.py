"""Settings of every service process, and where things lie in the data directory.

A value comes from the environment (`TINYFLEET_<NAME>`), else from `<data>/settings.toml`, else from the default here.
`service/README.md` documents each; a test holds the two together.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tinyfleet_service.data_dir import DataDir
from tinyfleet_service.errors import SettingsError, problem_texts

MOST_DAYS = 36_500.0


class Settings(BaseSettings):
    """Everything that can be set; times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="TINYFLEET_", extra="ignore", frozen=True)

    data: Path = Field(default=Path("fleet-data"), description="data directory")
    database_url: str = Field(
        default="", description="SQLAlchemy URL of the control plane; empty = SQLite in the data directory"
    )
    blobs: str = Field(
        default="", description="S3-compatible storage of blobs, s3://BUCKET/PREFIX; empty = the data directory"
    )
    project: str = Field(default="default", description="project that a first start creates")

    host: str = Field(default="127.0.0.1", description="address the API, EST and broker listen on")
    public_host: str = Field(
        default="localhost", description="name under which devices reach EST and the broker; goes into the certificates"
    )
    http_port: int = Field(default=8420, ge=0, le=65535, description="API and dashboard; 0 = a free port")
    broker_port: int = Field(default=8883, ge=0, le=65535, description="MQTT over TLS; 0 = a free port")
    est_port: int = Field(default=8443, ge=0, le=65535, description="EST enrolment; 0 = a free port")
    mosquitto: str = Field(default="mosquitto", description="broker program")
    external_broker: bool = Field(
        default=False, description="do not start a broker: connect to one at public_host:broker_port"
    )

    device_ca: str = Field(
        default="", description="program with arguments that signs device certificates; empty = the authority here"
    )
    device_classes: str = Field(
        default="cortex-m4", description="shipped classes, comma-separated, that a first start gives the project"
    )
    encrypt_images: bool = Field(
        default=False, description="device classes added from now on get encrypted images; per class it can be changed"
    )
    upload_limit_bytes: int = Field(default=64 << 20, gt=0, description="largest uploaded file")
    request_limit_bytes: int = Field(default=1 << 20, gt=0, description="largest request body other than an upload")

    rate_token_per_s: float = Field(
        default=50.0, ge=0, description="requests per second of one API token or session; 0 = no limit"
    )
    rate_address_per_s: float = Field(
        default=200.0, ge=0, description="requests per second of one network address; 0 = no limit"
    )
    rate_burst_s: float = Field(
        default=10.0, gt=0, description="seconds without requests that may be made up for at once"
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses, comma-separated, whose X-Forwarded-For and -Proto are believed; empty = nobody's",
    )

    metrics_host: str = Field(default="127.0.0.1", description="address of the processes' metrics ports")
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65531,
        description="/metrics of est at this port, controller, ingest, builder, webhooks at the next four; 0 = none",
    )
    otlp_endpoint: str = Field(
        default="", description="OpenTelemetry collector (OTLP over HTTP) that gets traces; empty = none"
    )

    session_s: float = Field(default=12 * 3600.0, gt=0, description="a login at the dashboard lasts so long")
    oidc_issuer: str = Field(
        default="", description="URL of an OpenID Connect provider for the dashboard; empty = none"
    )
    oidc_client_id: str = Field(default="tinyfleet", description="this service's name at the provider")
    oidc_client_secret: str = Field(default="", repr=False, description="this service's secret at the provider")
    oidc_scope: str = Field(default="openid email profile", description="scopes asked of the provider")
    oidc_claim: str = Field(default="groups", description="claim of the ID token that names the groups of a person")
    oidc_roles: str = Field(
        default="", description="GROUP=ROLE, comma-separated; who is in none of the groups gets in nowhere"
    )

    require_approval: bool = Field(default=False, description="only versions that an approver approved go out")

    webhook_private_addresses: bool = Field(
        default=False, description="webhooks may go to private networks and over plain HTTP"
    )
    webhook_attempts: int = Field(default=10, ge=1, description="a delivery that failed so often is dead")
    webhook_first_retry_s: float = Field(default=5.0, gt=0, description="pause after the first failure, then doubled")
    webhook_timeout_s: float = Field(default=10.0, gt=0, description="a receiver must answer within this")

    builder_workers: int = Field(default=2, ge=1, description="compile jobs of one builder at a time")
    dask: str = Field(
        default="",
        description="Dask scheduler, tcp:// or tls://HOST:PORT, whose workers compile; empty = processes here",
    )
    build_lease_s: float = Field(
        default=30.0, gt=0, description="a builder silent for so long loses its build to another"
    )
    build_attempts: int = Field(default=3, ge=1, description="a build whose builder died this often is failed")
    poll_s: float = Field(
        default=0.5, gt=0, description="pause of builder and event stream when there is nothing to do"
    )

    ingesters: int = Field(default=1, ge=1, le=8, description="telemetry ingesters that `serve` starts")
    ingest_batch: int = Field(
        default=2000,
        ge=1,
        le=8000,
        description="telemetry messages of one commit; the broker's window holds twice that",
    )
    rollup_minutes_days: float = Field(
        default=2.0,
        ge=0,
        le=MOST_DAYS,
        description="days for which rollups keep their minutes; then they are folded into hours",
    )
    rollup_hours_days: float = Field(
        default=90.0, gt=0, le=MOST_DAYS, description="days for which rollups are kept at all"
    )
    event_days: float = Field(
        default=365.0,
        gt=0,
        le=MOST_DAYS,
        description="days for which events, finished commands and logs of builds are kept",
    )
    snapshot_days: float = Field(
        default=90.0,
        gt=0,
        le=MOST_DAYS,
        description="days after a rollout's end for which `explain` can recompute it from counters frozen at its looks",
    )

    tick_s: float = Field(default=1.0, gt=0, description="pause between two rollout ticks")
    lease_s: float = Field(
        default=15.0, gt=0, description="the controller's lease; another controller takes over after it"
    )

    stratify_by: str = Field(default="site", description="tags, comma-separated, that with the class make a stratum")
    margin: float = Field(default=0.02, ge=0, le=1, description="accuracy a candidate may lose and still be promoted")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="chance of a wrong roll-back per rollout")
    min_labels: int = Field(default=100, ge=0, description="labelled inferences per device before accuracy may decide")
    min_inferences: int = Field(default=100, ge=0, description="inferences per device before a stage may end")
    soak_s: float = Field(default=3600.0, ge=0, description="shortest time in a stage")
    deadline_s: float = Field(
        default=7 * 86400.0, gt=0, description="a stage undecided for so long is held for a person"
    )
    confirm_min_inferences: int = Field(
        default=50, ge=0, description="inferences without fault in TESTING before CONFIRMED"
    )
    confirm_timeout_s: int = Field(default=600, ge=1, description="TESTING longer than this reverts on the device")
    coverage: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="share of devices that must be reached, and have counted what gates want, before a stage is done",
    )
    waves: str = Field(default="25%,100%", description="waves after the canary, cumulative shares")

    @property
    def dirs(self) -> DataDir:
        """Layout of the data directory."""
        return DataDir(self.data.absolute())

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the control plane."""
        return self.database_url or f"sqlite:///{self.dirs.database}"


def load_settings(data: Path | None = None, **overrides: Any) -> Settings:
    """Settings of the data directory `data`; explicit overrides win over the environment.

    Raises SettingsError naming every bad value.
    """
    folder = data or Path(overrides.pop("data", None) or os.environ.get("TINYFLEET_DATA") or "fleet-data")
    kept = _read_toml(DataDir(folder).settings_toml)
    values = {k: v for k, v in kept.items() if f"TINYFLEET_{k.upper()}" not in os.environ}
    values.update({key: value for key, value in overrides.items() if value is not None}, data=folder)
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = problem_texts(error.errors())
        raise SettingsError(
            "bad settings: " + "; ".join(problems),
            next=f"correct TINYFLEET_<NAME> in the environment or {DataDir(folder).settings_toml}",
            problems=problems,
        ) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}  # `DataDir.create` says what is wrong with the folder
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read {path}: {error}", next="correct or remove the file", path=str(path)
        ) from error
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        raise SettingsError(
            f"unknown settings in {path}: {', '.join(unknown)}",
            next="see service/README.md for the names",
            names=unknown,
        )
    return values
