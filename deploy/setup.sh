#!/usr/bin/env bash
# Makes the virtual environment that make's targets run in: `deploy/setup.sh sim` what the demo needs, `deploy/setup.sh dev` what
# the tests need on top of it, `deploy/setup.sh peers` what `make bench-peers` needs instead. Quiet: one line while it works, the log
# when it fails.
# Needs Python 3.11-3.13 with venv; installs python3-venv by apt where it is missing and we may. Packages are installed by uv,
# which Flower brings along in any case and which is several times quicker than pip; where uv fails, pip does it.
set -euo pipefail
EXTRA=${1:-dev}
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() { echo "setup: $1" >&2; tail -n 15 "$log" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "no $PYTHON found; install Python 3.11, 3.12 or 3.13 and try again"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
  || fail "$($PYTHON --version) is not supported; call make with PYTHON=python3.11 (or 3.12, 3.13)"

case $EXTRA in
  sim) echo "Setting up for the demo (once; about a minute, 1.9 GB in $VENV) ..." >&2 ;;
  mlflow) echo "Setting up an MLflow server (once; a minute, .9 GB in $VENV) ..." >&2 ;;
  peers) echo "Setting up other people's detectors (once; a minute or two, 1.6 GB in $VENV) ..." >&2 ;;
  *) echo "Setting up for the tests (once; a minute or two, 3 GB in $VENV) ..." >&2 ;;
esac

make_environment() {
  "$PYTHON" -m venv "$VENV" >"$log" 2>&1 && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "could not create $VENV; on Debian or Ubuntu: sudo apt-get install python3-venv"
  fi
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv; } >"$log" 2>&1 \
    || fail "could not install python3-venv with apt-get"
  "$PYTHON" -m venv "$VENV" >"$log" 2>&1 || fail "could not create $VENV"
}
[ -x "$VENV/bin/pip" ] || make_environment

# pip's configuration of this machine, handed on to uv, which does not read it.
pip_says() { "$VENV/bin/pip" config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'$/\1/p" | tail -n 1; }
hand_on() { [ -n "${!1:-}" ] || [ -z "$2" ] || export "$1=$2"; }
hand_on UV_DEFAULT_INDEX "$(pip_says index-url)"
hand_on UV_FIND_LINKS "$(pip_says find-links | tr ' ' ',')"
hand_on SSL_CERT_FILE "$(pip_says cert)"

packages=(-c constraints.txt -e ".[$EXTRA]")
[ "$EXTRA" != peers ] || packages=(-r benchmarks/peers.txt)
[ "$EXTRA" != mlflow ] || packages=(mlflow==3.17.2 -e ".[fleet]")
# PyPI's torch for Linux brings gigabytes of CUDA that no test uses; PyTorch's own index has the CPU build.
cpu_builds=https://download.pytorch.org/whl/cpu
if [ "$EXTRA" != sim ] && [ "$(uname -s)" = Linux ] && command -v curl >/dev/null \
  && curl -fsSL -m 8 -o /dev/null "$cpu_builds/torch/" 2>/dev/null; then
  packages+=(--extra-index-url "$cpu_builds")
fi
by_uv() {
  "$VENV/bin/pip" install -q --disable-pip-version-check -c constraints.txt uv \
    && "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" --index-strategy unsafe-best-match "$@"
}
install() { by_uv "$@" || "$VENV/bin/pip" install -q --disable-pip-version-check "$@"; }
{ install "${packages[@]}" && { [ "$EXTRA" != peers ] || install --no-deps TSB-AD==1.5; }; } >"$log" 2>&1 &
installer=$!
while kill -0 "$installer" 2>/dev/null; do
  [ -t 2 ] && printf '\r  installing packages: %d s, %s so far' "$SECONDS" "$(du -sh "$VENV" 2>/dev/null | cut -f1)" >&2
  sleep 1
done
[ -t 2 ] && printf '\r\033[K' >&2
wait "$installer" || fail "could not install the pinned packages of constraints.txt"
touch "$VENV/.ready-sim" "$VENV/.ready-$EXTRA"
