"""Functions of one element as the float32 kernels have them: the float side of `unary.MAKERS`."""

from collections.abc import Callable

from tinyfleet_compiler.check_float import MOST_POWER
from tinyfleet_compiler.graph import Unary
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.operators import Function


def _gelu(node: OnnxNode) -> Unary:
    return Unary(Function.GELU_TANH if node.text("approximate", "none") == "tanh" else Function.GELU)


def leaky_form(slope: float) -> Unary:
    """x, or slope * x below zero."""
    return Unary(Function.LEAKY_RELU, slope)


def read_exponent(node: OnnxNode) -> float:
    """Of Pow: one number, whole or real, as exporters write it. Raises `UnsupportedError`."""
    exponents = node.constant(1, "the exponent")
    if exponents.size != 1:
        raise UnsupportedError("has several exponents", "use one number as exponent")
    return float(exponents.reshape(-1)[0])


def _power(node: OnnxNode) -> Unary:
    exponent = read_exponent(node)
    whole = exponent == int(exponent) and 0 <= exponent <= MOST_POWER
    return Unary(Function.WHOLE_POWER if whole else Function.POWER, exponent)


FORMS: dict[str, Callable[[OnnxNode], Unary]] = {
    "Abs": lambda n: Unary(Function.ABS),
    "Celu": lambda n: Unary(Function.CELU, n.real("alpha", 1.0) or 1.0),
    "Ceil": lambda n: Unary(Function.CEIL),
    "Cos": lambda n: Unary(Function.COS),
    "Elu": lambda n: Unary(Function.ELU, n.real("alpha", 1.0), 1.0),
    "Erf": lambda n: Unary(Function.ERF),
    "Exp": lambda n: Unary(Function.EXP),
    "Floor": lambda n: Unary(Function.FLOOR),
    "Gelu": _gelu,
    "HardSigmoid": lambda n: Unary(Function.HARD_SIGMOID, n.real("alpha", 0.2), n.real("beta", 0.5)),
    "HardSwish": lambda n: Unary(Function.HARD_SWISH),
    "LeakyRelu": lambda n: leaky_form(n.real("alpha", 0.01)),
    "Log": lambda n: Unary(Function.LOG),
    "Mish": lambda n: Unary(Function.MISH),
    "Neg": lambda n: Unary(Function.NEGATE),
    "Pow": _power,
    "Reciprocal": lambda n: Unary(Function.RECIPROCAL),
    "Round": lambda n: Unary(Function.ROUND),
    "Selu": lambda n: Unary(Function.ELU, n.real("alpha", 1.6732632423543772), n.real("gamma", 1.0507009873554805)),
    "Sigmoid": lambda n: Unary(Function.SIGMOID),
    "Sign": lambda n: Unary(Function.SIGN),
    "Sin": lambda n: Unary(Function.SIN),
    "Softplus": lambda n: Unary(Function.SOFTPLUS),
    "Softsign": lambda n: Unary(Function.SOFTSIGN),
    "Sqrt": lambda n: Unary(Function.SQRT),
    "Tanh": lambda n: Unary(Function.TANH),
    "ThresholdedRelu": lambda n: Unary(Function.THRESHOLDED_RELU, n.real("alpha", 1.0)),
}


def float_form(node: OnnxNode) -> Unary | None:
    """The kernel's function and parameters, None where there is no kernel for the operator."""
    return FORMS[node.operator](node) if node.operator in FORMS else None
