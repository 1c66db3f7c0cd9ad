"""What stands in the paths of several pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

RowId = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what the databases' integer keys hold
