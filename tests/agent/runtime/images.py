"""Model images by hand, from the tables of compiler/SPEC.md: what the compiler would write, and what it never would."""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyfleet_compiler import layout
from tinyfleet_compiler.image import Golden
from tinyfleet_compiler.operators import ELEMENT_BYTES, OPERATORS, Element, OpCode, SectionKind

BASE = {
    "flags": 0,
    "packing": 0,
    "input": 0,
    "output": 0,
    "scratch": layout.NO_OFFSET,
    "scratch_bytes": 0,
    "overlap_bytes": layout.NO_OVERLAP,
    "input_zero_point": 0,
    "output_zero_point": 0,
    "activation_min": -128,
    "activation_max": 127,
}
BASE_F32 = {"activation_min": -np.inf, "activation_max": np.inf, "alpha": 0.0, "beta": 0.0}
_ELEMENTS = {"int8": Element.INT8, "int16": Element.INT16, "int32": Element.INT32, "float32": Element.FLOAT32}


@dataclass
class Channels:
    """Multipliers, shifts and biases of one weighted op."""

    multipliers: np.ndarray
    shifts: np.ndarray
    biases: np.ndarray


@dataclass
class Op:
    code: OpCode
    values: dict[str, Any]
    weights: np.ndarray | None = None
    channels: Channels | None = None
    constant: np.ndarray | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        return BASE | (BASE_F32 if OPERATORS[self.code].element is Element.FLOAT32 else {})

    @property
    def record(self) -> layout.Record:
        return layout.RECORDS[OPERATORS[self.code].record]


@dataclass
class Io:
    offset: int
    dims: tuple[int, ...]
    scale: float = 0.5
    zero_point: int = 0
    name: str = "t"
    element: Element = Element.INT8

    @property
    def size(self) -> int:
        return int(np.prod(self.dims)) * ELEMENT_BYTES[self.element]


