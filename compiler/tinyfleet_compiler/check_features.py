"""What SPEC.md section 9 asks of FEATURES records and their tables."""

from typing import Any

import numpy as np

from tinyfleet_compiler.front_end import MOST_MELS
from tinyfleet_compiler.operators import Element, FeatureForm, OpCode

Fields = dict[str, Any]
_FORMS = int(FeatureForm.MAGNITUDE | FeatureForm.ADD_FLOOR | FeatureForm.DIAGONAL)
_MOST_SAMPLES = 1 << 20


def wrong_features(f: Fields) -> str:
    """What is wrong with a record's own numbers, "" for a good one."""
    if f["input_element"] not in (Element.INT16, Element.INT32) or f["output_element"] != Element.INT8:
        return "features of another type"
    if f["form"] & ~_FORMS or f["reserved"] or not 4 <= f["fft_log2"] <= 12:
        return "features of an unknown form"
    if not 1 <= f["frame"] <= 1 << f["fft_log2"] or not f["hop"] or not f["frames"] or f["samples"] > _MOST_SAMPLES:
        return "features of impossible frames"
    if not 1 <= f["mels"] <= MOST_MELS or not f["coefficients"] or not f["samples"]:
        return "features of no filters"
    if f["form"] & FeatureForm.DIAGONAL and f["coefficients"] != f["mels"]:
        return "a diagonal map of another size"
    bounded = 1 <= f["input_bits"] <= 29 - (f["frame"] - 1).bit_length() and -60 <= f["most_shift"] <= 31
    step = 1 if f["form"] & FeatureForm.MAGNITUDE else 2
    floor = f["floor_mantissa"] < 1 << 31 and -127 <= f["floor_exponent"] + step * f["most_shift"] <= 31
    if not bounded or not floor or f["energy_shift"] > 62 or f["pad"] > _MOST_SAMPLES:
        return "features of wild scales"
    return "" if f["scratch_bytes"] >= 4 * ((1 << f["fft_log2"]) + f["mels"]) and not f["scratch"] % 4 else "no scratch"


def features_table_bytes(f: Fields) -> int:
    """Bytes of the table."""
    c, m = f["coefficients"], f["mels"]
    cells = m if f["form"] & FeatureForm.DIAGONAL else c * m
    quarter = (1 << f["fft_log2"]) // 4 + 1
    return int(8 * c + 4 * (quarter + f["frame"]) + 2 * (2 * m + f["mel_weights"] + cells + c))


def wrong_features_table(code: OpCode, f: Fields, data: bytes) -> str:
    """Whether a table names bins or shifts there are none of."""
    if code is not OpCode.FEATURES:
        return ""
    if f["table"] % 16 or f["table"] + features_table_bytes(f) > len(data):
        return "a table lies outside the image"
    m, c, points = f["mels"], f["coefficients"], 1 << f["fft_log2"]
    at = f["table"] + 8 * c + 4 * (points // 4 + 1 + f["frame"])
    spans = np.frombuffer(data, "<i2", 2 * m, at).reshape(m, 2).astype(np.int64)
    shifts = np.frombuffer(data, "<i2", c, f["table"] + features_table_bytes(f) - 2 * c)
    inside = (spans >= 0).all() and (spans.sum(axis=1) <= points // 2 + 1).all()
    weights = np.frombuffer(data, "<i2", f["mel_weights"], at + 4 * m)
    if not inside or spans[:, 1].sum() != f["mel_weights"] or (weights < 0).any():
        return "filters name bins there are none of"
    return "" if ((shifts >= 1) & (shifts <= 40)).all() else "a feature is shifted too far"
