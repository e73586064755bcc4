"""The file of a device bundle: a tar of the tree, compressed with xz, the same bytes for the same tree; and how one is opened.

Names are sorted; owner, group and time of every entry are 0, so that nothing of the machine that made it gets in. xz, because the
device's own Python unpacks it without any other program.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fleet.device_bundle.boards import PYTHONS, Arch, Board
from fleet.device_bundle.tree import DESCRIPTION, TreeFile
from runtime.errors import SettingsError, StorageError

__all__ = ["MOST_BYTES", "DeviceBundle", "pack", "read_bundle", "unpack_bundle"]

MOST_BYTES: Final = 50_000_000
"""Of the file: what is carried to a device over a radio link, and fits beside a vendor's image."""
_LINK: Final = re.compile(r"[A-Za-z0-9._/-]+")
_PRESET: Final = 3
"""35 MB in a third of the time that 31 MB take."""


@dataclass(frozen=True, kw_only=True)
class DeviceBundle:
    """A bundle's file and what it says of itself."""

    path: Path
    board: Board
    version: str


def pack(files: Sequence[TreeFile]) -> bytes:
    """The archive of `files`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(files, key=lambda file: file.path):
            entry = tarfile.TarInfo(file.path)
            entry.mode = 0o755 if file.is_program else 0o644
            if file.link is not None:
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, file.link, 0o777
            entry.size = len(file.content)
            archive.addfile(entry, io.BytesIO(file.content))
    return lzma.compress(plain.getbuffer(), preset=_PRESET)


def read_bundle(path: Path) -> DeviceBundle:
    """What a bundle says of itself; raises SettingsError for anything that is none."""
    wrong = f"{path} is no device bundle: `fedge-fleet bundle` makes one"
    try:
        with tarfile.open(path, "r:xz") as archive:
            for entry in archive:  # it lies near the front: nothing behind it is unpacked
                if (
                    entry.name == DESCRIPTION
                    and entry.isreg()
                    and (opened := archive.extractfile(entry)) is not None
                ):
                    return _described(path, json.loads(opened.read(4096)))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from None
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, RecursionError):
        raise SettingsError(wrong) from None
    raise SettingsError(wrong)


def unpack_bundle(bundle: DeviceBundle, folder: Path) -> list[str]:
    """Unpack all of it into `folder`, which is there and empty; returns the paths in it.

    Raises:
        SettingsError: it is damaged, or holds what no bundle of ours does; what was unpacked is to be thrown away.
        StorageError: `folder` cannot take it.
    """
    paths = []
    try:
        with tarfile.open(bundle.path, "r:xz") as archive:
            for entry in archive:
                place = _place_of(entry, bundle, folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                if entry.issym():
                    place.symlink_to(entry.linkname)
                elif (opened := archive.extractfile(entry)) is not None:
                    place.write_bytes(opened.read())
                    place.chmod(entry.mode)
                paths.append(entry.name)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise SettingsError(f"{bundle.path} is damaged ({error}): copy it again, or make it again") from None
    except OSError as error:
        raise StorageError(f"cannot unpack {bundle.path} into {folder}: {error.strerror or error}") from None
    return paths


def _place_of(entry: tarfile.TarInfo, bundle: DeviceBundle, folder: Path) -> Path:
    """Where an entry goes: below `folder` and through no link of an earlier one, over nothing that is there."""
    path, place = PurePosixPath(entry.name), folder / entry.name
    is_link = entry.issym() and path.parent == PurePosixPath("bin") and _LINK.fullmatch(entry.linkname)
    is_ours = (entry.isreg() or is_link) and entry.name.isprintable() and not entry.mode & 0o7000
    if path.is_absolute() or ".." in path.parts or not is_ours or _is_taken(place, path, folder):
        raise SettingsError(f"{bundle.path} holds {entry.name!r:.80}, which no bundle of ours does")
    return place


def _is_taken(place: Path, path: PurePosixPath, folder: Path) -> bool:
    return os.path.lexists(place) or place.parent.resolve() != (folder.resolve() / path.parent)


def _described(path: Path, said: Any) -> DeviceBundle:
    if not isinstance(said, dict) or said.get("fedge_device_bundle") != 1:
        raise SettingsError(f"{path} is a device bundle of another form: make it with this very fedge-fleet")
    arch, python = said.get("arch"), said.get("python")
    if arch not in list(Arch) or python not in PYTHONS:
        raise SettingsError(
            f"{path} is for {arch!r:.20} with Python {python!r:.20}, which nothing here knows"
        )
    board = Board(arch=Arch(arch), python=python)
    return DeviceBundle(path=path, board=board, version=str(said.get("version")))
