"""`fleetctl serve`: prepares the data directory, then starts the processes and keeps them running.

run(settings)              supervise everything until SIGTERM or SIGINT
run_process(name, settings)    one process alone; `NAMES` lists them
"""

from tinyfleet_service.serve.processes import NAMES, run_process
from tinyfleet_service.serve.supervisor import run

__all__ = ["NAMES", "run", "run_process"]
