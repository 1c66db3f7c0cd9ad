"""From energies to features: filters, floor, logarithm, and any affine maps of a frame's values behind it."""

from dataclasses import replace

import numpy as np

from tinyfleet_compiler.front_end import MOST_MELS, Reals
from tinyfleet_compiler.importers.audio import HELP, Audio, Stage, Step, constant_operand, filters_of
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError


def _filter(node: OnnxNode, audio: Audio) -> Audio | None:
    matrix = _matrix(node, audio)
    if matrix is None or audio.filters is not None:
        return None
    if (matrix < 0).any() or not np.isfinite(matrix).all() or not matrix.any() or len(matrix) > MOST_MELS:
        raise UnsupportedError(
            "weighs energies below zero, or has too many filters", f"use 1 to {MOST_MELS}, none negative"
        )
    return replace(audio, filters=matrix, shape=_shape(audio, len(matrix)))


def _add_floor(node: OnnxNode, audio: Audio) -> Audio | None:
    return _floored(audio, constant_operand(node), adds=True)


def _max_floor(node: OnnxNode, audio: Audio) -> Audio | None:
    return _floored(audio, constant_operand(node), adds=False)


def _clip_floor(node: OnnxNode, audio: Audio) -> Audio | None:
    if node.has_input(2):
        return None
    return _floored(audio, np.asarray(node.constant(1, "min"), np.float64), adds=False)


def _floored(audio: Audio, floor: Reals | None, *, adds: bool) -> Audio | None:
    if floor is None or floor.size != 1 or not 1e-30 <= float(floor.reshape(-1)[0]) <= 1e30:
        return None
    return replace(audio, stage=Stage.FLOORED, floor=float(floor.reshape(-1)[0]), floor_adds=adds)


def _log(node: OnnxNode, audio: Audio) -> Audio:
    size = len(filters_of(audio))
    if size > MOST_MELS:
        raise UnsupportedError(f"makes {size} features of a frame", f"use at most {MOST_MELS}: add a filter bank")
    return replace(audio, stage=Stage.LOG, matrix=np.eye(size), offset=np.zeros(size))


def _log_without_floor(node: OnnxNode, audio: Audio) -> Audio | None:
    raise UnsupportedError("has no bound for silence", HELP)


def _scale(node: OnnxNode, audio: Audio) -> Audio | None:
    factor = _per_feature(node, audio)
    if factor is None or (node.operator == "Div" and (node.inputs[1] in node.context.audio or not factor.all())):
        return None
    return _then(audio, np.diag(1.0 / factor if node.operator == "Div" else factor), np.zeros(len(factor)))


def _shift(node: OnnxNode, audio: Audio) -> Audio | None:
    shift = _per_feature(node, audio)
    if shift is None:
        return None
    if node.operator == "Add":
        return _then(audio, np.eye(len(shift)), shift)
    swapped = node.inputs[1] in node.context.audio
    return _then(audio, np.eye(len(shift)) * (-1.0 if swapped else 1.0), shift if swapped else -shift)


def _map(node: OnnxNode, audio: Audio) -> Audio | None:
    matrix = _matrix(node, audio)
    return None if matrix is None or len(matrix) > MOST_MELS else _then(audio, matrix, np.zeros(len(matrix)))


def _turn(node: OnnxNode, audio: Audio) -> Audio | None:
    if node.ints("perm", (2, 1, 0)) != (0, 2, 1):
        return None
    return replace(audio, turned=not audio.turned, shape=audio.shape[::-1])


def _then(audio: Audio, matrix: Reals, offset: Reals) -> Audio:
    offset = matrix @ audio.offset + offset
    return replace(audio, matrix=matrix @ audio.matrix, offset=offset, shape=_shape(audio, len(offset)))


def _shape(audio: Audio, width: int) -> tuple[int, int]:
    return (width, audio.frames) if audio.turned else (audio.frames, width)


def _matrix(node: OnnxNode, audio: Audio) -> Reals | None:
    """The constant side of a MatMul as (out, in): on the right of (frames, in), on the left of (in, frames)."""
    constant, left = constant_operand(node), node.inputs[0] in node.context.constants
    while constant is not None and constant.ndim > 2 and constant.shape[0] == 1:
        constant = constant[0]
    if constant is None or constant.ndim != 2 or left is not audio.turned:
        return None
    matrix = constant if left else constant.T
    return matrix if matrix.shape[1] == audio.shape[0 if audio.turned else 1] else None


def _per_feature(node: OnnxNode, audio: Audio) -> Reals | None:
    """A constant operand that is the same for every frame, one number a feature."""
    constant = constant_operand(node)
    if constant is None or constant.ndim > 3 or not np.isfinite(constant).all():
        return None
    try:
        whole = np.broadcast_to(constant, (1, *audio.shape))[0]
    except ValueError:
        return None
    rows = whole.T if audio.turned else whole
    return rows[0].copy() if (rows == rows[0]).all() else None


LEVEL_STEPS: dict[tuple[Stage, str], Step] = {
    (Stage.ENERGY, "MatMul"): _filter,
    (Stage.ENERGY, "Add"): _add_floor,
    (Stage.ENERGY, "Max"): _max_floor,
    (Stage.ENERGY, "Clip"): _clip_floor,
    (Stage.ENERGY, "Log"): _log_without_floor,
    (Stage.FLOORED, "Log"): _log,
    (Stage.LOG, "Mul"): _scale,
    (Stage.LOG, "Div"): _scale,
    (Stage.LOG, "Add"): _shift,
    (Stage.LOG, "Sub"): _shift,
    (Stage.LOG, "MatMul"): _map,
    (Stage.ENERGY, "Transpose"): _turn,
    (Stage.LOG, "Transpose"): _turn,
}
