"""The MQTT broker: certificates (`pki`), configuration, child process."""

from tinyfleet_service.broker.child import find_program, reload, start, stop
from tinyfleet_service.broker.files import write_private
from tinyfleet_service.broker.pki import Pki, TlsFiles

__all__ = ["Pki", "TlsFiles", "find_program", "reload", "start", "stop", "write_private"]
