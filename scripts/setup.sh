#!/usr/bin/env bash
# Set up a checkout: system packages that are missing, .venv with fleetctl, the dashboard's two libraries, the C agent.
#   scripts/setup.sh        what `make demo` needs
#   scripts/setup.sh test   also what `make test` needs (compilers, emulator, browser, PostgreSQL)
#   scripts/setup.sh bench  also the programs that benchmarks compare ours with
# Every step is skipped when its result is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
goal=${1:-demo}
# Where containers set this, nothing that is imported stays compiled: every process would compile 1,400 modules anew.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
has() { command -v "$1" >/dev/null 2>&1; }

# need PACKAGE REASON CHECK...: remember PACKAGE when CHECK fails.
packages=() reasons=()
need() {
  local package=$1 reason=$2
  shift 2
  if ! "$@" >/dev/null 2>&1; then
    packages+=("$package")
    reasons+=("$package: $reason")
  fi
}
has_postgres() { ls /usr/lib/postgresql/*/bin/initdb || has initdb; }
has_newlib() { echo 'int main(void){return 0;}' | arm-none-eabi-gcc -mcpu=cortex-m4 --specs=nosys.specs -include string.h -x c - -o /dev/null; }

has_fuzzer() { echo 'int LLVMFuzzerTestOneInput(const char*d,long n){return 0;}' | clang -fsanitize=fuzzer,address -x c - -o /dev/null; }

need mosquitto "the MQTT broker" has mosquitto
need gcc "builds the device agent" has cc
need libc6-dev "C library headers for the device agent" test -e /usr/include/stdio.h
need cmake "builds the device agent" has cmake
need make "builds the device agent" has make
need pkg-config "finds OpenSSL for the device agent" has pkg-config
need libssl-dev "TLS of the device agent on this machine" test -e /usr/include/openssl/ssl.h
need python3-venv "keeps Python packages in .venv" python3 -c 'import ensurepip, venv'
need npm "fetches the dashboard's two libraries" has npm
if [ "$goal" != demo ]; then
  need clang "second compiler for the agent's tests" has clang
  need libclang-rt-14-dev "sanitizers and fuzzer of clang" has_fuzzer
  need gcc-arm-none-eabi "builds firmware for Cortex-M" has arm-none-eabi-gcc
  need libnewlib-arm-none-eabi "C library of that firmware" has_newlib
  need qemu-system-arm "emulates a Cortex-M4" has qemu-system-arm
  need chromium "looks at the dashboard in tests" has chromium
  need postgresql "second database of the tests" has_postgres
  need curl "speaks EST in tests" has curl
  need openssl "speaks EST and is a company's authority in tests" has openssl
  need softhsm2 "a PKCS#11 token in software for the tests" has softhsm2-util
fi
if [ "$goal" = bench ]; then
  need xdelta3 "patches to compare ours with" has xdelta3
  need zstd "patches to compare ours with" has zstd
fi

if [ ${#packages[@]} -gt 0 ]; then
  say "Missing on this machine:"
  printf '      %s\n' "${reasons[@]}"
  if ! has apt-get; then
    say "This is not a Debian system. Please install by hand what the list above names, then run this again."
    exit 2
  fi
  root=()
  if [ "$(id -u)" -ne 0 ]; then
    has sudo || { say "Not root and no sudo: run as root  apt-get install ${packages[*]}"; exit 2; }
    root=(sudo)
    say "Installing system packages needs root, so sudo may ask for your password."
  fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" ca-certificates >/dev/null
fi

python3 - <<'PY' || { say "Python 3.11 or newer is needed (Debian 12 has it as python3)."; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

lock=requirements/demo.txt
[ "$goal" != demo ] && lock=requirements/dev.txt
install_python() {
  [ -x .venv/bin/python ] || { say "Creating .venv"; python3 -m venv .venv; }
  local stamp
  stamp=.venv/installed-$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)
  [ ! -e "$stamp" ] || return 0
  say "Installing locked Python packages ($lock)"
  # Of these 14,000 modules most are never imported: those of the service are compiled below, by being imported.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r "$lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  local parts=(cli.main serve.api est builder controller ingest webhooks.process)
  .venv/bin/python -c "import $(printf 'tinyfleet_service.%s, ' "${parts[@]}") sys" # one process, before seven start at once
  touch "$stamp"
}

fetch_dashboard() {
  local dashboard=service/tinyfleet_service/dashboard vendor stamp work
  vendor=$dashboard/static/vendor
  stamp=$vendor/installed-$(sha256sum "$dashboard/package-lock.json" | cut -c1-16)
  [ ! -e "$stamp" ] || return 0
  say "Fetching the dashboard's two libraries (htmx, uPlot)"
  work=$(mktemp -d)
  cp "$dashboard/package.json" "$dashboard/package-lock.json" "$dashboard/.npmrc" "$work"
  (cd "$work" && npm ci --silent --ignore-scripts --no-audit --no-fund)
  rm -rf "$vendor" && mkdir -p "$vendor"
  cp "$work/node_modules/htmx.org/dist/htmx.min.js" "$work/node_modules/htmx.org/dist/ext/hx-sse.min.js" "$vendor"
  cp "$work/node_modules/uplot/dist/uPlot.iife.min.js" "$work/node_modules/uplot/dist/uPlot.min.css" "$vendor"
  rm -rf "$work"
  touch "$stamp"
}

build_agent() {
  say "Building the device agent"
  cmake -S device_agent -B build/agent -DCMAKE_BUILD_TYPE=Release >build-agent.log 2>&1 && cmake --build build/agent -j 2 >>build-agent.log 2>&1 ||
    { tail -n 40 build-agent.log; say "The agent did not build; the whole log is build-agent.log."; exit 1; }
  rm -f build-agent.log
}

# Python packages come over the network while the compiler works.
install_python &
python=$!
trap wait EXIT
fetch_dashboard
build_agent
wait "$python"
say "Ready: .venv/bin/fleetctl"
