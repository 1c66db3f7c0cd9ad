"""Builds on a real Dask cluster, blobs in a real S3 server: the workers share no disk with the builder."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from integration.s3_support import s3, s3_url
from postgres import free_port
from service_harness import push_digits, running_api
from tinyfleet_compiler import read_image
from tinyfleet_service.builder import dask_workers
from tinyfleet_service.builder.dask_workers import DaskWorkers
from tinyfleet_service.builder.process import Builder
from tinyfleet_service.errors import UnavailableError

__all__ = ["s3", "s3_url"]  # fixtures
PATIENCE_S = 300.0
ANOTHER_RELEASE = """
from tinyfleet_service.builds import compiler_version as module
module.compiler_version.cache_clear()
module.version, module.SHOWN = lambda _: "0.0.9", 0
"""


def kill_the_busy_worker(client: Client) -> None:
    """With -9, in the middle of a build."""
    pids = client.run(os.getpid)
    until = time.monotonic() + PATIENCE_S
    while not (busy := [worker for worker, jobs in client.processing().items() if jobs]):
        assert time.monotonic() < until, "no worker got a build"
        time.sleep(0.05)
    os.kill(pids[busy[0]], signal.SIGKILL)


def test_dask_workers_build_and_one_that_is_killed_loses_nothing(tmp_path: Path, s3: str) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster,
        Client(cluster, set_as_default=False) as watcher,
        running_api(tmp_path / "data", blobs=s3, dask=cluster.scheduler_address) as api,
        api.client() as client,
    ):
        push_digits(client)
        builder = Builder(api.settings, api.engine)
        assert builder.step()
        kill_the_busy_worker(watcher)
        while builder.step():
            time.sleep(0.05)
        builder.close()
        (build,) = client.version("digits", "v1")["builds"]
        assert (build["state"], build["attempt"]) == ("ready", 1)  # Dask ran it again by itself
        said = [line["text"] for line in client.build_log(build["id"])]
        assert sum(text.startswith("imported model.onnx") for text in said) >= 1
        assert (said[-1], client.builds()[0]["step"]) == ("ready", "ready")
        assert read_image(client.build_image(build["id"])).name == "digits"
        assert [path for path in api.settings.dirs.blobs.rglob("*") if path.is_file()] == []
        refuses_other_compilers(watcher, cluster.scheduler_address)


def refuses_other_compilers(watcher: Client, address: str) -> None:
    """One worker of two is of another release: nothing is sent to the cluster, also by who had checked it before."""
    watcher.wait_for_workers(2, timeout=60)  # the killed one's successor may be on its way
    one = min(watcher.nthreads())
    early = DaskWorkers(address)
    early.connect()
    watcher.run(exec, ANOTHER_RELEASE, {}, workers=[one])
    late = DaskWorkers(address)
    with pytest.raises(UnavailableError, match=rf"1 of 2 Dask workers; {one}: compiler 0\.0\.9\+, this service has 0"):
        late.connect()
    with pytest.raises(UnavailableError, match="install the same tinyfleet"):
        late.connect()
    futures = watcher.map(dask_workers.compile_there, ["other"], [None], [None])
    assert isinstance(futures[0].exception(), early.lost)
    for workers in (early, late):
        workers.close()


def test_a_scheduler_that_is_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "CONNECT_S", 0.3)
    with pytest.raises(UnavailableError, match="TINYFLEET_DASK"):
        DaskWorkers(f"tcp://127.0.0.1:{free_port()}").connect()
