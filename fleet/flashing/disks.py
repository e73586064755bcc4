"""Which disk is meant, whether it may be written, and what a person is told of it before it is: read from /sys and /proc.

Refused: what is no whole disk, is write-protected, holds no card, or is in use: mounted, swapped to, part of something larger, or what
this machine runs from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.errors import SettingsError

__all__ = ["Disk", "Surroundings", "look_at_disk"]

_SYSTEM: Final = {"/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var", "/home"}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A whole disk that nothing uses."""

    path: Path
    name: str
    size_bytes: int
    model: str
    is_removable: bool

    def __str__(self) -> str:
        """For the person who is asked."""
        kind = "removable" if self.is_removable else "NOT removable"
        return f"{self.path}: {self.model}, {self.size_bytes / 1e9:.1f} GB, {kind}"


def _numbers(path: Path) -> tuple[int, int] | None:
    """(major, minor) of a block device, None for anything else."""
    found = path.stat()
    return (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISBLK(found.st_mode) else None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where the kernel tells of disks; other places in a test alone."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    numbers: Callable[[Path], tuple[int, int] | None] = _numbers


def look_at_disk(given: Path, around: Surroundings | None = None) -> Disk:
    """The disk at `given`; raises SettingsError, in one line, where it must not be written."""
    around = around or Surroundings()
    try:
        path = given.resolve(strict=True)
        numbers = around.numbers(path)
    except OSError as error:
        raise SettingsError(
            f"--device {given}: {error.strerror or error}; lsblk lists this machine's disks"
        ) from None
    if numbers is None:
        raise SettingsError(
            f"--device {given} is no disk (an image goes to --out); lsblk lists this machine's disks"
        )
    place = (around.sys / "dev" / "block" / f"{numbers[0]}:{numbers[1]}").resolve()
    if (place / "partition").exists():
        raise SettingsError(
            f"--device {given} is a partition: the image has its own, so give the whole disk /dev/{place.parent.name}"
        )
    _refuse_used(given, place, around)
    size_bytes = int(_text(place / "size") or 0) * 512
    if size_bytes == 0:
        raise SettingsError(f"--device {given} holds no card: put one in")
    if _text(place / "ro") == "1":
        raise SettingsError(f"--device {given} is write-protected: look for the switch on the card")
    names = [_text(place / "device" / part) for part in ("vendor", "model", "name")]
    model = " ".join(name for name in names if name) or "no name"
    return Disk(
        path=path,
        name=place.name,
        size_bytes=size_bytes,
        model=model,
        is_removable=_text(place / "removable") == "1" or place.name.startswith("mmcblk"),
    )


def _refuse_used(given: Path, place: Path, around: Surroundings) -> None:
    mounts = {numbers: point for numbers, _, point in _mounts(around)} | {
        source: point for _, source, point in _mounts(around)
    }
    swaps = [line.split()[0] for line in _text(around.proc / "swaps").splitlines()[1:] if line.split()]
    system, used = "", ""
    for part in _parts(place, around):
        device = f"/dev/{part.name}"
        for point in {mounts.get(_text(part / "dev")), mounts.get(device)} - {None}:
            if point in _SYSTEM:
                system = f"{device} is {point}"
            used = used or f"{device} is mounted at {point}: umount {point}"
        if device in swaps:
            system = system or f"{device} is its swap"
    holders = {holder.name for part in _own(place) for holder in _folder(part / "holders")}
    if system:
        raise SettingsError(
            f"--device {given} is a disk that this machine runs from ({system}): nothing was written"
        )
    if used:
        raise SettingsError(f"--device {given} is in use: {used}; nothing was written")
    if holders:
        raise SettingsError(
            f"--device {given} is in use by {', '.join(sorted(holders))} (RAID, LVM or encryption); nothing was written"
        )


def _own(place: Path) -> list[Path]:
    """The disk and its partitions."""
    return [place, *(part for part in _folder(place) if (part / "partition").exists())]


def _parts(place: Path, around: Surroundings) -> Iterator[Path]:
    """The disk, its partitions, and whatever is made of one of them."""
    waiting, seen = _own(place), set[str]()
    while waiting:
        part = waiting.pop()
        if part.name in seen:
            continue
        seen.add(part.name)
        yield part
        waiting += [around.sys / "class" / "block" / holder.name for holder in _folder(part / "holders")]


def _mounts(around: Surroundings) -> Iterator[tuple[str, str, str]]:
    """(major:minor, source, where) of every mount."""
    for line in _text(around.proc / "self" / "mountinfo").splitlines():
        parts = line.split()
        if "-" in parts and len(parts) > parts.index("-") + 2:
            yield parts[2], parts[parts.index("-") + 2], parts[4].replace("\\040", " ")


def _folder(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
