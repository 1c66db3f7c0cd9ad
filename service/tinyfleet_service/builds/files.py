"""What a finished build left in the blob store: its image, and its report as a page."""

from __future__ import annotations

from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.models import Build
from tinyfleet_service.errors import StateConflictError

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
)
"""Content-Security-Policy: the report is one file with its own styles and scripts; it gets them and nothing else."""


def read_image(store: BlobStore, build: Build) -> bytes:
    """The model image. Raises StateConflictError before the build is done."""
    return _read(store, build, build.image_sha256)


def read_report(store: BlobStore, build: Build) -> bytes:
    """The report, HTML. Raises StateConflictError before the build is done."""
    return _read(store, build, build.report_html_sha256)


def _read(store: BlobStore, build: Build, digest: str | None) -> bytes:
    if digest is None:
        raise StateConflictError(
            f"build {build.id} is {build.state} and has none",
            next="wait for the build" if build.state in ("queued", "running") else "see its error",
            state=build.state,
        )
    return store.get(digest)
