"""`fleetctl serve`: prepares the data directory, then starts the processes and keeps them running.

run(settings)              supervise everything until SIGTERM or SIGINT
run_process(name, settings)    one process alone; `NAMES` lists them
"""

from tinyfleet_service.serve.processes import NAMES, run_process
from tinyfleet_service.settings import Settings

__all__ = ["NAMES", "run", "run_process"]


def run(settings: Settings) -> None:
    """Supervise until SIGTERM or SIGINT. Raises StartError, SettingsError, StorageError when it cannot start."""
    from tinyfleet_service.serve.supervisor import run as supervise  # migrates and signs: children need none of that

    supervise(settings)
