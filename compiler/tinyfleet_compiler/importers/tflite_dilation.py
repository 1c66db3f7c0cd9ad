"""SPACE_TO_BATCH_ND, a convolution, BATCH_TO_SPACE_ND: what converters make of a dilated convolution, as one again."""

from dataclasses import replace

from tinyfleet_compiler.importers.context import UnsupportedError
from tinyfleet_compiler.importers.tflite_file import Dilation, TfModel, TfOperator, TfTensor

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_RESHAPES = ("EXPAND_DIMS", "RESHAPE", "SQUEEZE")


def fold_dilations(model: TfModel) -> TfModel:
    """space to batch -> (reshape) -> convolution -> (reshape) -> batch to space  =>  a dilated convolution."""
    readers: dict[int, list[TfOperator]] = {}
    for operator in model.operators:
        for index in operator.inputs:
            readers.setdefault(index, []).append(operator)
    folded: dict[int, TfOperator] = {}
    gone: set[int] = set()
    for operator in model.operators:
        if operator.operator == "SPACE_TO_BATCH_ND":
            chain = _chain(operator, readers, set(model.outputs))
            made = _dilated(chain, model.tensors) if chain else None
            if made is not None:
                folded[chain[-1].index] = made
                gone |= {one.index for one in chain}
    kept = [folded.get(o.index, o) for o in model.operators if o.index not in gone or o.index in folded]
    return replace(model, operators=tuple(kept))


def _chain(first: TfOperator, readers: dict[int, list[TfOperator]], outputs: set[int]) -> list[TfOperator]:
    """From SPACE_TO_BATCH_ND to BATCH_TO_SPACE_ND, nothing between them read by others; empty for another shape."""
    chain, kinds = [first], ""
    while chain[-1].operator != "BATCH_TO_SPACE_ND":
        read = readers.get(chain[-1].outputs[0], [])
        if len(read) != 1 or read[0].inputs[0] != chain[-1].outputs[0] or chain[-1].outputs[0] in outputs:
            return []
        kinds += "c" if read[0].operator in _CONVOLUTIONS else "r" if read[0].operator in _RESHAPES else "x"
        chain.append(read[0])
        if "x" in kinds[:-1] or len(chain) > 5:
            return []
    return chain if kinds in ("cx", "rcrx") else []


def _dilated(chain: list[TfOperator], tensors: tuple[TfTensor, ...]) -> TfOperator | None:
    first, last = chain[0], chain[-1]
    convolution = next(one for one in chain if one.operator in _CONVOLUTIONS)
    try:
        block, pads, crops = (tensors[i].values.reshape(-1) for i in (*first.inputs[1:3], last.inputs[2]))
        same = list(tensors[last.inputs[1]].values.reshape(-1)) == list(block)
    except (UnsupportedError, IndexError):
        return None
    ends = (
        (tensors[first.inputs[0]], tensors[first.outputs[0]]),
        (tensors[chain[-2].outputs[0]], tensors[last.outputs[0]]),
    )
    same = same and all(_same_numbers(a, b) for a, b in ends)
    if not same or len(block) not in (1, 2) or {len(pads), len(crops)} != {2 * len(block)}:
        return None
    before = tuple(int(p) - int(c) for p, c in zip(pads[::2], crops[::2], strict=True))
    if min(before) < 0 or min(block) < 1:
        return None
    dilation = Dilation(tuple(int(b) for b in block), before, tensors[convolution.inputs[0]].shape)
    inputs = (first.inputs[0], *convolution.inputs[1:])
    return replace(convolution, index=last.index, inputs=inputs, outputs=last.outputs, dilation=dilation)


def _same_numbers(a: TfTensor, b: TfTensor) -> bool:
    return a.type == b.type and list(a.scales) == list(b.scales) and list(a.zero_points) == list(b.zero_points)
