"""An operator's work on one installation: look it over, back it up, bring it back."""

from tinyfleet_service.maintenance.backup import backup
from tinyfleet_service.maintenance.doctor import Finding, examine
from tinyfleet_service.maintenance.restore import restore

__all__ = ["Finding", "backup", "examine", "restore"]
