#!/usr/bin/env bash
# The whole suite; prints at its end what was skipped and why. With arguments: only pytest with these.
# COVERAGE=1 measures what of the Python sources ran and prints it; tests take half as long again.
set -euo pipefail
cd "$(dirname "$0")/.."
# Threads of linear algebra wait for each other actively: on processors that tests share, they take what others need.
export OPENBLAS_NUM_THREADS=1
run() { printf '\033[1m==>\033[0m %s\n' "$*"; "$@"; }
if [ $# -gt 0 ]; then exec .venv/bin/pytest -q "$@"; fi
run .venv/bin/ruff format --check --quiet .
run .venv/bin/ruff check --quiet .
measured() { [ -z "${COVERAGE:-}" ] || echo "--cov --cov-append $*"; }
[ -z "${COVERAGE:-}" ] || .venv/bin/coverage erase
log=$(mktemp) static=$(mktemp)
trap 'wait; rm -f "$log" "$static"' EXIT
tests() { run .venv/bin/pytest -q "$@" 2>&1 | tee -a "$log"; }
# The C tests run apart, so that AddressSanitizer is loaded before Python: tests/agent/conftest.py.
# Three at a time on two processors: many wait for compilers, emulators, brokers and agents.
tests -n 3 --dist loadfile tests/agent
# shellcheck disable=SC2046
tests -n 3 --dist loadfile $(measured --cov-report=) tests/unit tests/integration
# The story runs alone: its 60 agents report every second, and three missed reports count as silence. What it leaves idle
# goes to types and imports, at the lowest priority.
{ run nice -n 19 .venv/bin/mypy --no-error-summary && run nice -n 19 .venv/bin/lint-imports --no-cache; } >"$static" 2>&1 &
checks=$!
# shellcheck disable=SC2046
tests $(measured --cov-report=term) tests/e2e
wait "$checks" || { cat "$static"; exit 1; }
cat "$static"
skipped=$(grep -h '^SKIPPED' "$log" || true)
printf '\033[1m==>\033[0m Skipped:\n%s\n' "${skipped:-nothing: every test ran}"
# Study data, and what a machine may refuse. The set-up brings everything else, so another reason is a fault.
unforeseen=$(grep -vE 'TINYFLEET_SHARED|needs root and the right to mount|refuses small-order keys itself|x86 control register' <<<"$skipped" || true)
[ -z "$unforeseen" ] || { printf 'not foreseen:\n%s\n' "$unforeseen"; exit 1; }
