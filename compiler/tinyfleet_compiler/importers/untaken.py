"""What to say of an operator that is not taken: what helps, or which one comes near and where all are listed."""

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = "docs/operators.md lists what is taken"
_SMALLEST_LIKENESS = 0.8
_HOST = "end the model before it, and do the rest on the host"
_CONSTANT = "give it constants"

ONNX_HELP = {
    "CumSum": "multiply by a triangular matrix",
    "Einsum": "write it as MatMul, Mul and ReduceSum",
    "Hardmax": "use ArgMax",
    "If": "fold conditions before export",
    "LpPool": "for p = 2 use Mul, AveragePool and Sqrt",
    "MeanVarianceNormalization": "use LayerNormalization or InstanceNormalization",
    "Mod": "divide, and use Floor",
    "RNN": "use LSTM or GRU",
    "RotaryEmbedding": "export with opset 22 or earlier, which writes it as Slice, Mul, Add and Concat",
    "ReduceLogSum": "use ReduceSum and Log",
    "ReduceLogSumExp": "use Exp, ReduceSum and Log",
    "ReduceProd": "use Slice and Mul",
    "Swish": "use Sigmoid and Mul",
    **dict.fromkeys(("And", "Not", "Or", "Xor"), "use Min, Max or arithmetic on 0 and 1"),
    **dict.fromkeys(("ConstantOfShape", "EyeLike", "OneHot", "Range"), _CONSTANT),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), "compare on the host"),
    **dict.fromkeys(("GatherElements", "GatherND", "ScatterElements", "ScatterND"), "use Gather, Slice and Concat"),
    **dict.fromkeys(("Loop", "Scan"), "unroll loops before export"),
    **dict.fromkeys(("NonMaxSuppression", "NonZero", "RoiAlign", "Unique"), _HOST),
}
"""ONNX operators that are known and not taken, or not of activations."""


def what_helps(operator: str, taken: Iterable[str], known: dict[str, str]) -> str:
    """The help of one problem; `known` is a table like `ONNX_HELP`."""
    if operator in known:
        return known[operator]
    near = get_close_matches(operator, sorted(taken), n=1, cutoff=_SMALLEST_LIKENESS)
    return f"{near[0]} comes near; {LISTED}" if near else LISTED
