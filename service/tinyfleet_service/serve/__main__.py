"""`python -m tinyfleet_service.serve [NAME] --data DIR`: everything, or one process alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyfleet_service.errors import FleetError
from tinyfleet_service.serve import NAMES, run, run_process
from tinyfleet_service.settings import load_settings


def main() -> int:
    """Exit code 0 after an orderly stop, 1 with one line on stderr after an error of the installation."""
    parser = argparse.ArgumentParser(prog="tinyfleet-serve", description="Run the tinyfleet service.")
    parser.add_argument("name", nargs="?", choices=NAMES, help="one process alone; all of them when left out")
    parser.add_argument("--data", type=Path, help="data directory")
    parser.add_argument("--log", type=Path, help="write the log to this file instead of stderr")
    arguments = parser.parse_intermixed_args()
    try:
        settings = load_settings(arguments.data)
        if arguments.name:
            run_process(arguments.name, settings, log=arguments.log)
        else:
            run(settings)
    except FleetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
