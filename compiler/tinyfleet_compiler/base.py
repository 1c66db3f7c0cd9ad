"""Compile against a base: which scales of a deployed image a new compile may keep."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from tinyfleet_compiler.build_ops import Op
from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.image import Image, ImageOp
from tinyfleet_compiler.numerics import dequantize
from tinyfleet_compiler.quantize.parameters import Quantization
from tinyfleet_compiler.quantize.weights import BaseWeights, WeightBlock
from tinyfleet_compiler.simulate import simulate


def base_quantization(image: Image, ops: Sequence[Op], inputs: Sequence[str]) -> dict[str, Quantization]:
    """Parameters of the base by the new model's tensor names, as far as the two run the same operators."""
    found = {
        name: Quantization(tensor.scale, tensor.zero_point, tensor.element)
        for name, tensor in zip(inputs, image.inputs, strict=False)
    }
    for op, index in match_operators(image, ops):
        found[op.output] = Quantization(image.scales[index], image.ops[index].output_zero_point)
    return found


def base_weights(image: Image, ops: Sequence[Op], inputs: Sequence[str]) -> dict[str, BaseWeights]:
    """Weights of the base by the new model's tensor names, for layers of the same shape."""
    scales = {name: q.scale for name, q in base_quantization(image, ops, inputs).items()}
    found = {}
    for op, index in match_operators(image, ops):
        if op.weights is not None and op.inputs[0] in scales:
            block = _block(image, image.ops[index], *op.weights.rows.shape)
            if block is not None:
                found[op.output] = BaseWeights(block, scales[op.inputs[0]], scales[op.output])
    return found


def base_outputs(image: Image, inputs: dict[str, Floats]) -> tuple[Floats, ...] | None:
    """Dequantised outputs of the base for inputs (N, ...) by the new model's names, None where its inputs differ."""
    shapes = [x.shape[1:] for x in inputs.values()]
    if [t.shape for t in image.inputs] != shapes:
        return None
    found = simulate(image, {t.name: x for t, x in zip(image.inputs, inputs.values(), strict=True)})
    return tuple(dequantize(found[t.name], t.scale, t.zero_point) for t in image.outputs)


def match_operators(image: Image, ops: Sequence[Op]) -> list[tuple[Op, int]]:
    """(operator, index of the base's operator that stands in its place): the runs of equal operators both share."""
    if len(image.scales) != len(image.ops):
        return []
    matcher = SequenceMatcher(None, [op.code for op in ops], [op.code for op in image.ops], autojunk=False)
    return [(ops[m.a + i], m.b + i) for m in matcher.get_matching_blocks() for i in range(m.size)]


def _block(image: Image, record: ImageOp, channels: int, length: int) -> WeightBlock | None:
    section = next((s for s in image.sections if s.offset == record.weights), None)
    if section is None or (section.rows, section.row_length) != (channels, length):
        return None
    biases, multipliers, shifts = image.channels(record, channels)
    rows = image.section_array(section)
    return WeightBlock(rows, biases.astype(np.int64), multipliers, shifts, section.element)
