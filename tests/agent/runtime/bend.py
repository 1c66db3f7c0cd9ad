"""Images of one op with a record bent: what open must refuse, and what runs safely when it does not."""

import struct

import numpy as np
import pytest

from agent.runtime.images import ImageBuilder, seal
from agent.runtime.rig import Model
from tinyfleet_compiler import ImageError, layout
from tinyfleet_compiler.image import read_image

_FORMATS = {
    "uint32_t": "<I",
    "int32_t": "<i",
    "uint16_t": "<H",
    "int16_t": "<h",
    "uint8_t": "<B",
    "int8_t": "<b",
    "float": "<f",
}


def bent(builder: ImageBuilder, name: str, value: float, index: int = 0) -> bytes:
    """The builder's first op with one field (element `index` of it) changed; -1: just past the end of the image."""
    image = bytearray(builder.build())
    at = layout.HEADER.unpack(bytes(image))["ops_offset"]
    offset, field = next((o, f) for o, f in builder.ops[0].record.offsets() if f.name == name)
    if field.ctype == "uint32_t" and value == -1:
        value = len(image) - 3
    form = _FORMATS[field.ctype]
    struct.pack_into(form, image, at + offset + index * struct.calcsize(form), value)
    return seal(bytes(image))


def assert_refused(builder: ImageBuilder, name: str, value: float, index: int = 0) -> None:
    """Neither the C runtime nor the compiler's reader takes the bent image."""
    image = bent(builder, name, value, index)
    assert Model(image).status == "LAYOUT"
    if not name.endswith(("shift", "shifts")) and not name.startswith("activation"):  # harmless to the simulator
        with pytest.raises(ImageError):
            read_image(image)


def assert_safe(image: bytes, changes: list[tuple[int, int]]) -> None:
    """Bytes of the op records overwritten: refused, or runs inside image and arena (sanitizers watch)."""
    header, data = layout.HEADER.unpack(image), bytearray(image)
    for position, value in changes:
        data[header["ops_offset"] + position % header["ops_bytes"]] = value
    model = Model(seal(bytes(data)))
    if model.status == "OK":
        model.run(np.arange(model.info.arena_bytes, dtype=np.int8)[: header_input(image)])


def header_input(image: bytes) -> int:
    """Bytes of the first input."""
    return int(layout.IO.unpack(image, layout.HEADER.unpack(image)["io_offset"])["size_bytes"])
