"""A run that is killed leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import leftovers

RUN = """
import subprocess, sys, time, leftovers
leftovers.watch()
shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
print(shell.pid, shell.stdout.readline(), flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """False for one that only waits to be counted."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_children_of_a_killed_run_and_theirs_are_ended() -> None:
    environment = {name: value for name, value in os.environ.items() if name != leftovers.VARIABLE}
    environment["PYTHONPATH"] = str(Path(leftovers.__file__).parent)
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        started = [int(word) for word in run.stdout.readline().split()]
        assert [is_running(pid) for pid in started] == [True, True]
        run.send_signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while any(map(is_running, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, started))
