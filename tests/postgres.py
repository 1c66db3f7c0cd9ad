"""A throw-away PostgreSQL server for tests, from the system's binaries, run as `postgres` when we are root."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, Engine
from sqlalchemy.engine import make_url

from tinyfleet_service.settings import Settings

SETTINGS = {"fsync": "off"}  # what a test stores need not outlive the machine


def postgres_binaries() -> Path | None:
    """Folder of initdb and pg_ctl, the newest version, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def free_port() -> int:
    """A TCP port free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres_server(settings: Mapping[str, str] = SETTINGS) -> Iterator[str]:
    """Start a server with these settings; yields an SQLAlchemy URL of an empty database.

    Its files lie in a folder of their own: pytest's temporary folders are closed to the user `postgres`.
    """
    binaries = postgres_binaries()
    assert binaries is not None
    with tempfile.TemporaryDirectory(prefix="tinyfleet-postgres-") as folder:
        data, port = Path(folder) / "data", free_port()
        _for_postgres(Path(folder))
        _run("cp", "-a", _empty_cluster(), data)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options += "".join(f" -c {name}={value}" for name, value in settings.items())
        _run(binaries / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://tinyfleet@127.0.0.1:{port}/postgres"
        finally:
            _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


@cache
def _empty_cluster() -> Path:
    """What initdb makes, once a process; every server begins with a copy."""
    binaries = postgres_binaries()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="tinyfleet-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _for_postgres(folder)
    _run(binaries / "initdb", "-D", folder / "data", "-U", "tinyfleet", "-A", "trust", "--no-sync")
    return folder / "data"


def _for_postgres(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """A database of its own on a running server; yields its SQLAlchemy URL."""
    plain = make_url(server_url).set(drivername="postgresql").render_as_string(hide_password=False)
    url = create_database(server_url)
    name = make_url(url).database
    try:
        yield url
    finally:
        with psycopg.connect(plain, autocommit=True) as admin:  # the server may have been restarted meanwhile
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def crash_and_restart(server_url: str) -> None:
    """Kill the server as a crash would, then start it again with the options it had."""
    binaries = postgres_binaries()
    assert binaries is not None
    plain = make_url(server_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as admin:
        row = admin.execute("SHOW data_directory").fetchone()
    assert row is not None
    data = Path(row[0])
    _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "-l", data / "log", "restart")


@contextmanager
def database_away(engine: Engine) -> Iterator[None]:
    """Meanwhile nobody reaches the database: a folder stands for SQLite's file, PostgreSQL turns connections away."""
    engine.dispose()
    if engine.dialect.name == "postgresql":
        with _closed(engine.url):
            yield
        return
    file = Path(str(engine.url.database))
    hidden = file.rename(file.with_suffix(".hidden"))
    file.mkdir()
    try:
        yield
    finally:
        file.rmdir()
        hidden.rename(file)


@contextmanager
def _closed(url: URL) -> Iterator[None]:
    plain = url.set(drivername="postgresql", database="postgres", query={}).render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.database])
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")


class EveryDataDirectory:
    """PostgreSQL under whatever a test makes settings for: one server for the run, a database per data directory.

    `settings.toml` of the directory names the database to processes that a test starts.
    """

    def __init__(self) -> None:
        self._urls: dict[Path, str] = {}
        self._server: str | None = None
        self._lock = threading.Lock()
        self._open = ExitStack()
        atexit.register(self._open.close)

    def url_of(self, settings: Settings) -> str:
        """What stands in for `Settings.url`."""
        if settings.database_url:
            return settings.database_url
        with self._lock:
            return self._url_at(settings.dirs.path.resolve())

    def _url_at(self, folder: Path) -> str:
        if folder not in self._urls:
            self._server = self._server or self._open.enter_context(postgres_server())
            self._urls[folder] = create_database(self._server)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "settings.toml").open("a") as file:
                file.write(f'database_url = "{self._urls[folder]}"\n')
        return self._urls[folder]

    def install(self) -> None:
        """From now on, in this process."""
        Settings.url = property(self.url_of)  # type: ignore[assignment, method-assign]


def create_database(server_url: str, *, template: str = "template1") -> str:
    """A database that ends with its server, a copy of `template`, which nobody uses now; its SQLAlchemy URL."""
    url = make_url(server_url)
    plain = url.set(drivername="postgresql", database="postgres", query={}).render_as_string(hide_password=False)
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return url.set(database=name).render_as_string(hide_password=False)


def shared_server() -> Iterator[str]:
    """For a fixture of module or session scope: a server, or skip where PostgreSQL is not installed."""
    if postgres_binaries() is None:
        pytest.skip("PostgreSQL server binaries are not installed (Debian package postgresql)")
    with postgres_server() as url:
        yield url


def _run(*command: object) -> None:
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*prefix, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        check=False,
    )
    assert result.returncode == 0, result.stderr
