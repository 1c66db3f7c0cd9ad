"""Options of a compile that `check`, `compile` and `model push` share, and how their text is read."""

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet_service.errors import InvalidInputError

States = Annotated[
    list[str] | None,
    typer.Option("--state", help="OUTPUT=INPUT: the device keeps that output and gives it to that input next time"),
]
ElementType = Annotated[str, typer.Option("--type", help="int8, or float32 on classes with an FPU")]
FrontEnd = Annotated[
    Path | None,
    typer.Option(help="TOML file of audio features: the image takes recordings", exists=True, dir_okay=False),
]
Dimensions = Annotated[
    list[str] | None, typer.Option("--dim", help="NAME=SIZE of a symbolic dimension of an ONNX file; repeat it")
]
PruneChannels = Annotated[
    str | None, typer.Option(help="share of the MACs to take away by whole channels, or auto", metavar="SHARE|auto")
]
PruneWeights = Annotated[
    str | None,
    typer.Option(help="share of weights to make zero (smaller transfers only), or auto", metavar="SHARE|auto"),
]
Search = Annotated[
    bool, typer.Option("--search", help="choose rounding, int16 activations and int4 weights layer by layer")
]
FlashBudget = Annotated[int | None, typer.Option(help="--search: largest image, bytes", min=1)]
ArenaBudget = Annotated[int | None, typer.Option(help="--search: largest arena, bytes", min=1)]
AccuracyBudget = Annotated[
    float | None, typer.Option(help="points of the metric that pruning, or the search, may cost", min=0.0)
]
SearchSeconds = Annotated[float, typer.Option(help="--search: CPU seconds it may take", min=1.0)]


def front_end_text(path: Path | None) -> str:
    """The file's text, empty without one. Raises InvalidInputError for bytes that are no text."""
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"--front-end {path} is no text: {error}", next="give a TOML file") from error


def amount(name: str, text: str | None) -> float | str | None:
    """A share or `auto` from what was typed. Raises InvalidInputError."""
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(f"{name} {text} is no number", next="use a share such as 0.3, or auto") from None
