"""What a base image is, by what is in it: partitions, system, processor, Python, and how it is customised at its first boot.

| system | first boot |
|---|---|
| Raspberry Pi OS with cloud-init (Trixie since November 2025) | ``user-data``, ``network-config`` on the FAT partition |
| Raspberry Pi OS with raspberrypi-sys-mods (Bookworm, first Trixie) | ``firstrun.sh`` on it, called by ``cmdline.txt`` |
| Debian with cloud-init (its cloud images) | a NoCloud seed in ``/var/lib/cloud/seed/nocloud`` |

Anything else is refused by its name: a card that ignores what it was told is found out at the machine, hours later.

Source: doc/os_customisation_formats.md of raspberrypi/rpi-imager; cloud-init's documentation, datasource NoCloud.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from fleet.device_bundle.boards import PYTHONS, Arch, Board
from fleet.flashing.ext4_partition import Ext4Partition
from fleet.flashing.fat_partition import FatPartition
from fleet.flashing.programs import FlashError, call
from runtime.errors import SettingsError

__all__ = ["BaseImage", "FirstBoot", "recognise"]

_KNOWN: Final = (
    "Raspberry Pi OS (Bookworm, Trixie; 64-bit) and Debian's cloud images; a board that runs takes --ssh"
)
_FORMS: Final = {
    b"PK\x03\x04": "a zip archive: unzip it",
    b"\x1f\x8b": "compressed with gzip: gunzip it",
    b"QFI\xfb": "a qcow2 disk: qemu-img convert -O raw makes an image of it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unzstd it",
}
_SYS_MODS: Final = ("/usr/lib/raspberrypi-sys-mods/imager_custom", "/usr/lib/userconf-pi/userconf")
_ELF_32: Final = 1


class FirstBoot(StrEnum):
    """How a system is customised when it starts for the first time."""

    CLOUD_INIT_ON_BOOT = "cloud-init on the boot partition"
    FIRSTRUN = "firstrun.sh"
    CLOUD_INIT_SEED = "cloud-init's seed in the root file system"


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """A system that is known: `name` for people, and where what is written goes."""

    name: str
    first_boot: FirstBoot
    board: Board
    root: Ext4Partition
    boot: FatPartition | None

    @property
    def has_radio(self) -> bool:
        """Whether its kernel and network know Wi-Fi."""
        return self.first_boot is not FirstBoot.CLOUD_INIT_SEED


def recognise(image: Path) -> BaseImage:
    """Look into `image`; raises SettingsError, in one line, for one that an agent cannot be put on."""
    fats, roots = _file_systems(image)
    for root in roots:
        release = root.read("/usr/lib/os-release") or root.read("/etc/os-release")
        if release is not None:
            break
    else:
        raise SettingsError(f"{image} holds no Linux on ext4; known are {_KNOWN}")
    words = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release.decode(errors="replace"), re.MULTILINE))
    name = words.get("PRETTY_NAME", "a Linux without a name")
    boot = next((fat for fat in fats if {"config.txt", "cmdline.txt"} <= fat.names()), None)
    if root.has("/etc/rpi-issue") and boot is not None:
        name = f"Raspberry Pi OS ({words.get('VERSION_CODENAME', name)})"
    first_boot = _first_boot(image, name, words, root, boot)
    if root.has("/opt/fedge"):
        raise SettingsError(f"{image} was flashed before (it has /opt/fedge): start from the vendor's image")
    return BaseImage(name=name, first_boot=first_boot, board=_board(image, name, root), root=root, boot=boot)


def _first_boot(
    image: Path, name: str, words: dict[str, str], root: Ext4Partition, boot: FatPartition | None
) -> FirstBoot:
    has_cloud_init = root.has("/usr/bin/cloud-init")
    if root.has("/etc/rpi-issue"):
        if boot is not None and has_cloud_init and "user-data" in boot.names():
            return FirstBoot.CLOUD_INIT_ON_BOOT
        if boot is not None and all(root.has(program) for program in _SYS_MODS):
            if "firstrun.sh" in boot.names() or b"systemd.run=" in boot.read("cmdline.txt"):
                raise SettingsError(
                    f"{image} was customised before (firstrun.sh): start from the vendor's image"
                )
            return FirstBoot.FIRSTRUN
    elif words.get("ID") == "debian" and has_cloud_init:
        return FirstBoot.CLOUD_INIT_SEED
    raise SettingsError(
        f"{image} is {name}, and how that is customised at its first boot is not known here; known are {_KNOWN}"
    )


def _board(image: Path, name: str, root: Ext4Partition) -> Board:
    present = root.names("/usr/bin")
    python = next((version for version in reversed(PYTHONS) if f"python{version}" in present), None)
    if python is None:
        others = ", ".join(sorted(p for p in present if re.fullmatch(r"python3\.\d+", p))) or "none"
        raise SettingsError(
            f"{image} ({name}) has no Python that an agent runs on: it has {others}; needed is {' or '.join(PYTHONS)}"
        )
    head = (root.read(f"/usr/bin/python{python}") or b"")[:20]
    machine = struct.unpack_from("<H", head, 18)[0] if len(head) == 20 and head[:4] == b"\x7fELF" else 0
    arch = next((arch for arch in Arch if arch.elf_machine == machine), None)
    if arch is None or head[4] == _ELF_32:
        raise SettingsError(
            f"{image} ({name}) is not for arm64 or amd64 (32-bit systems have no LiteRT): take its 64-bit edition"
        )
    if "libstdc++.so.6" not in root.names(f"/usr/lib/{arch.machine}-linux-gnu"):
        raise SettingsError(
            f"{image} ({name}) has no libstdc++6, without which numpy does not load: take an image with it"
        )
    return Board(arch=arch, python=python)


def _file_systems(image: Path) -> tuple[list[FatPartition], list[Ext4Partition]]:
    try:
        with image.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise SettingsError(f"cannot read {image}: {error.strerror or error}") from None
    if form := next((words for magic, words in _FORMS.items() if head.startswith(magic)), None):
        raise SettingsError(f"{image} is {form}")
    try:
        table = json.loads(call("sfdisk", "--json", str(image)).stdout)["partitiontable"]
        size = int(table.get("sectorsize", 512))
        parts = [(part["start"] * size, part["size"] * size) for part in table["partitions"]]
    except (FlashError, ValueError, KeyError):
        raise SettingsError(
            f"{image} is no disk image: it has no partition table; known are {_KNOWN}"
        ) from None
    fats, roots = [], []
    with image.open("rb") as file:
        for offset, size_bytes in parts:
            file.seek(offset)
            first = file.read(2048)
            if first[1080:1082] == b"\x53\xef":
                roots.append(Ext4Partition(image=image, offset=offset))
            elif first[510:512] == b"\x55\xaa" and b"FAT" in (first[54:57], first[82:85]):
                fats.append(FatPartition(image=image, offset=offset, size_bytes=size_bytes))
    return fats, roots
