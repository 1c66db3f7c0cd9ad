#!/usr/bin/env bash
# What every commit passes: format, lint, types, import contract, unit tests, C host tests with sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
export OPENBLAS_NUM_THREADS=1 # both as in scripts/test.sh
unset PYTHONDONTWRITEBYTECODE
run() { printf '\033[1m==>\033[0m %s\n' "$*"; "$@"; }
run .venv/bin/ruff format --check --quiet .
run .venv/bin/ruff check --quiet .
run .venv/bin/mypy --no-error-summary
run .venv/bin/lint-imports --no-cache >/tmp/lint-imports.$$ || { cat /tmp/lint-imports.$$; exit 1; }
rm -f /tmp/lint-imports.$$
run .venv/bin/pytest -q -n 2 -m "not slow" tests/unit
run .venv/bin/pytest -q -n 2 -m "not slow" tests/agent # alone, so that it runs with AddressSanitizer: tests/agent/conftest.py
