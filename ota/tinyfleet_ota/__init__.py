"""Signed, delta-packed updates: bytes in, bytes out. See ota/README.md and ota/SPEC.md."""

from tinyfleet_ota.assignment import Assignment, AssignmentEntry, make_assignment, parse_assignment
from tinyfleet_ota.command import Command, make_command, parse_command
from tinyfleet_ota.delta import Transfer, apply_delta, choose_transfer, make_delta, patch_info
from tinyfleet_ota.describe import describe_message
from tinyfleet_ota.encryption import SealedBlob, decrypt_blob, encrypt_blob, unwrap_key, wrap_key
from tinyfleet_ota.errors import (
    DeltaError,
    EncryptionError,
    KeyFileError,
    OtaError,
    ProtocolError,
    ReleaseError,
    RootError,
    SignatureError,
)
from tinyfleet_ota.keys import Algorithm, algorithm_of, key_id
from tinyfleet_ota.pkcs11 import Pkcs11Key, Pkcs11Signer, generate_pkcs11
from tinyfleet_ota.release import (
    Release,
    draft_of,
    draft_release,
    make_release,
    manifest_id,
    parse_release,
    read_draft,
    read_release,
    sign_release,
)
from tinyfleet_ota.roots import (
    Root,
    draft_root,
    join_signatures,
    make_root,
    missing_signatures,
    parse_root,
    read_root,
    sign_root,
)
from tinyfleet_ota.signers import FileSigner, Signer
from tinyfleet_ota.suit_profile import class_id

__all__ = [
    "Algorithm",
    "Assignment",
    "AssignmentEntry",
    "Command",
    "DeltaError",
    "EncryptionError",
    "FileSigner",
    "KeyFileError",
    "OtaError",
    "Pkcs11Key",
    "Pkcs11Signer",
    "ProtocolError",
    "Release",
    "ReleaseError",
    "Root",
    "RootError",
    "SealedBlob",
    "SignatureError",
    "Signer",
    "Transfer",
    "algorithm_of",
    "apply_delta",
    "choose_transfer",
    "class_id",
    "decrypt_blob",
    "describe_message",
    "draft_of",
    "draft_release",
    "draft_root",
    "encrypt_blob",
    "generate_pkcs11",
    "join_signatures",
    "key_id",
    "make_assignment",
    "make_command",
    "make_delta",
    "make_release",
    "make_root",
    "manifest_id",
    "missing_signatures",
    "parse_assignment",
    "parse_command",
    "parse_release",
    "parse_root",
    "patch_info",
    "read_draft",
    "read_release",
    "read_root",
    "sign_release",
    "sign_root",
    "unwrap_key",
    "wrap_key",
]
