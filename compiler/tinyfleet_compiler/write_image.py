"""Writes a model image from planned operators. Layout: SPEC.md."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler import layout
from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.image import Golden
from tinyfleet_compiler.model_state import place_states, state_bytes
from tinyfleet_compiler.operators import OPERATORS, Element, OpCode, Packing, SectionKind, SourceLayout
from tinyfleet_compiler.plan_memory import Plan
from tinyfleet_compiler.plan_units import SCRATCH, WORKSPACE
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.weights import WeightBlock

_ELEMENTS = {"int8": Element.INT8, "int16": Element.INT16, "int32": Element.INT32, "float32": Element.FLOAT32}


_HIGH = "#high/"
STATE_KEY = "#state/"


@dataclass(frozen=True)
class TensorSpec:
    """What an io record says of an input or output; `tensor` is the planned tensor's name."""

    name: str
    tensor: str
    shape: tuple[int, ...]
    quantization: Quantization
    source_layout: SourceLayout


@dataclass(frozen=True)
class ImageSpec:
    """Everything an image holds."""

    ops: Sequence[Op]
    plan: Plan
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    scales: Sequence[float]
    device_class: str
    name: str
    version: str
    labels: Sequence[str] = ()
    golden: Golden = field(default_factory=lambda: Golden((1,), 0))
    share_constants: bool = False
    """Equal constant sections are written once. Off where deltas matter: values may grow apart in the next version."""


@dataclass
class _Sections:
    """Section contents in file order; offsets are known once the front part's size is."""

    entries: list[tuple[SectionKind, npt.NDArray[Any], Element, int, Packing]] = field(default_factory=list)
    """Kind, stored rows, element, elements per row, order inside."""

    def add(
        self,
        kind: SectionKind,
        array: npt.NDArray[Any],
        element: Element,
        row_length: int | None = None,
        packing: Packing = Packing.ROW_MAJOR,
    ) -> int:
        rows = array.reshape(1, -1) if array.ndim == 1 else array
        self.entries.append((kind, rows, element, rows.shape[1] if row_length is None else row_length, packing))
        return len(self.entries) - 1

    def add_constant(self, array: npt.NDArray[Any], share: bool, own: SectionKind = SectionKind.CONSTANT) -> int:
        equal = (
            index
            for index, (kind, other, *_) in enumerate(self.entries)
            if share and kind is own and other.dtype == array.dtype and other.tobytes() == array.tobytes()
        )
        found = next(equal, None)
        return self.add(own, array, _ELEMENTS[array.dtype.name]) if found is None else found

    def offsets(self, start: int) -> list[int]:
        found = []
        for _, array, *_ in self.entries:
            start = _align(start)
            found.append(start)
            start += array.nbytes
        return found


def write_image(spec: ImageSpec) -> bytes:
    """Bytes of the image, CRC included."""
    sections, weight_index = _collect(spec)
    strings, string_at = _strings(spec)
    sizes = {
        "io": (len(spec.inputs) + len(spec.outputs)) * layout.IO.size,
        "ops": sum(layout.RECORDS[OPERATORS[op.code].record].size for op in spec.ops),
        "cascades": len(_cascades(spec)),
        "sections": len(sections.entries) * layout.SECTION.size,
        "golden": layout.GOLDEN.size + len(spec.golden.seeds) * layout.GOLDEN_SEED_BYTES,
        "states": _states_bytes(spec),  # straight after the golden record
        "strings": len(strings),
    }
    at: dict[str, int] = {}
    end = layout.HEADER.size
    for part, size in sizes.items():
        at[part] = end
        end += size
    offsets = sections.offsets(end)
    string_at = {key: at["strings"] + value for key, value in string_at.items()}
    body = bytearray(_image_bytes(sections, offsets, end))
    parts = {
        "io": b"".join(_io(spec, t, string_at) for t in (*spec.inputs, *spec.outputs)),
        "ops": _ops(spec, weight_index, offsets),
        "cascades": _cascades(spec),
        "sections": _section_table(sections, offsets),
        "golden": _golden(spec),
        "states": _states(spec, weight_index, offsets, string_at),
        "strings": strings,
    }
    for part, data in parts.items():
        body[at[part] : at[part] + len(data)] = data
    for offset, (_, array, *_) in zip(offsets, sections.entries, strict=True):
        body[offset : offset + array.nbytes] = array.tobytes()
    _put_header(body, _header(spec, sections, offsets, at, sizes, string_at))
    return bytes(body)


