"""What the processes of `serve` are forks of: importing this imports everything that they need."""

import gc

from tinyfleet_service.serve import first_start
from tinyfleet_service.serve.processes import load_all

__all__ = ["first_start"]

load_all()
gc.freeze()  # no collection ever writes to these pages, which the forks share
