"""Reads a model image: header, operators, sections, metadata, golden record. Layout: SPEC.md."""

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.check_cascades import first_rows, wrong_link, wrong_span
from tinyfleet_compiler.check_features import wrong_features_table
from tinyfleet_compiler.check_float import wrong_float_table
from tinyfleet_compiler.check_moves import wrong_table
from tinyfleet_compiler.check_ops import wrong_op
from tinyfleet_compiler.check_state import wrong_state
from tinyfleet_compiler.errors import ImageError
from tinyfleet_compiler.operators import (
    CODE_RANGES,
    ELEMENT_BYTES,
    OPERATORS,
    Element,
    OpCode,
    Packing,
    SectionKind,
    SourceLayout,
    row_bytes,
)
from tinyfleet_compiler.rows import Columns, ImageCascade, RowLink

MAX_ARENA_BYTES = 1 << 30
ELEMENT_TYPES: dict[Element, str] = {
    Element.INT8: "<i1",
    Element.INT16: "<i2",
    Element.INT32: "<i4",
    Element.FLOAT32: "<f4",
}


@dataclass(frozen=True)
class Section:
    """One section: offsets in bytes from the start of the image, `size` in bytes."""

    kind: SectionKind
    offset: int
    size: int
    element: Element
    rows: int
    row_length: int
    packing: Packing


@dataclass(frozen=True)
class ImageTensor:
    """One model input or output as the device sees it; `shape` without batch, channels last."""

    name: str
    offset: int
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    source_layout: SourceLayout
    element: Element = Element.INT8

    @property
    def size_bytes(self) -> int:
        """Bytes in the arena."""
        return int(np.prod(self.shape)) * ELEMENT_BYTES[self.element]

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of its elements."""
        return np.dtype(ELEMENT_TYPES[self.element])

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape in the model file's layout."""
        if self.source_layout is SourceLayout.CHANNELS_FIRST:
            return (self.shape[-1], *self.shape[:-1])
        return self.shape


@dataclass(frozen=True)
class ImageState:
    """One variable of the model state: its place in the state buffer and what it holds before the first inference."""

    name: str
    offset: int
    size_bytes: int
    element: Element
    fill: int
    data: int
    """Image offset of initial bytes, NO_OFFSET without."""


@dataclass(frozen=True)
class ImageOp:
    """One op record, its fields by name."""

    code: OpCode
    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Golden:
    """PRNG seed of each vector's inputs, and one CRC-32 over every op's output, vector after vector."""

    seeds: tuple[int, ...]
    crc32: int


