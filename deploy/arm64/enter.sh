#!/usr/bin/env bash
# Runs a command inside an arm64 root, as on the processor named: `enter.sh ROOT cortex-a72 PROGRAM [ARGUMENT...]`, as root.
#
# qemu-user shows the guest the host's /proc/cpuinfo. LiteRT's kernels choose themselves by it: an x86 one crashes them
# (segmentation fault in XNNPACK's start) and none at all switches XNNPACK off, which no device does. So the processor's own
# lies over it. QEMU_CPU is read anew at each exec, so it stays in the environment of the command. The mounts live in a namespace of their own and end with the command.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: enter.sh ROOT PROCESSOR PROGRAM [ARGUMENT...]" >&2; exit 2; }
root=$1 processor=$2
shift 2
cpuinfo=$(dirname "$(readlink -f "$0")")/cpuinfo/$processor
[ -f "$cpuinfo" ] || { echo "enter.sh: no processor $processor; known: $(cd "$(dirname "$cpuinfo")" && echo *)" >&2; exit 2; }
# shellcheck disable=SC2016 # the inner shell expands these
exec unshare --mount --pid --fork --kill-child sh -euc '
  root=$1 cpuinfo=$2 processor=$3
  shift 3
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --bind "$cpuinfo" "$root/proc/cpuinfo"
  exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 QEMU_CPU="$processor" "$@"
' enter "$root" "$cpuinfo" "$processor" "$@"
