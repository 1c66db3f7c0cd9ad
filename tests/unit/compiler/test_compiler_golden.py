"""An image, its golden CRCs and outputs as they were: a change here is a change of the format or of the numbers.

Regenerate on purpose: `python tests/golden/compiler/regenerate.py`.
"""

import json
from pathlib import Path

from golden.compiler.regenerate import GOLDEN, describe


def test_small_cnn_still_gives_the_same_image(tmp_path: Path) -> None:
    assert describe(tmp_path) == json.loads(GOLDEN.read_text())
