"""The controller: reads `state`, ticks rollouts, publishes. The only holder of the director key."""

from tinyfleet_service.controller.process import Controller, run

__all__ = ["Controller", "run"]
