#!/usr/bin/env bash
# Bring the C sources of CMSIS-NN 4.0.0 and print their folder, for FLEET_CMSIS_NN: fetch_cmsis_nn.sh [FOLDER].
# They are in a wheel whose hash requirements/cmsis_nn.txt pins; nothing of it is installed or run. FOLDER: the user's cache.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/requirements/cmsis_nn.txt
key=$(sha256sum "$lock" | cut -c1-16)
folder=${1:-${TINYFLEET_CACHE:-$HOME/.cache/tinyfleet}/cmsis-nn-$key}
sources=$folder/bakenn/backend/cmsis_nn/vendor/cmsis_nn
if [ ! -d "$sources" ]; then
    mkdir -p "$(dirname "$folder")"
    part=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=python3
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes --target "$part" -r "$lock" >&2
    mv -T "$part" "$folder" || [ -d "$sources" ] # another one was faster
fi
echo "$sources"
