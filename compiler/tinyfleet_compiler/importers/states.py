"""Which outputs of a model feed which of its inputs at the next inference: said in its metadata or by the caller."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinyfleet_compiler.errors import Problem
from tinyfleet_compiler.graph import Node, Shape, StateLink

METADATA_KEY = "states"
"""`OUTPUT->INPUT` pairs, with commas between them."""
ARROW = "->"
_HELP = f"name pairs OUTPUT{ARROW}INPUT of the model's own outputs and inputs, each input once, of one shape"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Linked:
    """States, the names of the outputs that are left to the caller, and what is wrong."""

    states: tuple[StateLink, ...]
    shown: tuple[str, ...]
    problems: tuple[Problem, ...]


def read_pairs(text: str) -> Pairs:
    """The pairs a metadata entry names; what is no pair becomes one without an input, which `link_states` refuses."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    return tuple((out.strip(), into.strip()) for out, _, into in (part.partition(ARROW) for part in parts))


def link_states(pairs: Pairs, inputs: Sequence[str], outputs: Mapping[str, str], shapes: Mapping[str, Shape]) -> Linked:
    """`outputs`: name in the model file -> tensor; an output that feeds an input is the caller's no more."""
    states: list[StateLink] = []
    problems: list[Problem] = []
    shown = tuple(name for name in outputs if name not in {out for out, _ in pairs})
    for out, into in pairs:
        reason = _wrong(out, into, inputs, outputs, shapes, [state.read for state in states])
        if reason:
            problems.append(Problem(f"{out}{ARROW}{into}", "state", reason, _HELP))
            continue
        hidden = outputs[out] not in {outputs[name] for name in shown}
        states.append(StateLink(into, into, outputs[out], hidden))
    whole = bool(pairs) and not problems
    if whole and not shown:
        problems.append(Problem("states", "state", "take every output of the model", "keep an output for the caller"))
    if whole and len(states) == len(inputs):
        problems.append(Problem("states", "state", "take every input of the model", "keep an input for the caller"))
    return Linked(tuple(states), shown, tuple(problems))


def _wrong(
    out: str,
    into: str,
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    shapes: Mapping[str, Shape],
    taken: Sequence[str],
) -> str:
    if out not in outputs:
        return f"the model has no output '{out}'; there are {', '.join(outputs)}"
    if into not in inputs:
        return f"the model has no input '{into}'; there are {', '.join(inputs)}"
    if into in taken:
        return "names an input that another output feeds"
    if outputs[out] not in shapes or into not in shapes or shapes[outputs[out]] != shapes[into]:
        return f"joins shapes {shapes.get(outputs[out])} and {shapes.get(into)}"
    return ""


def refuse_backwards(
    states: Iterable[StateLink], backwards: Mapping[str, tuple[str, str]], nodes: Sequence[Node]
) -> list[Problem]:
    """A problem for each layer that runs backwards and would begin with what an earlier inference left: what comes
    before it is the next inference. `backwards` as in `Context`."""
    found: dict[str, Problem] = {}
    for tensor, (name, operator) in backwards.items():
        needed = {tensor}
        for node in reversed(nodes):
            if node.output in needed:
                needed.update(node.inputs)
        if kept := [state.name for state in states if state.read in needed]:
            reason = f"runs backwards and begins with state '{kept[0]}', which an earlier inference left"
            help = "begin it at zero; streams are for forward layers"
            found.setdefault(name, Problem(name, operator, reason, help))
    return list(found.values())
