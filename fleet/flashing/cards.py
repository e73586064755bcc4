"""A card's image: a vendor's base image with the agent, one join file and a person's wishes in it, whole or not at all.

::

    base image ─► is it known? ─► copied beside OUT ─► root: bundle, join file, unit ─► boot or seed: first boot ─► fsck of both ─► OUT

The copy gets its name when everything in it was looked at; whatever goes wrong before leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.device_bundle.archive import DeviceBundle
from fleet.flashing.base_images import BaseImage, FirstBoot, recognise
from fleet.flashing.ext4_partition import Planted
from fleet.flashing.first_boot import (
    AGENT,
    PLACE,
    UNIT,
    Wanted,
    firstrun,
    join_script,
    network_config,
    run_firstrun,
    unit,
    user_data,
    with_country,
)
from fleet.flashing.join_check import Source
from fleet.flashing.programs import FlashError, call
from protocol.join_file import JoinFile
from runtime.durable_files import replace_file
from runtime.errors import SettingsError, StorageError

__all__ = ["Card", "make_card"]

_XZ: Final = b"\xfd7zXZ\x00"
_CHUNK: Final = 4 * 1024 * 1024
_SEED: Final = "/var/lib/cloud/seed/nocloud"
_UNITS: Final = "/etc/systemd/system"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What goes onto one card. `tree` is the bundle unpacked in a folder, `paths` the files in it."""

    bundle: DeviceBundle
    tree: Path
    paths: Sequence[str]
    join_file: Path
    join: JoinFile
    source: Source
    wanted: Wanted


def make_card(base: Path, out: Path, card: Card) -> BaseImage:
    """Make `out`; returns what the base image was.

    Raises:
        SettingsError: the base image is none that is known, or not for this bundle.
        FlashError: it has no room, or did not take what was written.
        StorageError: `out` cannot be written.
    """
    is_packed = _is_packed(base)
    if not is_packed:
        _check(recognise(base), base, card)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}") from None
    os.close(handle)
    working = Path(name)
    try:
        _copy(base, working, is_packed=is_packed)
        image = recognise(working)
        _check(image, base, card)
        _fill(image, card)
        _sync(working)
        replace_file(working, out)
    except FlashError as error:
        raise FlashError(f"{error}. {out} was not written") from None
    except StorageError:
        raise
    except OSError as error:  # of what is made beside it, in the folder of temporary files
        raise StorageError(f"{error.strerror or error}. {out} was not written") from None
    finally:
        with contextlib.suppress(OSError):
            working.unlink(missing_ok=True)
    return image


def _check(image: BaseImage, base: Path, card: Card) -> None:
    board, made_for = image.board, card.bundle.board
    if board.arch is not made_for.arch:
        raise SettingsError(
            f"{base} ({image.name}) is for {board.arch}, and {card.bundle.path} for {made_for.arch}: {_remedy(image)}"
        )
    if f"python{made_for.python}" not in image.root.names("/usr/bin"):
        raise SettingsError(
            f"{base} ({image.name}) has Python {board.python}, and {card.bundle.path} is for Python {made_for.python}: {_remedy(image)}"
        )
    zone = card.wanted.timezone
    if zone is not None and not image.root.has(f"/usr/share/zoneinfo/{zone}"):
        raise SettingsError(f"timezone {zone!r} is none that {image.name} knows, e.g. Europe/Berlin")
    if card.wanted.wifi is not None and not image.has_radio:
        raise SettingsError(f"{image.name} knows no Wi-Fi: leave wifi out, or take a board's own image")


def _remedy(image: BaseImage) -> str:
    board = image.board
    return f"fedge-fleet bundle --arch {board.arch} --python {board.python} --out agent-{board.arch}-{board.python}.tar.xz"


