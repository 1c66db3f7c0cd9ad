"""C tests run with AddressSanitizer: its runtime must be in the process before everything else.

When only tests of this folder are asked for, pytest starts itself again with it preloaded. In a wider run, which
may start a browser or a broker that do not bear it, the libraries carry UBSan alone. TINYFLEET_NO_ASAN=1 does the same.
"""

import os
import sys
from pathlib import Path

import pytest

from agent import cbuild

HERE = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if _wants_asan(config):
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.stop_global_capturing()
        os.environ["LD_PRELOAD"] = str(cbuild.asan_runtime())
        os.environ["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1:handle_segv=0"
        # Captured file descriptors would swallow the sanitizer's report, the last thing such a process says.
        arguments = ["--capture=sys", *config.invocation_params.args]
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


def pytest_configure(config: pytest.Config) -> None:
    """What tests start (compilers, emulators, brokers) runs without it; workers of a parallel run still need it."""
    starts_workers = bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")
    if cbuild.asan_is_loaded() and not starts_workers:
        for name in cbuild.SANITIZER_VARIABLES:
            os.environ.pop(name, None)


def _wants_asan(config: pytest.Config) -> bool:
    if hasattr(config, "workerinput") or os.environ.get("TINYFLEET_NO_ASAN") or "LD_PRELOAD" in os.environ:
        return False
    paths = [Path(str(argument).split("::")[0]).resolve() for argument in config.args]
    ours = bool(paths) and all(path == HERE or HERE in path.parents for path in paths)
    return ours and not cbuild.asan_is_loaded() and cbuild.asan_runtime() is not None
