"""What was built and not used for long leaves the cache; what is used stays."""

import os
import time
from pathlib import Path

import pytest

from agent import cbuild


def age(path: Path) -> Path:
    """As if last used before the limit."""
    long_ago = time.time() - cbuild.KEPT_S - 3600
    os.utime(path, (long_ago, long_ago))
    return path


def test_what_nobody_used_goes_and_what_is_used_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [cbuild.RUNTIME / "crc32.c"]
    monkeypatch.setenv("TINYFLEET_CACHE", str(tmp_path / "first"))
    used = cbuild.plain_library("crc", sources)
    for path in used.parent.iterdir():
        age(path)
    assert cbuild.plain_library("crc", sources) == used
    (tmp_path / "again").symlink_to(tmp_path / "first")  # another process begins
    monkeypatch.setenv("TINYFLEET_CACHE", str(tmp_path / "again"))
    assert cbuild.plain_library("crc", sources).name == used.name
    left = {path.name for path in used.parent.iterdir()}
    assert used.name in left
    assert not [name for name in left if name.endswith(".o")]
