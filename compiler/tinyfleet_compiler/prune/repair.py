"""Least-squares repair: the weights that are left take over what was pruned, layer by layer, in closed form.

Both graphs are walked together. Each layer of the pruned one is fitted to what the original computes there before its
activation, from the inputs that the pruned layers before really deliver, so that errors do not build up.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tinyfleet_compiler.float_run import Floats
from tinyfleet_compiler.graph import INFINITY, Conv, Gemm, Graph, Node
from tinyfleet_compiler.prune.columns import is_fitted, sample_columns, tensor
from tinyfleet_compiler.quantize.fake import run_in_parts

Reals = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
MOST_ROWS = 8_000
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the pull back to the unrepaired weights, in mean squares of an input; rows held out choose."""
RIDGE_ROWS = 4
"""Where each output channel has its own free weights, so many try the ridges for all: each is a system of its own."""
HELD_OUT = 4
"""One row in so many judges the ridge, in one block: neighbours in an image are alike."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One group of one layer: centred `inputs` (P, K), centred `missing` (P, O), and which weights may move (O, K)."""

    inputs: Reals
    missing: Reals
    free: Mask


Masks = dict[str, Mask]


def repair(original: Graph, pruned: Graph, kept: Masks, inputs: dict[str, Floats], free: Masks | None = None) -> Graph:
    """`pruned` with weights and biases fitted on `inputs` (N, ...).

    `kept`: node output -> which output channels of the original are left (absent: all). `free`: node output -> which
    weights (O, K) of the pruned layer may move (absent: all); the others are pruned and stay zero.
    """
    exact = {name: x.astype(np.float32) for name, x in inputs.items()}
    got = dict(exact)
    nodes = []
    last_use = {original.root(name): at for at, node in enumerate(original.nodes) for name in node.inputs}
    for at, (before, after) in enumerate(zip(original.nodes, pruned.nodes, strict=True)):
        wanted = [tensor(original, exact, name) for name in before.inputs]
        delivered = [tensor(pruned, got, name) for name in after.inputs]
        if is_fitted(after):
            target = run_in_parts(original, _open(before), wanted)[..., kept.get(before.output, slice(None))]
            after = _fit(pruned, after, delivered[0], target, (free or {}).get(before.output))
        nodes.append(after)
        exact[before.output] = run_in_parts(original, before, wanted)
        got[after.output] = run_in_parts(pruned, after, delivered)
        for name in [n for n in got if last_use.get(n, -1) <= at]:
            del got[name], exact[name]
    return pruned.with_nodes(nodes)


def repair_in_part(plain: Graph, repaired: Graph, part: float) -> Graph:
    """The cut graph with `part` (0 to 1) of what repair changed in weights and biases."""

    def between(before: Node, after: Node) -> Node:
        if not is_fitted(after):
            return after
        assert isinstance(before, (Conv, Gemm))
        assert isinstance(after, (Conv, Gemm))
        weights = before.weights + np.float32(part) * (after.weights - before.weights)
        return replace(before, weights=weights, bias=before.bias + np.float32(part) * (after.bias - before.bias))

    pairs = zip(plain.nodes, repaired.nodes, strict=True)
    return plain.with_nodes([between(before, after) for before, after in pairs])


def _open(node: Node) -> Node:
    """The node without its activation."""
    return replace(node, low=-INFINITY, high=INFINITY)  # type: ignore[call-arg]


def _fit(graph: Graph, node: Node, delivered: Floats, wanted: Floats, free: Mask | None) -> Node:
    assert isinstance(node, (Conv, Gemm))
    missing = wanted - run_in_parts(graph, _open(node), [delivered])
    inputs, residual = sample_columns(graph, node, delivered, missing, MOST_ROWS)
    weights = node.weights.reshape(len(node.weights), -1).astype(np.float64)
    moving = np.ones(weights.shape, bool) if free is None else free
    change, shift = np.zeros_like(weights), residual.mean(axis=0)
    for rows, x in _groups(inputs, len(weights)):
        mean = x.mean(axis=0)
        change[rows] = solve_ridge(Problem(x - mean, residual[:, rows] - shift[rows], moving[rows]))
        shift[rows] -= change[rows] @ mean
    fitted = (weights + change).reshape(node.weights.shape)
    return replace(node, weights=fitted.astype(np.float32), bias=(node.bias + shift).astype(np.float32))


def _groups(inputs: Reals, channels: int) -> Iterator[tuple[slice, Reals]]:
    """(output channels, their inputs (P, K)) group by group."""
    size = channels // inputs.shape[1]
    for group in range(inputs.shape[1]):
        yield slice(group * size, (group + 1) * size), inputs[:, group]


def solve_ridge(problem: Problem) -> Reals:
    """Changes (O, K) that explain `missing` by `inputs`, free weights only; the ridge held-out rows like best.

    Where no ridge helps there, nothing changes.
    """
    cut = len(problem.inputs) - len(problem.inputs) // HELD_OUT
    fit = _moments(problem.inputs[:cut], problem.missing[:cut])
    judge = _moments(problem.inputs[cut:], problem.missing[cut:])
    step = 1 if problem.free.all() else max(1, len(problem.free) // RIDGE_ROWS)
    errors, few = [0.0], slice(None, None, step)
    for ridge in RIDGES:
        change = _solve(fit[0], fit[1][few], problem.free[few], ridge)
        # What the squared error on the held-out rows becomes, against no change at all.
        errors.append(float(((change @ judge[0] - 2.0 * judge[1][few]) * change).sum()))
    best = int(np.argmin(errors))
    if best == 0:
        return np.zeros(problem.free.shape)
    return _solve(fit[0] + judge[0], fit[1] + judge[1], problem.free, RIDGES[best - 1])


def _moments(inputs: Reals, missing: Reals) -> tuple[Reals, Reals]:
    return inputs.T @ inputs, missing.T @ inputs


def _solve(gram: Reals, cross: Reals, free: Mask, ridge: float) -> Reals:
    pull = ridge * max(float(np.trace(gram)) / len(gram), 1e-12)
    whole = gram + pull * np.eye(len(gram))
    if free.all():
        return np.asarray(np.linalg.solve(whole, cross.T).T)
    change = np.zeros(free.shape)
    for row, part in enumerate(free):
        if part.any():
            change[row, part] = np.linalg.solve(whole[np.ix_(part, part)], cross[row, part])
    return change
