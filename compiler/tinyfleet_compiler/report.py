"""report.json: accuracy, sizes, cost and fit of one compile (keys of the report are part of the public contract)."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from tinyfleet_compiler.build_scope import Op
from tinyfleet_compiler.compile_graph import Compiled
from tinyfleet_compiler.dataset import Dataset
from tinyfleet_compiler.device_class import DeviceClass
from tinyfleet_compiler.estimate import core_of, estimate, estimate_note, op_instructions
from tinyfleet_compiler.fit_class import fit
from tinyfleet_compiler.float_run import Floats, run_tensors
from tinyfleet_compiler.graph import Graph, elements
from tinyfleet_compiler.image import ELEMENT_TYPES, ImageTensor
from tinyfleet_compiler.metrics import Metric
from tinyfleet_compiler.numerics import dequantize, quantize
from tinyfleet_compiler.operators import OpCode
from tinyfleet_compiler.passes.attach_front_end import FEATURES, behind_front_end
from tinyfleet_compiler.quantize.taken import QuantizedGraph
from tinyfleet_compiler.report_accuracy import accuracy_report
from tinyfleet_compiler.report_memory import memory_map, memory_plan
from tinyfleet_compiler.report_quantization import quantization_report
from tinyfleet_compiler.simulate import as_bytes, collect_outputs, run_stream

NOISE_SAMPLES = 16


def build_report(
    compiled: Compiled,
    device: DeviceClass,
    model: Path,
    samples: Dataset | None,
    data: Dataset | None,
    metric: Metric | None,
    reference: Graph | None = None,
) -> dict[str, Any]:
    """All figures of a compile as plain data; a model that came quantised has no float side to compare with.

    `reference` is the float graph before pruning: accuracy and agreement are against it.

    Raises `DatasetError` for a metric the data cannot give.
    """
    layers = _layers(compiled, device, None if isinstance(compiled.graph, QuantizedGraph) else samples)
    cost = estimate(sum(layer["instructions"] for layer in layers), device)
    return {
        "model": {
            "file": model.name,
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "name": compiled.image.name,
            "version": compiled.image.version,
        },
        "device_class": device.name,
        "image_sha256": hashlib.sha256(compiled.data).hexdigest(),
        "image_bytes": len(compiled.data),
        "arena_bytes": compiled.plan.arena_bytes,
        "arena_lower_bound_bytes": compiled.plan.lower_bound_bytes,
        "scratch_bytes": max(op.scratch_bytes for op in compiled.ops),
        "state_bytes": compiled.image.state_bytes,
        "macs": sum(op.macs for op in compiled.ops),
        "params": sum(op.params for op in compiled.ops),
        "inputs": [_tensor(t) for t in compiled.image.inputs],
        "outputs": [_tensor(t) for t in compiled.image.outputs],
        "labels": list(compiled.image.labels),
        "estimator": compiled.estimator,
        "calibration_samples": len(samples) if samples is not None else 0,
        "accuracy": accuracy_report(compiled, data, metric, reference or compiled.graph),
        "estimate": {
            "instructions": cost.instructions,
            "latency_ms": cost.latency_ms,
            "energy_uj": cost.energy_uj,
            "calibrated": False,
            "core": core_of(device),
            "note": estimate_note(compiled.ops, device),
        },
        "fits": fit(compiled, device),
        "quantization": quantization_report(compiled, layers),
        "layers": layers,
        "sections": _section_sizes(compiled),
        "memory_plan": memory_plan(compiled),
        "memory": memory_map(compiled),
    }


def _tensor(tensor: ImageTensor) -> dict[str, Any]:
    first = tensor.source_shape != tensor.shape or tensor.source_layout
    return {
        "name": tensor.name,
        "shape": [1, *tensor.source_shape],
        "device_shape": [1, *tensor.shape],
        "layout": "NCHW" if first else "NHWC" if len(tensor.shape) == 3 else "NC",
        "type": tensor.element.name.lower(),
        "scale": float(tensor.scale),
        "zero_point": tensor.zero_point,
    }


def _layers(compiled: Compiled, device: DeviceClass, samples: Dataset | None) -> list[dict[str, Any]]:
    noise: list[float | None] = [None] * len(compiled.ops)
    if samples is not None:
        noise = _signal_to_noise(compiled, {n: x[:NOISE_SAMPLES] for n, x in samples.inputs.items()})
    rows, again = [], {c.first + at: c.times(at) for c in compiled.plan.cascades for at in range(len(c.links))}
    for index, op in enumerate(compiled.ops):
        tensor = _shown(op)
        shape = compiled.graph.shapes[tensor]
        rows.append(
            {
                "name": op.name,
                "operator": op.code.name,
                "output_shape": list(shape),
                "macs": op.macs,
                "weight_bytes": op.weight_bytes,
                "output_bytes": compiled.plan.sizes[op.output],
                "type": compiled.parameters[tensor].element.name.lower(),
                "output_scale": compiled.parameters[tensor].scale,
                "output_zero_point": compiled.parameters[tensor].zero_point,
                "overlaps_input": bool(op.inputs) and _overlaps(compiled, op.inputs[0], op.output),
                "instructions": round(op_instructions(op, elements(shape), device) * again.get(index, 1.0)),
                "signal_to_noise_db": noise[index],
            }
        )
    return rows


def _shown(op: Op) -> str:
    """The tensor a row tells of: what the op writes, or puts into the state."""
    return op.inputs[0] if op.code is OpCode.STATE_WRITE else op.output


def _overlaps(compiled: Compiled, source: str, result: str) -> bool:
    offsets, sizes = compiled.plan.offsets, compiled.plan.sizes
    return offsets[source] < offsets[result] + sizes[result] and offsets[result] < offsets[source] + sizes[source]


def _signal_to_noise(compiled: Compiled, samples: dict[str, Floats]) -> list[float | None]:
    """Per op, float signal against quantisation error that has built up there, dB."""
    image = compiled.image
    if image.state_bytes:
        return _stream_noise(compiled, samples)
    arena = np.zeros((len(next(iter(samples.values()))), image.arena_bytes), np.int8)
    behind = FEATURES in samples
    for name, x in samples.items():
        q, offset = compiled.parameters[name], compiled.plan.offsets[name]
        codes = as_bytes(quantize(x, q.scale, q.zero_point, ELEMENT_TYPES[q.element]))
        arena[:, offset : offset + codes.shape[1]] = codes
    outputs = collect_outputs(image, arena, first=int(behind))
    graph = behind_front_end(compiled.graph) if behind else compiled.graph
    tensors = [dict(part) for part in run_tensors(graph, samples)]
    noise = [_decibel(compiled, _shown(op), outputs[i], tensors) for i, op in enumerate(compiled.ops[int(behind) :])]
    return [None, *noise] if behind else noise


def _stream_noise(compiled: Compiled, samples: dict[str, Floats]) -> list[float | None]:
    """The same over one stream; not behind a front end that was calibrated on features, nor for rows of cascades."""
    image = compiled.image
    if FEATURES in samples or image.cascades:
        return [None] * len(compiled.ops)
    codes = {t.name: quantize(samples[t.name], t.scale, t.zero_point, t.dtype) for t in image.inputs}
    outputs: list[list[np.ndarray]] = [[] for _ in image.ops]
    for _ in run_stream(image, codes, lambda index, output: outputs[index].append(output.copy())):
        pass
    tensors = [dict(part) for part in run_tensors(compiled.graph, samples)]
    return [_decibel(compiled, _shown(op), np.concatenate(outputs[i]), tensors) for i, op in enumerate(compiled.ops)]


def _decibel(compiled: Compiled, name: str, codes: np.ndarray, tensors: list[dict[str, Floats]]) -> float | None:
    wanted = np.concatenate([part[name] for part in tensors]).reshape(len(codes), -1).astype(np.float64)
    q = compiled.parameters[name]
    values = np.ascontiguousarray(codes).view(ELEMENT_TYPES[q.element])
    error = float(np.square(dequantize(values, q.scale, q.zero_point) - wanted).mean())
    signal = float(np.square(wanted).mean())
    return round(10.0 * float(np.log10(signal / error)), 2) if error > 0 and signal > 0 else None


def _section_sizes(compiled: Compiled) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for section in compiled.image.sections:
        key = section.kind.name.lower()
        sizes[key] = sizes.get(key, 0) + section.size
    sizes["records_and_metadata"] = len(compiled.data) - sum(sizes.values())
    return sizes
