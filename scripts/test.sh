#!/usr/bin/env bash
# The whole suite with coverage; extra arguments go to pytest. Prints at its end what was skipped and why (-ra).
set -euo pipefail
cd "$(dirname "$0")/.."
export COVERAGE_CORE=sysmon
run() { printf '\033[1m==>\033[0m %s\n' "$*"; "$@"; }
run .venv/bin/ruff format --check --quiet .
run .venv/bin/ruff check --quiet .
run .venv/bin/mypy --no-error-summary
run .venv/bin/lint-imports --no-cache
# The C tests once more, apart, so that they run with AddressSanitizer: tests/agent/conftest.py.
if [ $# -eq 0 ]; then run .venv/bin/pytest -q -n 2 tests/agent; fi
run .venv/bin/pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-report= "$@"
