#!/usr/bin/env bash
# Makes the virtual environment that every make target runs in. Quiet: one line while it works, the log when it fails.
# Needs Python 3.11-3.13 with venv; installs python3-venv by apt where it is missing and we may.
set -euo pipefail
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() { echo "setup: $1" >&2; tail -n 15 "$log" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "no $PYTHON found; install Python 3.11, 3.12 or 3.13 and try again"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
  || fail "$($PYTHON --version) is not supported; call make with PYTHON=python3.11 (or 3.12, 3.13)"

echo "Setting up (once; two to four minutes, ~3 GB in $VENV) ..." >&2
if ! "$PYTHON" -m venv "$VENV" >"$log" 2>&1; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv; } >"$log" 2>&1 \
      || fail "could not install python3-venv with apt-get"
    "$PYTHON" -m venv "$VENV" >"$log" 2>&1 || fail "could not create $VENV"
  else
    fail "could not create $VENV; on Debian or Ubuntu: sudo apt-get install python3-venv"
  fi
fi
# PyPI's torch for Linux brings gigabytes of CUDA that no test uses; PyTorch's own index has the CPU build.
cpu_builds=https://download.pytorch.org/whl/cpu
extra=()
if [ "$(uname -s)" = Linux ] && command -v curl >/dev/null && curl -fsSL -m 8 -o /dev/null "$cpu_builds/torch/" 2>/dev/null; then
  extra=(--extra-index-url "$cpu_builds")
fi
"$VENV/bin/python" -m pip install -q --disable-pip-version-check "${extra[@]}" -c constraints.txt -e '.[dev]' >"$log" 2>&1 &
pip=$!
while kill -0 "$pip" 2>/dev/null; do
  [ -t 2 ] && printf '\r  installing packages: %d s, %s so far' "$SECONDS" "$(du -sh "$VENV" 2>/dev/null | cut -f1)" >&2
  sleep 1
done
[ -t 2 ] && printf '\r\033[K' >&2
wait "$pip" || fail "pip could not install the pinned packages of constraints.txt"
touch "$VENV/.ready"
