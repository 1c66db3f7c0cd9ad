"""Options of models that keep state."""

import pytest

from tinyfleet_service.cli.commands_compiler import state_pairs
from tinyfleet_service.errors import InvalidInputError


def test_pairs_are_output_and_input() -> None:
    assert state_pairs(["a=b", "c.1=d/2"]) == (("a", "b"), ("c.1", "d/2"))
    assert state_pairs(None) == ()


@pytest.mark.parametrize("text", ["a", "=b", "a=", ""])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is no pair"):
        state_pairs([text])
