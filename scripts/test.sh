#!/usr/bin/env bash
# The whole suite; prints at its end what was skipped and why. With arguments: only pytest with these.
# COVERAGE=1 measures what of the Python sources ran and prints it; tests take half as long again.
set -euo pipefail
cd "$(dirname "$0")/.."
# Threads of linear algebra wait for each other actively: on processors that tests share, they take what others need.
export OPENBLAS_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # as in scripts/setup.sh: test processes and the services they start import the same
run() { printf '\033[1m==>\033[0m %s\n' "$*"; "$@"; }
if [ $# -gt 0 ]; then exec .venv/bin/pytest -q "$@"; fi
run .venv/bin/ruff format --check --quiet .
run .venv/bin/ruff check --quiet .
measured() { [ -z "${COVERAGE:-}" ] || echo "--cov --cov-append $*"; }
[ -z "${COVERAGE:-}" ] || .venv/bin/coverage erase
log=$(mktemp) beside=$(mktemp)
# shellcheck disable=SC2046
finish() { # after a failure, what runs beside ends too
  [ -z "${beside_pid:-}" ] || kill "$beside_pid" $(pgrep -P "$beside_pid") 2>/dev/null || true
  wait
  rm -f "$log" "$beside"
}
trap finish EXIT
tests() { run .venv/bin/pytest -q "$@" 2>&1 | tee -a "$log"; }
# What waits for nobody takes what everything else leaves idle: a sixth of two processors, and half of them in the story.
leisurely() { run nice -n 10 "$@" || failed=1; }
beside() {
  # shellcheck disable=SC2046
  leisurely .venv/bin/pytest -q -n 2 --dist loadfile $(measured --cov-report=) tests/unit
  leisurely .venv/bin/pytest -q -n 2 --dist loadfile tests/agent/runtime
  leisurely .venv/bin/mypy --no-error-summary
  leisurely .venv/bin/lint-imports --no-cache
  return "${failed:-0}"
}
beside >"$beside" 2>&1 &
beside_pid=$!
[ -z "${COVERAGE:-}" ] || wait "$beside_pid" || true # two at once would overwrite what the other measured
# The C tests run apart, so that AddressSanitizer is loaded before Python: tests/agent/conftest.py.
# Three at a time on two processors: many wait for compilers, emulators, brokers and agents.
tests -n 3 --dist loadfile tests/agent --ignore=tests/agent/runtime
# shellcheck disable=SC2046
tests -n 3 --dist loadfile $(measured --cov-report=) tests/integration
# The story runs alone: its 60 agents report every second, and three missed reports count as silence.
# shellcheck disable=SC2046
tests $(measured --cov-report=term) tests/e2e
wait "$beside_pid" || { cat "$beside"; exit 1; }
cat "$beside"
skipped=$(grep -h '^SKIPPED' "$log" "$beside" || true)
printf '\033[1m==>\033[0m Skipped:\n%s\n' "${skipped:-nothing: every test ran}"
# Study data, and what a machine may refuse. The set-up brings everything else, so another reason is a fault.
unforeseen=$(grep -vE 'TINYFLEET_SHARED|needs root and the right to mount|refuses small-order keys itself|x86 control register' <<<"$skipped" || true)
[ -z "$unforeseen" ] || { printf 'not foreseen:\n%s\n' "$unforeseen"; exit 1; }
