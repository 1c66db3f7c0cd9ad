"""The builder process: leases builds and compiles them in a pool of processes."""

from tinyfleet_service.builder.process import run

__all__ = ["run"]
