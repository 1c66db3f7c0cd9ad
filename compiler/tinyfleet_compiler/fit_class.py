"""Whether a compiled model fits a device class."""

from typing import Any

from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.device_class import DeviceClass


def fit(compiled: Compiled, device: DeviceClass) -> dict[str, Any]:
    """Whether image and arena fit the class, and every reason why not."""
    image_bytes, arena = len(compiled.data), compiled.plan.arena_bytes
    inputs = sum(t.size_bytes for t in compiled.image.inputs)
    # Active model and candidate take turns in one arena, each with its own state; the input must outlive the first.
    shadow = arena + inputs + 2 * compiled.image.state_bytes
    reasons = []
    if image_bytes > device.flash_slot_bytes:
        reasons.append(f"the image has {image_bytes} bytes, a slot of {device.name} {device.flash_slot_bytes}")
    if arena > device.arena_bytes:
        reasons.append(f"the arena needs {arena} bytes, {device.name} has {device.arena_bytes}")
    return {
        "flash": image_bytes <= device.flash_slot_bytes,
        "arena": arena <= device.arena_bytes,
        "shadow": shadow <= device.arena_bytes,
        "shadow_bytes": shadow,
        "flash_slot_bytes": device.flash_slot_bytes,
        "class_arena_bytes": device.arena_bytes,
        "reasons": reasons,
    }
