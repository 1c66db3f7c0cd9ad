"""The audit log: who changed what, when, one hash-chained log a project. README.md says what it proves."""

from tinyfleet_service.audit.chain import START, check_entries, entry_digest
from tinyfleet_service.audit.read import entry_document, newest_entries, read_entries
from tinyfleet_service.audit.record import Act, append_status, name_actor, note_rows, perform

__all__ = [
    "START",
    "Act",
    "append_status",
    "check_entries",
    "entry_digest",
    "entry_document",
    "name_actor",
    "newest_entries",
    "note_rows",
    "perform",
    "read_entries",
]
