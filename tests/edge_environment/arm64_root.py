"""A small Debian arm64 root on this machine: made from nothing in seconds, with a device's packages, run by qemu-user.

    Debian's archive ── mmdebstrap, unpacked ──► root ◄── pip: aarch64 wheels of the edge extra
                                                  └── deploy/arm64/enter.sh ─► python3 as on a Cortex-A72 or A76

The packages are unpacked, not configured (mmdebstrap's variant `extract`): the same programs and libraries that a
configured `minbase` holds, in 8 seconds instead of four minutes under emulation, because no maintainer script has to
run. Such a root boots nothing; it runs Python. It is not a device: qemu executes the instructions one by one, so it shows
what is computed, never how fast.

Invariants: a root is used only as long as its stamp names what it was made from; nothing outside its folder is written,
apart from the packages that apt installs when this runs as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from edge_packages import CONSTRAINTS, FLOWER, ROOT, TEST_TOOLS, edge_requirements, fingerprint

__all__ = ["Host", "NotPossibleError", "ThisHost", "build", "enter", "require_emulation", "wheel_command"]

SUITE: Final = "bookworm"
"""Debian 12: the system of the devices we name, with Python 3.11 and glibc 2.36."""
PYTHON_VERSION: Final = "3.11"
GLIBC_MINOR: Final = 36
DEBIAN_PACKAGES: Final = ("base-files", "dash", "coreutils", "python3", "libstdc++6")
"""dash and coreutils start the command; numpy and LiteRT need libstdc++."""
TOOLS: Final = {
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "qemu-aarch64-static": "qemu-user-static",
}
"""Program by the Debian package that brings it."""
APT_PACKAGES: Final = (*TOOLS.values(), "binfmt-support")
SITE: Final = f"usr/local/lib/python{PYTHON_VERSION}/dist-packages"
CHECKOUT: Final = "fedge"
COPIED: Final = (
    *("runtime", "protocol", "models", "edge_agent", "simulations"),
    *("tests", "deploy", "docs", "pyproject.toml"),
)
ENTER: Final = ROOT / "deploy" / "arm64" / "enter.sh"


class NotPossibleError(RuntimeError):
    """This machine cannot build or run the root; the message says what is missing and what to do."""


class Host(Protocol):
    """The part of this machine that the checks look at."""

    def is_root(self) -> bool:
        """May we mount and chroot?"""

    def has(self, program: str) -> bool:
        """Is it on the path?"""

    def succeeds(self, *command: str) -> bool:
        """Run it quietly; did it end with status 0?"""


class ThisHost:
    """The machine we run on."""

    def is_root(self) -> bool:
        """Effective user 0."""
        return os.geteuid() == 0

    def has(self, program: str) -> bool:
        """On the path, or where root's programs lie."""
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None

    def succeeds(self, *command: str) -> bool:
        """False also where the program is missing."""
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            return subprocess.run(command, capture_output=True, check=False, env=environment).returncode == 0
        except FileNotFoundError:
            return False


def require_emulation(host: Host, say: Callable[[str], None]) -> None:
    """See to it that arm64 programs run here; installs the tools by apt where they are missing.

    Raises:
        NotPossibleError: not root, no apt, or the kernel does not start arm64 programs through qemu.
    """
    by_hand = f"sudo apt-get install {' '.join(APT_PACKAGES)}"
    if not host.is_root():
        raise NotPossibleError(
            f"building and entering an arm64 root needs root (mounts, chroot): sudo make prove-arm64; tools: {by_hand}"
        )
    missing = [program for program in TOOLS if not host.has(program)]
    if missing:
        if not host.has("apt-get"):
            raise NotPossibleError(
                f"{', '.join(missing)} missing and no apt-get here; this target needs Debian or Ubuntu"
            )
        say(f"installing {', '.join(APT_PACKAGES)} ({', '.join(missing)} missing)")
        install = ("apt-get", "-qq", "install", "-y", "--no-install-recommends", *APT_PACKAGES)
        if not (host.succeeds("apt-get", "-qq", "update") and host.succeeds(*install)):
            raise NotPossibleError(f"apt-get could not install the tools; try by hand: {by_hand}")
    if host.succeeds("arch-test", "arm64"):
        return
    # In a container the service that registers qemu with the kernel has not run.
    host.succeeds("mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc")
    host.succeeds("update-binfmts", "--enable", "qemu-aarch64")
    if not host.succeeds("arch-test", "arm64"):
        raise NotPossibleError(
            "the kernel does not start arm64 programs: /proc/sys/fs/binfmt_misc/qemu-aarch64 is missing or disabled; "
            "in a container, register qemu on its host (update-binfmts --enable qemu-aarch64) or give it CAP_SYS_ADMIN"
        )


def build(folder: Path, say: Callable[[str], None], *, is_fresh: bool = False) -> None:
    """Make the root with a device's packages in `folder`, unless it was made from the same, and copy the checkout in.

    Raises:
        subprocess.CalledProcessError: mmdebstrap or pip failed; stderr holds their words.
    """
    stamp = folder / "built-from"
    wanted = fingerprint(
        SUITE, *DEBIAN_PACKAGES, *TEST_TOOLS, FLOWER, Path(__file__).read_text(encoding="utf-8")
    )
    if is_fresh or not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        say(f"building a Debian {SUITE} arm64 root in {folder} (once; under a minute on a good line)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _unpack_debian(folder)
        requirements = edge_requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        _run(wheel_command(folder / SITE, [*requirements, *TEST_TOOLS]))
        _run(wheel_command(folder / SITE, [FLOWER], "--no-deps"))
        (folder / SITE / f"{CHECKOUT}.pth").write_text(f"/{CHECKOUT}\n", encoding="utf-8")
        stamp.write_text(wanted, encoding="utf-8")
    _copy_checkout(folder / CHECKOUT)


def wheel_command(target: Path, requirements: Sequence[str], *options: str) -> list[str]:
    """pip's arguments to put aarch64 wheels into `target` from this machine: minutes quicker than pip under emulation.

    pip evaluates environment markers for the machine it runs on; none of the edge extra's tells x86 from aarch64.
    """
    # pip does not conclude from manylinux_2_36 that older ones fit.
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1)] + [
        "manylinux2014_aarch64"
    ]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    python = [
        "--python-version",
        PYTHON_VERSION,
        "--implementation",
        "cp",
        "--abi",
        f"cp{PYTHON_VERSION.replace('.', '')}",
    ]
    quiet = ["-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    pip = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), "--only-binary=:all:"]
    return [*pip, *python, *platforms, *options, "-c", str(CONSTRAINTS), *requirements]


def enter(folder: Path, processor: str, *command: str) -> list[str]:
    """The command line that runs `command` inside the root as on `processor` (a file of deploy/arm64/cpuinfo)."""
    return [str(ENTER), str(folder), processor, *command]


def _unpack_debian(folder: Path) -> None:
    _run(
        [
            "mmdebstrap",
            "--quiet",
            "--arch=arm64",
            "--variant=extract",
            f"--include={','.join(DEBIAN_PACKAGES)}",
            SUITE,
            str(folder),
        ]
    )
    # What the maintainer scripts would have left, as far as Python asks for it.
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (folder / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="utf-8")


def _copy_checkout(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.part")
            )
        else:
            shutil.copy2(ROOT / name, target / name)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
