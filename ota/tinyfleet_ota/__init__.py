"""Signed, delta-packed updates: bytes in, bytes out. See ota/README.md and ota/SPEC.md."""

from tinyfleet_ota.assignment import Assignment, AssignmentEntry, make_assignment, parse_assignment
from tinyfleet_ota.delta import Transfer, apply_delta, choose_transfer, make_delta, patch_info
from tinyfleet_ota.describe import describe_message
from tinyfleet_ota.errors import (
    DeltaError,
    KeyFileError,
    OtaError,
    ProtocolError,
    ReleaseError,
    RootError,
    SignatureError,
)
from tinyfleet_ota.keys import Algorithm, algorithm_of, key_id
from tinyfleet_ota.release import Release, make_release, manifest_id, parse_release
from tinyfleet_ota.roots import Root, make_root, parse_root
from tinyfleet_ota.signers import FileSigner, Signer
from tinyfleet_ota.suit_profile import class_id

__all__ = [
    "Algorithm",
    "Assignment",
    "AssignmentEntry",
    "DeltaError",
    "FileSigner",
    "KeyFileError",
    "OtaError",
    "ProtocolError",
    "Release",
    "ReleaseError",
    "Root",
    "RootError",
    "SignatureError",
    "Signer",
    "Transfer",
    "algorithm_of",
    "apply_delta",
    "choose_transfer",
    "class_id",
    "describe_message",
    "key_id",
    "make_assignment",
    "make_delta",
    "make_release",
    "make_root",
    "manifest_id",
    "parse_assignment",
    "parse_release",
    "parse_root",
    "patch_info",
]
