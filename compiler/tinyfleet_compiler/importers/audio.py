"""Audio features in ONNX: STFT or DFT and what follows, up to affine maps of logarithms, become one `Features` node.

A tensor on that way is no tensor of the graph yet. `Context.audio` holds what has been read of it, each operator adds
its part (`audio_spectrum.py`, `audio_levels.py`), and the first that is not of this chain makes the node (`settle`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from tinyfleet_compiler.front_end import FrontEnd, Reals
from tinyfleet_compiler.graph import Features, Shape, Transpose
from tinyfleet_compiler.importers.context import Context, OnnxNode, UnsupportedError

HELP = "compute STFT or DFT, square, filter bank, a floor above 0, Log, then affine maps, in this order"


class Stage(Enum):
    """What a tensor on the way holds, batch left out."""

    FRAMES = auto()
    """(frames, L) or (frames, L, 1) windowed samples"""
    COMPLEX = auto()
    """(frames, bins, 2)"""
    PART = auto()
    """(frames, bins): the real or the imaginary part"""
    SQUARED_PART = auto()
    SQUARES = auto()
    """(frames, bins, 2): squares of both parts"""
    ENERGY = auto()
    """(frames, bins), or behind the filters (frames, filters)"""
    FLOORED = auto()
    LOG = auto()
    """(frames, features)"""


@dataclass(frozen=True, eq=False)
class Audio:
    """A tensor on the way: what has been read of it, and its shape in the file."""

    source: str
    stage: Stage
    shape: Shape
    frames: int
    hop: int
    window: Reals
    fft: int = 0
    part: int = 0
    magnitude: bool = False
    filters: Reals | None = None
    """(M, bins)"""
    floor: float = 0.0
    floor_adds: bool = True
    matrix: Reals = field(default_factory=lambda: np.zeros((0, 0)))
    """(C, M), behind the logarithm"""
    offset: Reals = field(default_factory=lambda: np.zeros(0))
    turned: bool = False
    """The last two axes are exchanged: (bins, frames)."""


Step = Callable[[OnnxNode, Audio], Audio | None]
"""What an operator makes of an `Audio`; None when it is not of this chain."""


def absorb(node: OnnxNode, steps: dict[tuple[Stage, str], Step]) -> bool:
    """Whether an operator goes on along the way. If not, its audio inputs are made tensors of the graph."""
    waiting = [name for name in node.inputs if name in node.context.audio]
    if not waiting:
        return False
    audio = node.context.audio[waiting[0]]
    if node.operator in ("Identity", "Cast"):
        node.context.audio[node.output] = audio
        return True
    step = steps.get((audio.stage, node.operator))
    made = step(node, audio) if step else None
    if made is not None:
        node.context.audio[node.output] = made
        return True
    for name in waiting:
        settle(node.context, name)
    return False


def settle(context: Context, tensor: str) -> None:
    """Make the node that writes `tensor`, once. Raises `UnsupportedError` before the logarithm."""
    audio = context.audio.get(tensor)
    if audio is None or tensor in context.shapes:
        return
    if audio.stage is not Stage.LOG:
        raise UnsupportedError("uses a spectrum before its logarithm", HELP)
    front = FrontEnd(
        window=audio.window,
        hop=audio.hop,
        fft=audio.fft,
        frames=audio.frames,
        pad=0,
        mel=filters_of(audio),
        floor=audio.floor,
        floor_adds=audio.floor_adds,
        magnitude=audio.magnitude,
        matrix=audio.matrix,
        offset=audio.offset,
    )
    made = f"{tensor}/frames" if audio.turned else tensor
    context.add(Features(f"{tensor}/front end", (audio.source,), made, front=front), front.shape)
    if audio.turned:
        context.add(Transpose(f"{tensor}/turn", (made,), tensor, perm=(1, 0)), front.shape[::-1])


def filters_of(audio: Audio) -> Reals:
    """(M, bins) filters; every bin for itself where there are none."""
    return np.eye(audio.fft // 2 + 1) if audio.filters is None else audio.filters


def constant_operand(node: OnnxNode) -> Reals | None:
    """The constant of a binary operator whose other operand is no constant."""
    found = [node.context.constants[n] for n in node.inputs if n in node.context.constants]
    return np.asarray(found[0], np.float64) if len(found) == 1 and len(node.inputs) == 2 else None
