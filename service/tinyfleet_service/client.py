"""Talking to a service: `Fleet` for notebooks and CI, `Client` with a method per route for everything else."""

from tinyfleet_service.api_client import Client
from tinyfleet_service.fleet import Fleet

__all__ = ["Client", "Fleet"]
