"""Importers of functions of one element. Each becomes a `Lookup`: on the device a table of 256 entries."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinyfleet_compiler.functions import sigmoid
from tinyfleet_compiler.graph import Lookup, PRelu, Reals
from tinyfleet_compiler.importers.context import OnnxNode, UnsupportedError
from tinyfleet_compiler.importers.unary_float import float_form, leaky_form, read_exponent

Function = Callable[[Reals], Reals]
Maker = Callable[[OnnxNode], Function]
erf = np.vectorize(math.erf, otypes=[np.float64])


def softplus(x: Reals) -> Reals:
    """log(1 + exp(x)) without overflow."""
    return np.asarray(np.logaddexp(0.0, x))


def _leaky(alpha: float) -> Function:
    return lambda x: np.where(x >= 0.0, x, alpha * x)


def _elu(alpha: float, gamma: float = 1.0) -> Function:
    return lambda x: gamma * np.where(x >= 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _celu(alpha: float) -> Function:
    return lambda x: np.where(x >= 0.0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def _hard_sigmoid(alpha: float, beta: float) -> Function:
    return lambda x: np.clip(alpha * x + beta, 0.0, 1.0)


def _threshold(alpha: float) -> Function:
    return lambda x: np.where(x > alpha, x, 0.0)


def gelu_tanh(x: Reals) -> Reals:
    """The approximation of GELU by a hyperbolic tangent."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


def _gelu(node: OnnxNode) -> Function:
    if node.text("approximate", "none") == "tanh":
        return gelu_tanh
    return lambda x: 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def _power(node: OnnxNode) -> Function:
    exponent = read_exponent(node)
    if exponent < 0.0:
        return lambda x: np.where(x > 0.0, np.abs(x) ** exponent, 0.0)
    if exponent == int(exponent):
        return lambda x: x**exponent
    return lambda x: np.maximum(x, 0.0) ** exponent


MAKERS: dict[str, Maker] = {
    "Abs": lambda n: np.abs,
    "Celu": lambda n: _celu(n.real("alpha", 1.0) or 1.0),
    "Ceil": lambda n: np.ceil,
    "Cos": lambda n: np.cos,
    "Elu": lambda n: _elu(n.real("alpha", 1.0)),
    "Erf": lambda n: erf,
    "Exp": lambda n: np.exp,
    "Floor": lambda n: np.floor,
    "Gelu": _gelu,
    "HardSigmoid": lambda n: _hard_sigmoid(n.real("alpha", 0.2), n.real("beta", 0.5)),
    "HardSwish": lambda n: lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "LeakyRelu": lambda n: _leaky(n.real("alpha", 0.01)),
    "Log": lambda n: lambda x: np.log(x, out=np.zeros_like(x), where=x > 0.0),
    "Mish": lambda n: lambda x: x * np.tanh(softplus(x)),
    "Neg": lambda n: np.negative,
    "Pow": _power,
    "Reciprocal": lambda n: lambda x: np.divide(1.0, x, out=np.zeros_like(x), where=x != 0.0),
    "Round": lambda n: np.rint,
    "Selu": lambda n: _elu(n.real("alpha", 1.6732632423543772), n.real("gamma", 1.0507009873554805)),
    "Sigmoid": lambda n: sigmoid,
    "Sign": lambda n: np.sign,
    "Sin": lambda n: np.sin,
    "Softplus": lambda n: softplus,
    "Softsign": lambda n: lambda x: x / (1.0 + np.abs(x)),
    "Sqrt": lambda n: lambda x: np.sqrt(np.maximum(x, 0.0)),
    "Tanh": lambda n: np.tanh,
    "ThresholdedRelu": lambda n: _threshold(n.real("alpha", 1.0)),
}

LIMITS = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}


def import_unary(node: OnnxNode) -> None:
    """Any operator of `MAKERS`, opset 11 to 25."""
    function, limits = MAKERS[node.operator](node), LIMITS.get(node.operator)
    lookup = Lookup(node.name, (node.data(0),), node.output, function=function, operator=_name(node), limits=limits)
    lookup = replace(lookup, unary=float_form(node))
    node.context.add(lookup, node.shape())


def _name(node: OnnxNode) -> str:
    """The operator; powers with their exponent."""
    return f"Pow {read_exponent(node):g}" if node.operator == "Pow" else node.operator


def import_prelu(node: OnnxNode) -> None:
    """PRelu-9/16: one slope becomes a table, slopes that broadcast to the input stay."""
    shape = node.shape()
    slopes = node.floats(1, "the slope")
    if slopes.size == 1:
        slope = float(slopes.reshape(-1)[0])
        function, unary = _leaky(slope), leaky_form(slope)
        lookup = Lookup(node.name, (node.data(0),), node.output, function=function, unary=unary)
        node.context.add(lookup, shape)
        return
    try:
        full = np.broadcast_to(slopes, (1, *shape))[0]
    except ValueError:
        raise UnsupportedError(f"slopes {slopes.shape} do not fit {shape}", "use one slope a channel") from None
    node.context.add(PRelu(node.name, (node.data(0),), node.output, slopes=np.ascontiguousarray(full)), shape)