def _fill(image: BaseImage, card: Card) -> None:
    with tempfile.TemporaryDirectory(prefix="fedge-card-") as folder:
        texts = _Texts(Path(folder))
        files = [_of_bundle(card.tree, path) for path in card.paths]
        files += [
            Planted(path=f"{PLACE}/device.join", source=card.join_file, mode=0o600, folder_mode=0o700),
            texts.planted(
                f"{PLACE}/join", join_script(card.source.on_device(PLACE)), mode=0o700, folder_mode=0o700
            ),
            texts.planted(f"{_UNITS}/{UNIT}", unit()),
            Planted(path=f"{_UNITS}/multi-user.target.wants/{UNIT}", link=f"../{UNIT}"),
        ]
        if card.source.file is not None:
            files.append(
                Planted(
                    path=card.source.on_device(PLACE), source=card.source.file, mode=0o600, folder_mode=0o700
                )
            )
        if image.first_boot is FirstBoot.CLOUD_INIT_SEED:
            instance = f"instance-id: fedge-{card.join.device}-{card.join.claim_ends_s:.0f}\n"
            files += [
                texts.planted(f"{_SEED}/user-data", user_data(card.wanted), mode=0o600),
                texts.planted(f"{_SEED}/meta-data", instance),
            ]
        image.root.plant(files)
        if image.root.read(f"{PLACE}/device.join") != card.join_file.read_bytes():
            raise FlashError("the join file in the image is not what was written")
    if image.boot is not None and image.first_boot is not FirstBoot.CLOUD_INIT_SEED:
        for name, content in _on_boot(image, card.wanted):
            image.boot.write(name, content)
        image.boot.check()


def _on_boot(image: BaseImage, wanted: Wanted) -> list[tuple[str, bytes]]:
    if image.boot is None:
        return []
    if image.first_boot is FirstBoot.FIRSTRUN:
        cmdline = run_firstrun(image.boot.read("cmdline.txt"))
        return [("firstrun.sh", firstrun(wanted).encode()), ("cmdline.txt", cmdline)]
    network = network_config(wanted)
    country = with_country(image.boot.read("cmdline.txt"), wanted)
    written = [("user-data", user_data(wanted).encode())]
    if network is not None:
        written.append(("network-config", network.encode()))
    return written if country is None else [*written, ("cmdline.txt", country)]


class _Texts:
    """Texts that are planted lie in a folder until they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def planted(self, path: str, text: str, *, mode: int = 0o644, folder_mode: int = 0o755) -> Planted:
        source = self._folder / str(len(list(self._folder.iterdir())))
        source.touch(mode=0o600)
        source.write_text(text, encoding="utf-8")
        return Planted(path=path, source=source, mode=mode, folder_mode=folder_mode)


def _of_bundle(tree: Path, path: str) -> Planted:
    place = tree / path
    if place.is_symlink():
        return Planted(path=f"{AGENT}/{path}", link=str(place.readlink()))
    return Planted(path=f"{AGENT}/{path}", source=place, mode=0o755 if os.access(place, os.X_OK) else 0o644)


def _is_packed(base: Path) -> bool:
    try:
        with base.open("rb") as file:
            return file.read(len(_XZ)) == _XZ
    except OSError as error:
        raise SettingsError(f"cannot read {base}: {error.strerror or error}") from None


def _copy(base: Path, working: Path, *, is_packed: bool) -> None:
    free = shutil.disk_usage(working.parent).free
    needed = base.stat().st_blocks * 512
    if needed > free:
        raise StorageError(
            f"{working.parent} has {free / 1e9:.1f} GB free, and the image takes {needed / 1e9:.1f} GB: give another --out"
        )
    if not is_packed:
        call("cp", "--sparse=auto", "--reflink=auto", "--no-preserve=mode", str(base), str(working))
        return
    try:
        with lzma.open(base) as packed, working.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                if chunk.count(0) == len(chunk):
                    file.seek(len(chunk), os.SEEK_CUR)
                else:
                    file.write(chunk)
            file.truncate()
    except (lzma.LZMAError, EOFError) as error:
        raise SettingsError(f"{base} is damaged ({error}): download it again") from None
    except OSError as error:
        raise StorageError(f"cannot unpack {base} into {working.parent}: {error.strerror or error}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
