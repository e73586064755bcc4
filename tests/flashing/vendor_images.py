"""Images in the layouts of vendors, made from nothing in a second: partitions, the files that tell a system, and no kernel.

They imitate what was known in November 2026 of Raspberry Pi OS (Bookworm, Trixie) and of Debian's cloud images. They boot nothing, and say
nothing of what a vendor changes later: what is tested with them was not run on the vendor's image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_MB = 1024 * 1024
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_RELEASES = {
    "bookworm": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n',
    "trixie": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\nID=debian\n',
    "noble": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nVERSION_CODENAME=noble\nID=ubuntu\n',
}
_CMDLINE = "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait quiet\n"
_MACHINES = {"arm64": ("aarch64", 183), "amd64": ("x86_64", 62)}


def raspberry_pi_os(
    path: Path, suite: str = "trixie", *, arch: str = "arm64", root_mb: int = 48, cloud_init: bool = True
) -> Path:
    """FAT and ext4 in an MBR; with cloud-init's files on the FAT partition, or with raspberrypi-sys-mods alone."""
    python = {"bookworm": "3.11", "trixie": "3.13"}[suite]
    root = _root(path.with_suffix(".root"), suite, arch, python)
    (root / "etc" / "rpi-issue").write_text("Raspberry Pi reference 2026-11-01\n")
    _program(root / "usr/lib/raspberrypi-sys-mods/imager_custom")
    _program(root / "usr/lib/userconf-pi/userconf")
    boot = {"config.txt": "arm_64bit=1\n", "cmdline.txt": _CMDLINE, "kernel8.img": "no kernel\n"}
    if cloud_init:
        _program(root / "usr/bin/cloud-init")
        boot |= {
            "user-data": "#cloud-config\n",
            "network-config": "network:\n  version: 2\n",
            "meta-data": "instance_id: rpios-image\n",
        }
    return _image(path, root, root_mb, boot, "dos")


def debian_cloud(
    path: Path, suite: str = "trixie", *, arch: str = "arm64", root_mb: int = 48, missing: str = ""
) -> Path:
    """ext4 as partition 1 and an EFI partition in a GPT; `missing` is left out of the root."""
    python = {"bookworm": "3.11", "trixie": "3.13", "noble": "3.12"}[suite]
    root = _root(path.with_suffix(".root"), suite, arch, python)
    _program(root / "usr/bin/cloud-init")
    if missing:
        (root / missing.format(python=python)).unlink()
    return _image(path, root, root_mb, {"startup.nsh": "\n"}, "gpt")


def ext4_offset(path: Path) -> int:
    """Where the root file system begins, found without the code under test: the partition that holds the superblock's magic."""
    with path.open("rb") as file:
        for megabyte in range(1, 64):
            file.seek(megabyte * _MB + 1080)
            if file.read(2) == b"\x53\xef":
                return megabyte * _MB
    raise AssertionError(f"no ext4 in {path}")


def extract_root(path: Path, folder: Path) -> Path:
    """The whole root file system of an image, in a folder."""
    folder.mkdir()
    run("debugfs", "-R", f"rdump / {folder}", f"{path}?offset={ext4_offset(path)}")
    return folder


def on_boot(path: Path, name: str, offset: int = _MB) -> bytes:
    """A file of the FAT partition that begins at `offset`."""
    return run("mcopy", "-n", "-i", f"{path}@@{offset}", f"::/{name}", "-")


def run(program: str, *words: str, given: bytes | None = None) -> bytes:
    environment = {**os.environ, "PATH": _PATH, "MTOOLS_SKIP_CHECK": "1"}
    found = shutil.which(program, path=_PATH) or program
    return subprocess.run(
        [found, *words], input=given, env=environment, capture_output=True, check=True
    ).stdout


def _root(root: Path, suite: str, arch: str, python: str) -> Path:
    machine, number = _MACHINES.get(arch, ("arm-linux-gnueabihf", 40))
    for folder in (
        "opt",
        "etc/systemd/system",
        "usr/bin",
        "var/lib",
        f"usr/lib/{machine}-linux-gnu",
        "usr/share/zoneinfo/Europe",
    ):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/os-release").write_text(_RELEASES[suite])
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    width = 2 if arch in _MACHINES else 1
    elf = (
        b"\x7fELF"
        + bytes([width, 1, 1])
        + bytes(9)
        + (3).to_bytes(2, "little")
        + number.to_bytes(2, "little")
        + bytes(40)
    )
    (root / f"usr/bin/python{python}").write_bytes(elf)
    (root / f"usr/bin/python{python}").chmod(0o755)
    (root / "usr/bin/python3").symlink_to(f"python{python}")
    (root / f"usr/lib/{machine}-linux-gnu/libstdc++.so.6").write_bytes(elf)
    (root / "usr/share/zoneinfo/Europe/Berlin").write_bytes(b"TZif2")
    return root


def _program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def _image(path: Path, root: Path, root_mb: int, boot: dict[str, str], label: str) -> Path:
    boot_mb = 16
    sectors = (boot_mb * 2048, root_mb * 2048)
    kinds = ("c", "83") if label == "dos" else ("U", "L")
    table = f"label: {label}\nfirst-lba: 2048\n" if label == "gpt" else f"label: {label}\n"
    starts = (2048, 2048 + sectors[0])
    for start, size, kind in zip(starts, sectors, kinds, strict=True):
        table += f"start={start}, size={size}, type={kind}\n"
    with path.open("wb") as file:
        file.truncate((2 + boot_mb + root_mb) * _MB)
    run("sfdisk", "--quiet", str(path), given=table.encode())
    run("mkfs.fat", "-F", "16", "--offset", "2048", str(path), str(boot_mb * 1024))
    for name, text in boot.items():
        source = path.with_suffix(".boot")
        source.write_text(text)
        run("mcopy", "-i", f"{path}@@{_MB}", str(source), f"::/{name}")
    run(
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-d",
        str(root),
        "-E",
        f"offset={starts[1] * 512},root_owner=0:0",
        str(path),
        f"{root_mb}M",
    )
    shutil.rmtree(root)
    return path
