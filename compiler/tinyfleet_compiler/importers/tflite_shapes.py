"""Folds what converters compute from static shapes: SHAPE, STRIDED_SLICE, PACK up to a RESHAPE; FILL, ZEROS_LIKE."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_file import DAMAGED, TfModel, TfOperator

Array = npt.NDArray[np.int64]
Values = npt.NDArray[Any]
_KINDS = {
    **{"INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16},
    **{"INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32},
}
_MOST = 64
"""Integers of a folded tensor: shapes have six at most."""
_MOST_FILLED = 1 << 20
"""Elements of all tensors that are filled with one value: no microcontroller has more."""
_BEGIN = frozenset(("SHAPE", "FILL", "ZEROS_LIKE"))
"""Operators that begin what can be folded."""


def fold_shapes(model: TfModel) -> TfModel:
    """Operators over known integers, and fillings of a known shape, vanish; what they give becomes constants."""
    if _BEGIN.isdisjoint(operator.operator for operator in model.operators):
        return model
    tensors, kept, left = list(model.tensors), [], _MOST_FILLED
    for operator in model.operators:
        found = _folded(operator, replace(model, tensors=tuple(tensors)), left)
        if found is None:
            kept.append(operator)
            continue
        left -= found.size
        index = operator.outputs[0]
        raw = np.frombuffer(found.astype(_KINDS[tensors[index].type]).tobytes(), np.uint8)
        tensors[index] = replace(tensors[index], shape=found.shape, raw=raw)
    return replace(model, tensors=tuple(tensors), operators=tuple(kept))


def _folded(operator: TfOperator, model: TfModel, left: int) -> Values | None:
    """What an operator gives, None where it is not known now, or a filling of more than `left` elements."""
    if operator.operator in ("FILL", "ZEROS_LIKE"):
        return _filled(operator, model, left)
    return _integers(operator, model)


def _filled(operator: TfOperator, model: TfModel, left: int) -> Values | None:
    """One value throughout: TFLM's ZEROS_LIKE gives the code 0, whatever the zero point is."""
    fill = operator.operator == "FILL"
    if (len(operator.inputs), len(operator.outputs)) != (1 + fill, 1) or min(operator.inputs) < 0:
        return None
    sources = [model.tensors[i] for i in operator.inputs]
    if model.tensors[operator.outputs[0]].type not in _KINDS:
        return None
    try:
        shape = tuple(int(size) for size in sources[0].values.reshape(-1)) if fill else sources[0].shape
        value = sources[1].values.reshape(-1) if fill else np.zeros(1)
    except (*DAMAGED, UnsupportedError):
        return None
    fits = value.size == 1 and all(size >= 1 for size in shape) and math.prod(shape) <= left
    return np.full(shape, value[0]) if fits else None


def _integers(operator: TfOperator, model: TfModel) -> Array | None:
    if len(operator.outputs) != 1 or model.tensors[operator.outputs[0]].type not in ("INT32", "INT64"):
        return None
    if operator.operator == "SHAPE":
        shape = np.array(model.tensors[operator.inputs[0]].shape, np.int64)
        return shape if (shape >= 1).all() else None
    if operator.operator not in _FOLDERS or any(model.tensors[i].raw is None for i in operator.inputs):
        return None
    try:
        values = [model.tensors[i].values.astype(np.int64) for i in operator.inputs]
        found = np.asarray(_FOLDERS[operator.operator](operator, values), np.int64)
    except (*DAMAGED, UnsupportedError, ZeroDivisionError):
        return None
    return found if 0 < found.size <= _MOST else None


def _pack(operator: TfOperator, values: list[Array]) -> Array:
    return np.stack(values, operator.options(tflite.PackOptions).Axis())


def _strided_slice(operator: TfOperator, values: list[Array]) -> Array:
    options = operator.options(tflite.StridedSliceOptions)
    if options.EllipsisMask() or options.NewAxisMask():
        raise UnsupportedError("inserts axes", "")
    cuts: list[int | slice] = []
    for axis, (first, last, step) in enumerate(zip(*(v.reshape(-1).tolist() for v in values[1:4]), strict=True)):
        if options.ShrinkAxisMask() >> axis & 1:
            cuts.append(first)
        else:
            begin = None if options.BeginMask() >> axis & 1 else first
            cuts.append(slice(begin, None if options.EndMask() >> axis & 1 else last, step))
    return np.asarray(values[0][tuple(cuts)])


_FOLDERS: dict[str, Callable[[TfOperator, list[Array]], Array]] = {
    "ADD": lambda o, v: v[0] + v[1],
    "CAST": lambda o, v: v[0],
    "CONCATENATION": lambda o, v: np.concatenate(v, o.options(tflite.ConcatenationOptions).Axis()),
    "EXPAND_DIMS": lambda o, v: np.expand_dims(v[0], int(v[1].reshape(-1)[0])),
    "FLOOR_DIV": lambda o, v: v[0] // v[1],
    "GATHER": lambda o, v: np.take(v[0], v[1], o.options(tflite.GatherOptions).Axis()),
    "MUL": lambda o, v: v[0] * v[1],
    "PACK": _pack,
    "REDUCE_PROD": lambda o, v: np.prod(v[0], axis=tuple(v[1].reshape(-1))),
    "RESHAPE": lambda o, v: v[0].reshape(tuple(v[1])),
    "SQUEEZE": lambda o, v: v[0].reshape(-1)[0] if v[0].size == 1 else np.squeeze(v[0]),
    "STRIDED_SLICE": _strided_slice,
    "SUB": lambda o, v: v[0] - v[1],
}
