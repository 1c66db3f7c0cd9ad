"""Which compiler this process has: two that differ may make different images of one version."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import tinyfleet_compiler

SHOWN = 12


@lru_cache(maxsize=1)
def compiler_version() -> str:
    """Version and digest of the compiler's files, `0.1.0+3fa94c0d12ab`: a checkout may be ahead of its version."""
    folder = Path(str(tinyfleet_compiler.__file__)).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"{version('tinyfleet')}+{digest.hexdigest()[:SHOWN]}"
