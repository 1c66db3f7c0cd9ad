"""What the processes of `serve` are forks of: importing this imports everything that they need."""

from tinyfleet_service.serve.processes import load_all

load_all()