@dataclass
class ImageBuilder:
    arena_bytes: int
    inputs: list[Io]
    outputs: list[Io]
    ops: list[Op]
    labels: tuple[str, ...] = ()
    name: str = "hand"
    version: str = "v1"
    golden: Golden = field(default_factory=lambda: Golden((1,), 0))
    states: tuple[dict[str, Any], ...] = ()  # entries of the state table, names left out
    header: dict[str, Any] = field(default_factory=dict)  # overrides

    def build(self) -> bytes:
        io = [*self.inputs, *self.outputs]
        io_at = layout.HEADER.size
        ops_at = io_at + len(io) * layout.IO.size
        ops_bytes = sum(op.record.size for op in self.ops)
        parts = self._section_parts()
        sections_at = ops_at + ops_bytes
        golden_at = sections_at + len(parts) * layout.SECTION.size
        golden = self._golden()
        states_at = golden_at + len(golden)
        strings_at = states_at + len(self._states(0))
        strings, places = self._strings([value.name for value in io], strings_at)
        at = _align(strings_at + len(strings))
        table, blob = self._place(parts, at)
        records = b"".join(self._io(value, places[2 + i]) for i, value in enumerate(io))
        records += self._op_records(parts, table)
        body = records + b"".join(layout.SECTION.pack(entry) for entry in table) + golden
        body += self._states(places[0]) + strings
        body += b"\0" * (at - layout.HEADER.size - len(body)) + blob
        where = {kind: entry["offset"] for kind, entry in ((e["kind"], e) for e in reversed(table))}
        head = {
            "magic": layout.MAGIC,
            "crc32": 0,
            "format_version": layout.FORMAT_VERSION,
            "header_bytes": layout.HEADER.size,
            "image_bytes": layout.HEADER.size + len(body),
            "abi": layout.ABI,
            "kernel_set": layout.KERNEL_SET_PORTABLE,
            "kernel_set_version": layout.KERNEL_SET_VERSION,
            "flags": 0,
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": 0,
            "state_bytes": sum(-(-int(entry["size_bytes"]) // 4) * 4 for entry in self.states) & 0xFFFFFFFF,
            "op_count": len(self.ops),
            "ops_offset": ops_at,
            "ops_bytes": ops_bytes,
            "section_count": len(parts),
            "sections_offset": sections_at,
            "input_count": len(self.inputs),
            "output_count": len(self.outputs),
            "io_offset": io_at,
            "channel_count": sum(len(op.channels.biases) for op in self.ops if op.channels),
            "multipliers_offset": where.get(SectionKind.MULTIPLIERS, 0),
            "shifts_offset": where.get(SectionKind.SHIFTS, 0),
            "biases_offset": where.get(SectionKind.BIASES, 0),
            "golden_offset": golden_at,
            "golden_bytes": len(golden),
            "strings_offset": strings_at,
            "strings_bytes": len(strings),
            "name_offset": places[0],
            "version_offset": places[1],
            "labels_offset": places[2 + len(io)] if self.labels else strings_at,
            "label_count": len(self.labels),
            "device_class": b"host",
            "cascades_offset": 0,
            "cascades_bytes": 0,
        }
        return seal(layout.HEADER.pack(head | self.header) + body)

    def _states(self, name: int) -> bytes:
        entries = [layout.STATE.pack({"name_offset": name} | entry) for entry in self.states]
        return layout.STATES.pack({"count": len(entries)}) + b"".join(entries) if entries else b""

    def _golden(self) -> bytes:
        seeds, crc32 = self.golden.seeds, self.golden.crc32
        head = layout.GOLDEN.pack({"vector_count": len(seeds), "op_count": len(self.ops), "crc32": crc32})
        return head + struct.pack(f"<{len(seeds)}I", *seeds)

    def _strings(self, io_names: list[str], start: int) -> tuple[bytes, list[int]]:
        blob, places = b"", []
        for text in (self.name, self.version, *io_names, *self.labels):
            places.append(start + len(blob))
            blob += text.encode() + b"\0"
        return blob + b"\0" * (-len(blob) % 4), places

    def _section_parts(self) -> list[tuple[SectionKind, int | None, np.ndarray]]:
        channels = [op.channels for op in self.ops if op.channels]
        parts: list[tuple[SectionKind, int | None, np.ndarray]] = []
        if channels:
            parts.append(
                (SectionKind.MULTIPLIERS, None, np.concatenate([c.multipliers for c in channels]).astype("<i4"))
            )
            parts.append((SectionKind.SHIFTS, None, np.concatenate([c.shifts for c in channels]).astype("i1")))
        for index, op in enumerate(self.ops):
            if op.weights is not None:
                parts.append((SectionKind.WEIGHTS, index, op.weights.astype("i1")))
            if op.constant is not None:
                kind = np.dtype(op.constant.dtype).newbyteorder("<")
                parts.append((SectionKind.CONSTANT, index, op.constant.astype(kind).reshape(1, -1)))
        if channels:
            parts.append((SectionKind.BIASES, None, np.concatenate([c.biases for c in channels]).astype("<i4")))
        return parts

    def _place(self, parts: list[tuple[SectionKind, int | None, np.ndarray]], at: int) -> tuple[list[Any], bytes]:
        table, blob = [], b""
        for kind, _, data in parts:
            rows = data.shape[0] if data.ndim > 1 else 1
            entry = {"offset": at + len(blob), "rows": rows, "row_length": data.size // rows, "kind": kind}
            table.append(entry | {"element": _ELEMENTS[data.dtype.name], "packing": 0})
            blob += data.tobytes()
            blob += b"\0" * (-len(blob) % layout.SECTION_ALIGN)
        return table, blob

    def _op_records(self, parts: list[tuple[SectionKind, int | None, np.ndarray]], table: list[Any]) -> bytes:
        at = {(kind, index): entry["offset"] for (kind, index, _), entry in zip(parts, table, strict=True)}
        out, channel = b"", 0
        for index, op in enumerate(self.ops):
            values = op.defaults | {"code": op.code, "record_bytes": op.record.size, "channel": channel}
            values["weights"] = at.get((SectionKind.WEIGHTS, index), 0)
            if op.constant is not None:
                place = at[SectionKind.CONSTANT, index]
                values |= (
                    {"inputs_more": (place, 0, 0)} if "lengths" in op.values else {OPERATORS[op.code].constant: place}
                )
            out += op.record.pack(values | op.values)
            channel += len(op.channels.biases) if op.channels else 0
        return out

    def _io(self, io: Io, name_offset: int) -> bytes:
        values = {"arena_offset": io.offset, "size_bytes": io.size, "element": io.element, "rank": len(io.dims)}
        values["dims"] = (*io.dims, *(1,) * (4 - len(io.dims)))
        values |= {"scale": io.scale, "zero_point": io.zero_point, "source_layout": 0, "name_offset": name_offset}
        return layout.IO.pack(values)


def seal(image: bytes) -> bytes:
    """The image with its CRC put right."""
    crc = zlib.crc32(image[layout.CRC_START :])
    return image[:4] + crc.to_bytes(4, "little") + image[8:]


def golden_input(seed: int, count: int) -> np.ndarray:
    """Bytes of SPEC section 7's generator, (count,) int8."""
    out, state = np.empty(count, np.uint8), seed
    for i in range(count):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        out[i] = state >> 24
    return out.view(np.int8)


def _align(value: int) -> int:
    return -(-value // layout.SECTION_ALIGN) * layout.SECTION_ALIGN
