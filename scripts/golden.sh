#!/usr/bin/env bash
# Regenerate what is generated: wire protocol and image constants for C and Python, then golden files.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m tinyfleet_ota.generate
.venv/bin/python -m tinyfleet_compiler.generate
for script in tests/golden/*/regenerate.py; do .venv/bin/python "$script"; done
.venv/bin/python scripts/make_reference.py