@dataclass(frozen=True, eq=False)
class Image:
    """A whole image, structure checked."""

    data: bytes
    header: dict[str, Any]
    ops: tuple[ImageOp, ...]
    sections: tuple[Section, ...]
    inputs: tuple[ImageTensor, ...]
    outputs: tuple[ImageTensor, ...]
    golden: Golden
    name: str
    version: str
    labels: tuple[str, ...]
    cascades: tuple[ImageCascade, ...] = ()
    """Runs of ops that run row by row, in execution order."""
    states: tuple[ImageState, ...] = ()

    @property
    def device_class(self) -> str:
        """Name of the device class the image was compiled for."""
        return str(self.header["device_class"].rstrip(b"\0").decode("ascii"))

    @property
    def arena_bytes(self) -> int:
        """Arena the image needs."""
        return int(self.header["arena_bytes"])

    @property
    def state_bytes(self) -> int:
        """State buffer the image needs."""
        return int(self.header["state_bytes"])

    @cached_property
    def initial_state(self) -> npt.NDArray[np.int8]:
        """(state_bytes,) int8: the state buffer before the first inference."""
        buffer = np.zeros(self.state_bytes, np.int8)
        for state in self.states:
            part = buffer[state.offset : state.offset + state.size_bytes]
            if state.data != layout.NO_OFFSET:
                part[:] = self.array(state.data, state.size_bytes, Element.INT8)
            else:
                part.view(ELEMENT_TYPES[state.element])[:] = state.fill
        return buffer

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Output scale of every op, () when the image does not keep them."""
        found = [s for s in self.sections if s.kind is SectionKind.SCALES]
        return tuple(float(v) for v in self.section_array(found[0]).reshape(-1)) if found else ()

    def section_array(self, section: Section) -> npt.NDArray[Any]:
        """Contents of a section as (rows, row_length)."""
        if section.element is Element.INT4:
            return self.int4_rows(section.offset, section.rows, section.row_length)
        array = self.array(section.offset, section.rows * section.row_length, section.element)
        return _rows(array, section.rows, section.packing)

    def array(self, offset: int, count: int, element: Element) -> npt.NDArray[Any]:
        """`count` elements at an image offset."""
        return np.frombuffer(self.data, dtype=ELEMENT_TYPES[element], count=count, offset=offset)

    def int4_rows(self, offset: int, rows: int, row_length: int) -> npt.NDArray[np.int8]:
        """Int4 weights as (rows, row_length) int8; every row begins with a byte, its low half first."""
        width = row_bytes(Element.INT4, row_length)
        packed = self.array(offset, rows * width, Element.INT8).reshape(rows, width)
        # Up and arithmetically down again extends the sign of a half.
        halves = np.stack([(packed << 4) >> 4, packed >> 4], axis=2)
        return np.ascontiguousarray(halves.reshape(rows, -1)[:, :row_length], dtype=np.int8)

    def weight_rows(self, op: ImageOp, rows: int, row_length: int) -> npt.NDArray[np.int8]:
        """Weights of a layer as (rows, row_length) int8, whatever they are stored as."""
        if OPERATORS[op.code].weight_element is Element.INT4:
            return self.int4_rows(op.weights, rows, row_length)
        return _rows(self.array(op.weights, rows * row_length, Element.INT8), rows, op.packing)

    def channels(self, op: ImageOp, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """(biases, multipliers, shifts) of a weighted op with `count` output channels."""
        h, first = self.header, op.channel
        return (
            self.array(h["biases_offset"] + 4 * first, count, Element.INT32),
            self.array(h["multipliers_offset"] + 4 * first, count, Element.INT32),
            self.array(h["shifts_offset"] + first, count, Element.INT8),
        )


def _rows(array: npt.NDArray[Any], rows: int, packing: int) -> npt.NDArray[Any]:
    """Stored elements as (rows, row_length)."""
    return array.reshape(-1, rows).T if packing == Packing.CHANNELS_LAST else array.reshape(rows, -1)


def read_image(data: bytes, *, check_crc: bool = True) -> Image:
    """Parse and check an image (SPEC.md section 9 and the CRC). Raises `ImageError` naming what is wrong."""
    try:
        return _read(bytes(data), check_crc)
    except (struct.error, UnicodeDecodeError, ValueError, KeyError, OverflowError) as error:
        raise ImageError(f"the image is damaged ({error}); fetch or compile it again") from error


def _read(data: bytes, check_crc: bool) -> Image:
    header = _read_header(data, check_crc)
    strings = _Strings(data, header)
    _check_channels(data, header)
    tensors = [_read_tensor(data, header, strings, i) for i in range(header["input_count"] + header["output_count"])]
    cascades = _read_cascades(data, header)
    ops = _read_ops(data, header, cascades)
    return Image(
        data=data,
        header=header,
        ops=ops,
        sections=tuple(_read_section(data, header, i) for i in range(header["section_count"])),
        inputs=tuple(tensors[: header["input_count"]]),
        outputs=tuple(tensors[header["input_count"] :]),
        golden=_read_golden(data, header),
        name=strings.at(header["name_offset"]),
        version=strings.at(header["version_offset"]),
        labels=strings.run(header["labels_offset"], header["label_count"]),
        cascades=cascades,
        states=_read_states(data, header, strings),
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ImageError(f"not a readable image: {what}; fetch or compile it again")


def _read_header(data: bytes, check_crc: bool) -> dict[str, Any]:
    _require(len(data) >= layout.HEADER.size, f"{len(data)} bytes are less than a header")
    h = layout.HEADER.unpack(data)
    _require(h["magic"] == layout.MAGIC, f"magic is {h['magic']:#x}")
    _require(h["format_version"] == layout.FORMAT_VERSION, f"format version {h['format_version']}")
    _require(h["header_bytes"] == layout.HEADER.size, f"header of {h['header_bytes']} bytes")
    _require(h["image_bytes"] == len(data), f"header says {h['image_bytes']} bytes, there are {len(data)}")
    _require(h["abi"] == layout.ABI, f"ABI {h['abi']}")
    _require(h["flags"] == 0, "unknown flags")
    if check_crc:
        _require(zlib.crc32(data[layout.CRC_START :]) == h["crc32"], "CRC mismatch")
    records, channels = h["input_count"] + h["output_count"], h["channel_count"]
    parts = (
        ("ops", h["ops_offset"], h["ops_bytes"]),
        ("cascades", h["cascades_offset"], h["cascades_bytes"]),
        ("section table", h["sections_offset"], h["section_count"] * layout.SECTION.size),
        ("io records", h["io_offset"], records * layout.IO.size),
        ("multipliers", h["multipliers_offset"], 4 * channels),
        ("shifts", h["shifts_offset"], channels),
        ("biases", h["biases_offset"], 4 * channels),
        ("golden record", h["golden_offset"], h["golden_bytes"]),
    )
    for name, offset, size in parts:
        _require(offset % 4 == 0 and offset + size <= len(data), f"{name} lies outside")
    _require(h["arena_bytes"] <= MAX_ARENA_BYTES, f"an arena of {h['arena_bytes']} bytes")
    _require(h["state_bytes"] <= MAX_ARENA_BYTES, f"a state of {h['state_bytes']} bytes")
    _require(h["op_count"] >= 1 and h["input_count"] >= 1 and h["output_count"] >= 1, "no ops, inputs or outputs")
    return h


def _check_channels(data: bytes, header: dict[str, Any]) -> None:
    count = header["channel_count"]
    if not count:
        return
    names = ("multipliers_offset", "shifts_offset", "biases_offset")
    _require(all(header[name] % layout.SECTION_ALIGN == 0 for name in names), "channels are misaligned")
    multipliers = np.frombuffer(data, "<i4", count, header["multipliers_offset"])
    shifts = np.frombuffer(data, "<i1", count, header["shifts_offset"])
    legal = (multipliers >= 0) & (shifts >= -31) & (shifts <= 30)
    _require(bool(legal.all()), "a channel has a negative multiplier or a wild shift")


class _Strings:
    def __init__(self, data: bytes, header: dict[str, Any]) -> None:
        self.start = header["strings_offset"]
        self.end = self.start + header["strings_bytes"]
        _require(self.end <= len(data) and self.end > self.start, "strings lie outside")
        _require(data[self.end - 1] == 0, "strings do not end")
        self.data = data

    def at(self, offset: int) -> str:
        _require(self.start <= offset < self.end, "a string lies outside")
        return self.data[offset : self.data.index(b"\0", offset)].decode("utf-8")

    def run(self, offset: int, count: int) -> tuple[str, ...]:
        _require(count <= self.end - self.start, "more labels than bytes")
        found = []
        for _ in range(count):
            found.append(self.at(offset))
            offset += len(found[-1].encode()) + 1
        return tuple(found)


def _read_tensor(data: bytes, header: dict[str, Any], strings: _Strings, index: int) -> ImageTensor:
    r = layout.IO.unpack(data, header["io_offset"] + index * layout.IO.size)
    element = Element(r["element"])
    _require(
        (element in CODE_RANGES or element in (Element.FLOAT32, Element.INT32)) and 1 <= r["rank"] <= 4,
        "an input or output has another type",
    )
    shape = tuple(r["dims"][: r["rank"]])
    size = int(np.prod([float(d) for d in shape])) * ELEMENT_BYTES[element]
    _require(size == r["size_bytes"] and size > 0, f"a tensor of shape {shape} says {r['size_bytes']} bytes")
    _require(r["arena_offset"] + size <= header["arena_bytes"], "an input or output lies outside the arena")
    _require(r["arena_offset"] % ELEMENT_BYTES[element] == 0, "an input or output is misaligned")
    low, high = CODE_RANGES.get(element, (0, 0))
    _require(np.isfinite(r["scale"]) and r["scale"] > 0 and low <= r["zero_point"] <= high, "bad quantisation")
    name, source = strings.at(r["name_offset"]), SourceLayout(r["source_layout"])
    return ImageTensor(name, r["arena_offset"], shape, r["scale"], r["zero_point"], source, element)


def _read_states(data: bytes, header: dict[str, Any], strings: _Strings) -> tuple[ImageState, ...]:
    """The state table, which follows the golden record where the image has state."""
    if not header["state_bytes"]:
        return ()
    at = header["golden_offset"] + header["golden_bytes"]
    count, at = layout.STATES.unpack(data, at)["count"], at + layout.STATES.size
    _require(count > 0 and at + count * layout.STATE.size <= len(data), f"a state table of {count} entries")
    records = [layout.STATE.unpack(data, at + index * layout.STATE.size) for index in range(count)]
    for index, r in enumerate(records):
        reason = wrong_state(r, header, len(data))
        _require(not reason, f"state {index}: {reason}")
    return tuple(
        ImageState(
            strings.at(r["name_offset"]),
            r["state_offset"],
            r["size_bytes"],
            Element(r["element"]),
            r["fill"],
            r["data"],
        )
        for r in records
    )


def _read_section(data: bytes, header: dict[str, Any], index: int) -> Section:
    r = layout.SECTION.unpack(data, header["sections_offset"] + index * layout.SECTION.size)
    element = Element(r["element"])
    size = r["rows"] * row_bytes(element, r["row_length"])
    _require(
        r["offset"] % layout.SECTION_ALIGN == 0 and r["offset"] + size <= len(data), f"section {index} lies outside"
    )
    kind, packing = SectionKind(r["kind"]), Packing(r["packing"])
    return Section(kind, r["offset"], size, element, r["rows"], r["row_length"], packing)


def _read_cascades(data: bytes, header: dict[str, Any]) -> tuple[ImageCascade, ...]:
    found: list[ImageCascade] = []
    at, end, behind = header["cascades_offset"], header["cascades_offset"] + header["cascades_bytes"], 0
    while at < end:
        head = layout.CASCADE.unpack(data, at)
        count, strips = head["op_count"], head["strips"]
        reason = wrong_span(head["first_op"], count, behind, header["op_count"], strips)
        _require(not reason, reason)
        at += layout.CASCADE.size
        links = tuple(RowLink(**layout.ROW_LINK.unpack(data, at + i * layout.ROW_LINK.size)) for i in range(count))
        at += count * layout.ROW_LINK.size
        table = [tuple(Columns(0, link.width) for link in links)]
        if strips > 1:
            table = [_read_strip(data, at + i * count * layout.STRIP.size, count) for i in range(strips)]
            at += strips * count * layout.STRIP.size
        found.append(ImageCascade(head["first_op"], links, head["workspace"], head["gather_bytes"], tuple(table)))
        inside = found[-1].workspace + found[-1].workspace_bytes <= header["arena_bytes"]
        even = found[-1].workspace % layout.ARENA_ALIGN == 0 == head["gather_bytes"] % layout.ARENA_ALIGN
        _require(inside and even, "a cascade's workspace lies outside the arena")
        behind = head["first_op"] + count
    _require(at == end, "cascades end elsewhere than the header says")
    return tuple(found)


def _read_strip(data: bytes, at: int, count: int) -> tuple[Columns, ...]:
    return tuple(Columns(**layout.STRIP.unpack(data, at + i * layout.STRIP.size)) for i in range(count))


def _read_ops(data: bytes, header: dict[str, Any], cascades: tuple[ImageCascade, ...]) -> tuple[ImageOp, ...]:
    ops = []
    places = {c.first + member: (c, member) for c in cascades for member in range(len(c.links))}
    at, end = header["ops_offset"], header["ops_offset"] + header["ops_bytes"]
    _require(header["op_count"] * layout.RECORDS["op"].size <= header["ops_bytes"], "more ops than bytes")
    for index in range(header["op_count"]):
        code = OpCode(layout.RECORDS["op"].unpack(data, at)["code"])
        record = layout.RECORDS[OPERATORS[code].record]
        fields = record.unpack(data, at)
        _require(fields["record_bytes"] == record.size and at + record.size <= end, f"op {index} has a wrong size")
        reason, checked = "", [fields]
        if index in places:
            reason = wrong_link(code, fields, *places[index], header["arena_bytes"])
            checked = [] if reason else first_rows(code, fields, *places[index])
        reason = reason or next(filter(None, (wrong_op(code, f, header, len(data)) for f in checked)), "")
        reason = reason or wrong_table(code, fields, data) or wrong_features_table(code, fields, data)
        reason = reason or wrong_float_table(code, fields, data)
        _require(not reason, f"op {index}: {reason}")
        ops.append(ImageOp(code, fields))
        at += record.size
    _require(at == end, "bytes are left after the last op")
    return tuple(ops)


def _read_golden(data: bytes, header: dict[str, Any]) -> Golden:
    head = layout.GOLDEN.unpack(data, header["golden_offset"])
    size = layout.GOLDEN.size + head["vector_count"] * layout.GOLDEN_SEED_BYTES
    _require(size == header["golden_bytes"] <= layout.GOLDEN_MAX_BYTES, "golden record of another size")
    _require(head["op_count"] == header["op_count"], "golden record of another model")
    start = header["golden_offset"] + layout.GOLDEN.size
    return Golden(struct.unpack_from(f"<{head['vector_count']}I", data, start), head["crc32"])
