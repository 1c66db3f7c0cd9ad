"""Builds: one version compiled for one device class. The table is the truth; builders lease its rows."""

from tinyfleet_service.builds.compile import CompileJob, CompileOutcome, compile_job
from tinyfleet_service.builds.files import REPORT_POLICY, read_image, read_report
from tinyfleet_service.builds.notes import Note, read_notes, store_notes
from tinyfleet_service.builds.push import push_version, queue_for_class
from tinyfleet_service.builds.push_firmware import StoredImage, push_firmware
from tinyfleet_service.builds.queue import cancel_build, finish_build, give_back, lease_build, renew_builds, retry_build
from tinyfleet_service.builds.sign import (
    load_release_signer,
    sign_waiting,
    take_signature,
    waiting_builds,
    waiting_manifests,
    withdraw_revoked,
)
from tinyfleet_service.builds.view import find_build, list_builds

__all__ = [
    "REPORT_POLICY",
    "CompileJob",
    "CompileOutcome",
    "Note",
    "StoredImage",
    "cancel_build",
    "compile_job",
    "find_build",
    "finish_build",
    "give_back",
    "lease_build",
    "list_builds",
    "load_release_signer",
    "push_firmware",
    "push_version",
    "queue_for_class",
    "read_image",
    "read_notes",
    "read_report",
    "renew_builds",
    "retry_build",
    "sign_waiting",
    "store_notes",
    "take_signature",
    "waiting_builds",
    "waiting_manifests",
    "withdraw_revoked",
]
