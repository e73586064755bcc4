#!/usr/bin/env bash
# Programs that the tests start and pip does not bring: installed by name where we are root and apt is there; else the one
# line that installs them, and an end. What a test needs is never skipped over in silence.
set -euo pipefail
PATH=$PATH:/usr/sbin:/usr/local/sbin
shopt -s nullglob
missing=()
has() { command -v "$1" >/dev/null; }

has mosquitto || missing+=(mosquitto)
postgres=(/usr/lib/postgresql/*/bin/initdb)
has initdb || [ ${#postgres[@]} -gt 0 ] || missing+=(postgresql)
has openssl || missing+=(openssl)
has git || missing+=(git)
# cards: file systems inside images, and an ordinary user
has mcopy || missing+=(mtools)
has fsck.fat || missing+=(dosfstools)
has sfdisk || missing+=(fdisk)
has debugfs || missing+=(e2fsprogs)
has bwrap || missing+=(bubblewrap)
has sshd || missing+=(openssh-server)
# chips: a token, and a TPM behind the same port
has softhsm2-util || missing+=(softhsm2)
has swtpm || missing+=(swtpm)
tpm2=(/usr/lib/*/libtpm2_pkcs11.so.1 /usr/lib64/libtpm2_pkcs11.so.1*)
[ ${#tpm2[@]} -gt 0 ] || missing+=(libtpm2-pkcs11-1)
has cc || missing+=(gcc libc6-dev)
has prometheus || missing+=(prometheus)
has prometheus-alertmanager || missing+=(prometheus-alertmanager)
has chromium || missing+=(chromium)

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && has apt-get; then
  echo "Installing for the tests: ${missing[*]}" >&2
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >/dev/null
else
  echo "The tests need programs that are not here. On Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
