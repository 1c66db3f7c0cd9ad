"""The MQTT broker: certificates (`pki`), configuration, child process."""

from tinyfleet_service.broker.child import address, find_program, reload, start, stop
from tinyfleet_service.broker.files import write_private
from tinyfleet_service.broker.pki import Pki, TlsFiles

__all__ = ["Pki", "TlsFiles", "address", "find_program", "reload", "start", "stop", "write_private"]
