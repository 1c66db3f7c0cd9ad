"""`--metric FILE.py:function`: the user's own metric, on the command line only: the service executes no uploads."""

from __future__ import annotations

import runpy
from pathlib import Path

from tinyfleet_compiler import CustomMetric
from tinyfleet_service.errors import InvalidInputError


def read_metric(text: str | None) -> str | CustomMetric | None:
    """The function that `FILE.py:function` names; any other text is given back. Raises InvalidInputError."""
    if text is None or ".py:" not in text:
        return text
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InvalidInputError(f"there is no metric file {path}", next="write --metric FILE.py:function")
    try:
        found = runpy.run_path(str(path)).get(name)
    except (Exception, SystemExit) as error:
        message = f"{path} cannot be run: {type(error).__name__}: {error}"
        raise InvalidInputError(message, next="make the file importable on its own") from error
    if not callable(found):
        raise InvalidInputError(
            f"{path} has no function '{name}'", next=f"define {name or 'one'}(outputs, inputs, y) -> float in it"
        )
    return CustomMetric(f"{path.name}:{name}", found)
