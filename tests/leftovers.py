"""Ends what a killed test run leaves behind: servers, brokers and agents, and what these started.

    leftovers.watch()

Whatever the run starts inherits a word of its own in the environment. A process beside the run waits until the run is
gone, then ends every process that carries the word. A death signal (prctl) would end children alone, not theirs.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

VARIABLE = "TINYFLEET_TEST_RUN"
POLL_S = 0.5
_watchers: list["subprocess.Popen[bytes]"] = []


def watch() -> None:
    """From now on, for this process and what it starts; once a run, workers of a parallel run included."""
    if VARIABLE in os.environ or not Path("/proc/self/environ").exists():
        return
    word = uuid.uuid4().hex
    command = [sys.executable, "-IS", __file__, str(os.getpid()), word]
    _watchers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
    os.environ[VARIABLE] = word


def _end_all(word: str) -> None:
    mark = f"{VARIABLE}={word}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # gone meanwhile, or another user's
            if mark in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), signal.SIGKILL)


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[1]):
        time.sleep(POLL_S)
    _end_all(sys.argv[2])
