"""`python -m tinyfleet_ota.generate [--check]`: protocol.cddl, topics and tables -> protocol.py and two C headers."""

from __future__ import annotations

import sys
from pathlib import Path

from tinyfleet_ota.cddl import read_schema
from tinyfleet_ota.generate_c import c_header
from tinyfleet_ota.generate_delta import delta_header
from tinyfleet_ota.generate_python import python_module

PYTHON_FILE = Path(__file__).with_name("protocol.py")
C_INCLUDE = Path(__file__).parents[2] / "device_agent" / "include"
C_FILE = C_INCLUDE / "fleet_protocol.h"
C_DELTA_FILE = C_INCLUDE / "fleet_delta_model.h"


def generated_files() -> dict[Path, str]:
    """The text each generated file must have."""
    schema = read_schema()
    return {PYTHON_FILE: python_module(schema), C_FILE: c_header(schema), C_DELTA_FILE: delta_header()}


def main() -> int:
    """Write the files; with --check only say which differ (exit 1)."""
    stale = [path for path, text in generated_files().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is out of date: run python -m tinyfleet_ota.generate", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(generated_files()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
