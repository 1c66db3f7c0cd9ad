"""One compile in a worker process: files in, plain picklable data out; no database, no key."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinyfleet_compiler import CompilerError, CompileResult, DeviceClass, compile_model
from tinyfleet_service.builds.notes import Note, noting
from tinyfleet_service.database.blobs import BlobStore
from tinyfleet_service.database.models import BuildState
from tinyfleet_service.errors import InvalidInputError
from tinyfleet_service.registry.build_options import read_build_options

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompileJob:
    """What a worker needs; `model`, `calibration` and `evaluation` are digests of blobs in `store`."""

    build_id: int
    store: BlobStore
    model: str
    file_name: str
    device_class_toml: str
    name: str
    version: str
    calibration: str | None = None
    evaluation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """`BuildOptions` as JSON."""


@dataclass(frozen=True)
class CompileOutcome:
    """What became of it: AWAITING_SIGNATURE with an image, MISFIT or FAILED with `error`."""

    state: BuildState
    error: str = ""
    image: bytes = b""
    report: dict[str, Any] = field(default_factory=dict)
    report_html: str = ""
    sections: list[dict[str, Any]] = field(default_factory=list)
    abi: int | None = None


def compile_job(job: CompileJob, note: Note = lambda _: None) -> CompileOutcome:
    """Compile; every failure is an outcome with a message for the person who pushed, never an exception.

    What the compiler says on its way goes to `note`.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="tinyfleet-build-") as folder, noting(note):
            return _compile(job, Path(folder))
    except (CompilerError, InvalidInputError) as error:
        return CompileOutcome(BuildState.FAILED, error=str(error))
    except MemoryError:
        return CompileOutcome(BuildState.FAILED, error="the compiler ran out of memory; use a smaller model or machine")
    except Exception as error:
        _log.exception("build %d failed inside the compiler", job.build_id)
        return CompileOutcome(
            BuildState.FAILED, error=f"internal error, please report: {type(error).__name__}: {error}"
        )


def _compile(job: CompileJob, folder: Path) -> CompileOutcome:
    device_class, options = DeviceClass.from_toml(job.device_class_toml), read_build_options(job.options)
    result = compile_model(
        _placed(job, job.model, folder / f"model{Path(job.file_name).suffix.lower()}"),
        device_class,
        name=job.name,
        version=job.version,
        calibration=_placed(job, job.calibration, folder / "calibration.npz") if job.calibration else None,
        evaluation=_placed(job, job.evaluation, folder / "evaluation.npz") if job.evaluation else None,
        metric=options.metric,
        options=options.compile_options(),
    )
    reasons = _misfits(result.report)
    state = BuildState.MISFIT if reasons else BuildState.AWAITING_SIGNATURE
    return CompileOutcome(
        state,
        error="; ".join(reasons),
        image=result.image,
        report=result.report,
        report_html=result.report_html,
        sections=_plain_sections(result),
        abi=device_class.abi,
    )


def _plain_sections(result: CompileResult) -> list[dict[str, Any]]:
    """Sections as JSON-able data; enum members become their numbers."""
    return [
        {key: int(value) if isinstance(value, int) else str(value) for key, value in asdict(section).items()}
        for section in result.sections
    ]


def _misfits(report: dict[str, Any]) -> list[str]:
    """Reasons why the image may not go to devices of the class; shadow mode is optional."""
    fits = report["fits"]
    return [] if fits["flash"] and fits["arena"] else [str(reason) for reason in fits["reasons"]]


def _placed(job: CompileJob, digest: str, target: Path) -> Path:
    """The blob under a name with the suffix that importers go by, in a folder without anything else."""
    job.store.place(digest, target)
    return target
