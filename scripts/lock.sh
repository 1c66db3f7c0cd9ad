#!/usr/bin/env bash
# Resolve the locked requirement files: every package with its hashes, no host named.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "uv is needed to resolve: pip install uv"; exit 2; }
lock() { uv pip compile pyproject.toml "$@" --generate-hashes --no-strip-extras --no-header --universal --python-version 3.11 --quiet; }
lock --extra demo --extra build -o requirements/demo.txt
lock --extra demo --extra build --extra dev --extra postgres --extra hsm --extra s3 --extra dask --extra mlflow --extra traces -c requirements/demo.txt -o requirements/dev.txt
