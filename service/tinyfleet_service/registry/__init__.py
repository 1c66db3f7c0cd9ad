"""Models, their immutable versions, and the device classes a project builds for."""

from tinyfleet_service.registry.device_classes import add_device_class, device_class_toml, ensure_device_classes
from tinyfleet_service.registry.uploads import Uploads, check_uploads
from tinyfleet_service.registry.versions import NewVersion, get_model, get_version, list_models, register_version

__all__ = [
    "NewVersion",
    "Uploads",
    "add_device_class",
    "check_uploads",
    "device_class_toml",
    "ensure_device_classes",
    "get_model",
    "get_version",
    "list_models",
    "register_version",
]
