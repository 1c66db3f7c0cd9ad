"""Every operator whose output may cover its input: right at the smallest legal distance, refused or wrong one nearer.

The distance is the compiler's (`overlap.py`, the builders; as its images say). What judges it shares nothing with it:
the C kernel against a simulator that computes whole tensors, and the verifier's replay. DSP and Helium kernels at the
same distances, over random shapes: test_runtime_dsp.py.
"""

import numpy as np
import pytest

from agent.runtime import overlaps
from agent.runtime.rig import Model
from tinyfleet_compiler.build_scope import Op as CompilerOp
from tinyfleet_compiler.check_ops import op_bytes
from tinyfleet_compiler.errors import ImageError, VerifyError
from tinyfleet_compiler.image import read_image
from tinyfleet_compiler.layout import NO_OVERLAP
from tinyfleet_compiler.operators import OpCode, counterpart, tensor_bytes
from tinyfleet_compiler.verify_plan import check_order

APART = {
    *(OpCode.TRANSPOSE, OpCode.CONCAT, OpCode.GATHER, OpCode.RESIZE_BILINEAR, OpCode.TRANSPOSE_CONV_2D),
    *(OpCode.BATCH_MATMUL, OpCode.SVDF, OpCode.LSTM, OpCode.GRU, OpCode.FEATURES),
}
"""Operators whose output never overlaps an input, and their forms of other types."""
OF_STATE = {OpCode.STATE_READ, OpCode.STATE_WRITE}
"""Move bytes between arena and state, which are apart."""
SAME_RECORD = {OpCode.SQUARED_DIFFERENCE: OpCode.SUB, OpCode.ADD_BROADCAST: OpCode.SUB}
"""Operators that these models lack -> one with the same record and order, whose op is taken."""
ELSEWHERE = {OpCode.L2_NORMALIZE, OpCode.LEAKY_RELU_INT16, OpCode.TOP_K_F32, OpCode.TOP_K_INDICES_F32}
"""Operators that these models lack, with tests of their own."""
MAY_OVERLAP = [
    code
    for code in OpCode
    if counterpart(code) not in APART | OF_STATE and code not in ELSEWHERE
    if not code.name.startswith("TRANSPOSE_CONV")
]
ARENAS = 40
"""So many random contents that an overwritten value is sure to matter, for an ARG_MAX too."""
WINDOWS = [code for code in MAY_OVERLAP if counterpart(code).name.startswith(("CONV_2D", "DEPTHWISE"))]


def case(code: OpCode, backwards: bool) -> tuple[overlaps.Image, overlaps.ImageOp, int]:
    """An image, the op in it and its smallest legal distance."""
    image, op = overlaps.ops_by_code()[SAME_RECORD.get(code, code)]
    if code in SAME_RECORD:
        op = overlaps.as_code(op, code)
    return image, op, overlaps.distance(op, backwards)


ORDERS = [*((code, False) for code in MAY_OVERLAP), *((code, True) for code in WINDOWS)]
in_both_orders = pytest.mark.parametrize(
    ("code", "backwards"), ORDERS, ids=lambda value: value.name if isinstance(value, OpCode) else "-" * value
)


@in_both_orders
def test_the_smallest_distance_is_right_and_one_step_nearer_is_not(code: OpCode, backwards: bool) -> None:
    image, op, legal = case(code, backwards)
    arenas, same = [overlaps.arena_for(op, seed) for seed in range(ARENAS)], []
    for nearer in (0, overlaps.step_bytes(op)):
        data = overlaps.alone(image, op, legal - nearer, backwards=backwards)
        parsed, model = read_image(data), Model(data)
        same.append(all(np.array_equal(model.run(arena), overlaps.expected(parsed, arena)) for arena in arenas))
    assert same == [True, False]


@in_both_orders
def test_one_element_nearer_is_refused(code: OpCode, backwards: bool) -> None:
    """By the runtime and the reader when the record is honest, by the verifier also when it lies."""
    image, op, legal = case(code, backwards)
    nearer = legal - tensor_bytes(code, op.fields)[0]
    honest = overlaps.alone(image, op, nearer, told=legal, backwards=backwards)
    assert Model(honest).status == "LAYOUT"
    with pytest.raises(ImageError, match="too closely"):
        read_image(honest)
    stand_in = CompilerOp("op", code, ("x",), "y", {}, 0)
    for distance, good in ((legal, True), (nearer, False)):
        record = read_image(overlaps.alone(image, op, distance, backwards=backwards)).ops[0]
        sizes = op_bytes(code, record.fields)
        if good:
            check_order(stand_in, record, record.input, *sizes)
        else:
            with pytest.raises(VerifyError, match="before reading it"):
                check_order(stand_in, record, record.input, *sizes)


def test_every_other_operator_says_never() -> None:
    seen = {code: op for code, (_, op) in overlaps.ops_by_code().items() if code not in {*MAY_OVERLAP, *ELSEWHERE}}
    assert {OpCode.CONCAT, OpCode.TRANSPOSE_CONV_2D_INT16} <= set(seen)
    assert all(op.overlap_bytes == NO_OVERLAP for code, op in seen.items() if code not in OF_STATE)
