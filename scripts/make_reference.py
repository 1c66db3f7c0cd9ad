"""Write docs/cli.md from the commands and docs/api.md from the OpenAPI document.

.venv/bin/python scripts/make_reference.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from api_reference import render_api  # noqa: E402
from cli_reference import render_cli  # noqa: E402

PAGES = {"cli.md": render_cli, "api.md": render_api}


def main() -> None:
    """Write both pages."""
    for name, render in PAGES.items():
        (ROOT / "docs" / name).write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
