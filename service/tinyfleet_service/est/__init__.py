"""Enrolment over Secure Transport (RFC 7030): how devices get certificates."""

from tinyfleet_service.est.server import EstServer, run

__all__ = ["EstServer", "run"]