def _align(offset: int) -> int:
    return -(-offset // layout.SECTION_ALIGN) * layout.SECTION_ALIGN


def _image_bytes(sections: _Sections, offsets: list[int], front: int) -> int:
    last = offsets[-1] + sections.entries[-1][1].nbytes if offsets else front
    return _align(last)


def _collect(spec: ImageSpec) -> tuple[_Sections, dict[str, int]]:
    """All sections, and per op name the index of its weight or constant section."""
    sections, index = _Sections(), {}
    if spec.scales:
        sections.add(SectionKind.SCALES, np.asarray(spec.scales, "<f4"), Element.FLOAT32)
    blocks = [op.weights for op in spec.ops if op.weights is not None]
    if blocks:
        sections.add(
            SectionKind.MULTIPLIERS, np.concatenate([b.multipliers for b in blocks]).astype("<i4"), Element.INT32
        )
        sections.add(SectionKind.SHIFTS, np.concatenate([b.shifts for b in blocks]), Element.INT8)
    for op in spec.ops:
        if op.weights is not None:
            index[op.output] = sections.add(
                SectionKind.WEIGHTS, _stored_rows(op), op.weights.element, op.weights.rows.shape[1], op.packing
            )
        elif op.constant is not None:
            kind = SectionKind.WEIGHTS if OPERATORS[op.code].weighted else SectionKind.CONSTANT
            index[op.output] = sections.add_constant(op.constant, spec.share_constants, kind)
    for variable, _ in place_states(spec.ops):
        if variable.data is not None:
            index[STATE_KEY + variable.name] = sections.add(SectionKind.STATE, variable.data, Element.INT8)
    if blocks:
        biases = np.concatenate([b.biases for b in blocks])
        sections.add(SectionKind.BIASES, (biases & 0xFFFFFFFF).astype("<u4").view("<i4"), Element.INT32)
    for op in spec.ops:
        if op.weights is not None and _has_high_bits(op.weights):
            high = (op.weights.biases >> 32).astype("<i2")
            index[_HIGH + op.output] = sections.add(SectionKind.BIASES_HIGH, high, Element.INT16)
    return sections, index


def _stored_rows(op: Op) -> npt.NDArray[np.int8]:
    """Rows as the image holds them: int4 ones two to a byte, low half first, the last half of an odd row 0."""
    block = op.weights
    assert block is not None
    if op.packing is Packing.CHANNELS_LAST:
        return np.ascontiguousarray(block.rows.T).reshape(block.rows.shape)
    if block.element is not Element.INT4:
        return block.rows
    rows = np.pad(block.rows, ((0, 0), (0, block.rows.shape[1] % 2)))
    return ((rows[:, 1::2].astype(np.int16) << 4) | (rows[:, ::2] & 0x0F)).astype(np.int8)


def _has_high_bits(block: WeightBlock) -> bool:
    return bool((block.biases != block.biases.astype(np.int32)).any())


def _strings(spec: ImageSpec) -> tuple[bytes, dict[str, int]]:
    """The string area (a multiple of 4 bytes) and where each string starts in it."""
    area, starts = bytearray(), {}
    names = [(f"io/{t.name}", t.name) for t in (*spec.inputs, *spec.outputs)]
    names += [(STATE_KEY + variable.name, variable.name) for variable, _ in place_states(spec.ops)]
    labels = [(f"label/{i}", text) for i, text in enumerate(spec.labels)]
    # The version stands last: one of another length moves no other string, and a patch says fewer offsets.
    for key, text in [("name", spec.name), *names, *labels, ("version", spec.version)]:
        starts[key] = len(area)
        area += text.replace("\0", "").encode("utf-8") + b"\0"
    return bytes(area + b"\0" * (-len(area) % 4)), starts


def _io(spec: ImageSpec, tensor: TensorSpec, string_at: dict[str, int]) -> bytes:
    dims = (*tensor.shape, 1, 1, 1, 1)[:4]
    return layout.IO.pack(
        {
            "arena_offset": spec.plan.offsets[tensor.tensor],
            "size_bytes": int(np.prod(tensor.shape)) * tensor.quantization.bytes,
            "element": tensor.quantization.element,
            "rank": len(tensor.shape),
            "dims": dims,
            "scale": tensor.quantization.scale,
            "zero_point": tensor.quantization.zero_point,
            "source_layout": tensor.source_layout,
            "name_offset": string_at[f"io/{tensor.name}"],
        }
    )


def _ops(spec: ImageSpec, weight_index: dict[str, int], offsets: list[int]) -> bytes:
    records, channel = [], 0
    places = {variable.name: at for variable, at in place_states(spec.ops)}
    for op in spec.ops:
        record = layout.RECORDS[OPERATORS[op.code].record]
        values = _base_fields(spec, op, record.size) | op.fields
        if op.weights is not None:
            values |= {"weights": offsets[weight_index[op.output]], "channel": channel}
            high = weight_index.get(_HIGH + op.output)
            values["biases_high"] = layout.NO_OFFSET if high is None else offsets[high]
            channel += len(op.weights.biases)
        own = [] if op.constant is None else [offsets[weight_index[op.output]]]
        if "lengths" in op.fields:
            more = [spec.plan.offsets[name] for name in op.inputs[1:]]
            values["inputs_more"] = (*more, *own, 0, 0)[:3]
        elif own:
            values[OPERATORS[op.code].constant] = own[0]
        elif any(field.name == "input_b" for field in record.fields):
            values["input_b"] = spec.plan.offsets[op.inputs[-1]]
        values |= {name: places[variable.name] for name, variable in op.states.items()}
        records.append(record.pack(values))
    return b"".join(records)


def _base_fields(spec: ImageSpec, op: Op, record_bytes: int) -> dict[str, Any]:
    offsets = spec.plan.offsets
    # A STATE_READ reads no tensor and a STATE_WRITE writes none: their records name the one tensor twice.
    source, result = op.inputs[0] if op.inputs else op.output, op.output
    if op.code is OpCode.STATE_WRITE:
        result = source
    return {
        "code": op.code,
        "record_bytes": record_bytes,
        "flags": int(op.flags),
        "packing": op.packing,
        "input": offsets[source],
        "output": offsets[result],
        "scratch": offsets.get(SCRATCH + op.output, layout.NO_OFFSET),
        "scratch_bytes": op.scratch_bytes,
        "overlap_bytes": op.overlap_bytes,
    }


def _cascades(spec: ImageSpec) -> bytes:
    parts = []
    for cascade in spec.plan.cascades:
        place = spec.plan.offsets[WORKSPACE + spec.ops[cascade.first].output]
        head = {"first_op": cascade.first, "op_count": len(cascade.links), "workspace": place}
        head |= {"strips": max(1, len(cascade.strips)), "gather_bytes": cascade.gather_bytes}
        parts.append(layout.CASCADE.pack(head))
        for link in cascade.links:
            source, source_b = (layout.NO_SOURCE if s is None else s for s in link.sources)
            fields = {"rows": link.rows, "ring_rows": link.ring_rows, "slide_rows": link.slide_rows}
            parts.append(layout.ROW_LINK.pack(fields | {"source": source, "source_b": source_b, "width": link.width}))
        parts += [layout.STRIP.pack(asdict(columns)) for strip in cascade.strips for columns in strip]
    return b"".join(parts)


def _section_table(sections: _Sections, offsets: list[int]) -> bytes:
    rows = zip(offsets, sections.entries, strict=True)
    return b"".join(
        layout.SECTION.pack(
            {
                "offset": offset,
                "rows": array.shape[0],
                "row_length": row_length,
                "kind": kind,
                "element": element,
                "packing": packing,
            }
        )
        for offset, (kind, array, element, row_length, packing) in rows
    )


def _golden(spec: ImageSpec) -> bytes:
    seeds, crc32 = spec.golden.seeds, spec.golden.crc32
    head = layout.GOLDEN.pack({"vector_count": len(seeds), "op_count": len(spec.ops), "crc32": crc32})
    return head + struct.pack(f"<{len(seeds)}I", *seeds)


def _states_bytes(spec: ImageSpec) -> int:
    count = len(place_states(spec.ops))
    return layout.STATES.size + count * layout.STATE.size if count else 0


def _states(spec: ImageSpec, index: dict[str, int], offsets: list[int], string_at: dict[str, int]) -> bytes:
    records = []
    for variable, at in place_states(spec.ops):
        key = STATE_KEY + variable.name
        values = {"state_offset": at, "size_bytes": variable.size_bytes, "element": variable.element}
        values |= {"fill": variable.fill, "name_offset": string_at[key]}
        data = layout.NO_OFFSET if variable.data is None else offsets[index[key]]
        records.append(layout.STATE.pack(values | {"data": data}))
    return layout.STATES.pack({"count": len(records)}) + b"".join(records) if records else b""


def _header(
    spec: ImageSpec,
    sections: _Sections,
    offsets: list[int],
    at: dict[str, int],
    sizes: dict[str, int],
    string_at: dict[str, int],
) -> dict[str, Any]:
    first = {kind: offset for offset, (kind, *_) in zip(offsets, sections.entries, strict=True)}
    channels = sum(len(op.weights.biases) for op in spec.ops if op.weights is not None)
    return {
        "magic": layout.MAGIC,
        "crc32": 0,
        "format_version": layout.FORMAT_VERSION,
        "header_bytes": layout.HEADER.size,
        "abi": layout.ABI,
        "kernel_set": layout.KERNEL_SET_PORTABLE,
        "kernel_set_version": layout.KERNEL_SET_VERSION,
        "flags": 0,
        "arena_bytes": spec.plan.arena_bytes,
        "scratch_bytes": max(op.scratch_bytes for op in spec.ops),
        "state_bytes": state_bytes(spec.ops),
        "op_count": len(spec.ops),
        "ops_offset": at["ops"],
        "ops_bytes": sizes["ops"],
        "section_count": len(sections.entries),
        "sections_offset": at["sections"],
        "input_count": len(spec.inputs),
        "output_count": len(spec.outputs),
        "io_offset": at["io"],
        "channel_count": channels,
        "multipliers_offset": first.get(SectionKind.MULTIPLIERS, 0),
        "shifts_offset": first.get(SectionKind.SHIFTS, 0),
        "biases_offset": first.get(SectionKind.BIASES, 0),
        "golden_offset": at["golden"],
        "golden_bytes": sizes["golden"],
        "strings_offset": at["strings"],
        "strings_bytes": sizes["strings"],
        "name_offset": string_at["name"],
        "version_offset": string_at["version"],
        "labels_offset": string_at.get("label/0", at["strings"]),
        "label_count": len(spec.labels),
        "device_class": spec.device_class.encode("ascii"),
        "cascades_offset": at["cascades"] if sizes["cascades"] else 0,
        "cascades_bytes": sizes["cascades"],
    }


def _put_header(body: bytearray, header: dict[str, Any]) -> None:
    header["image_bytes"] = len(body)
    body[: layout.HEADER.size] = layout.HEADER.pack(header)
    header["crc32"] = zlib.crc32(bytes(body[layout.CRC_START :]))
    body[: layout.HEADER.size] = layout.HEADER.pack(header)
