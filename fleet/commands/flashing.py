"""``flash``: the agent onto a card, a disk or a running board, with the join file that lets it in."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.commands.printing import say
from runtime.errors import SettingsError
from service.errors import ClientError

if TYPE_CHECKING:  # what the other commands need not wait for
    from fleet.device_bundle.archive import DeviceBundle
    from fleet.flashing.base_images import BaseImage
    from fleet.flashing.cards import Card
    from fleet.flashing.disks import Disk
    from fleet.flashing.first_boot import Wanted
    from fleet.flashing.join_check import Source
    from protocol.join_file import JoinFile

__all__ = ["flash", "write_card"]


def flash(
    join: Annotated[
        list[str], typer.Option(help="What `fedge device add` made; {} with --count", metavar="FILE")
    ],
    bundle: Annotated[Path, typer.Option(help="What `fedge-fleet bundle` made")],
    source: Annotated[
        str | None,
        typer.Option(
            help="Where windows come from, as `fedge-agent join --source` takes it; a file comes along"
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="The vendor's image, .img or .img.xz")] = None,
    out: Annotated[str | None, typer.Option(help="The new image; {} with --count", metavar="FILE")] = None,
    device: Annotated[
        Path | None, typer.Option(help="A card or disk to write, e.g. /dev/sdb: asks first")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="card.toml: user, ssh_key_files, hostname, timezone, wifi")
    ] = None,
    ssh: Annotated[
        str | None, typer.Option(help="A board that runs, instead of an image", metavar="USER@HOST")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="So many cards, with 1, 2, … for {} in --join and --out", metavar="N")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Also a list for Raspberry Pi Imager, NAME.rpi-imager-manifest")
    ] = None,
) -> None:
    """Put the agent and a join file into a vendor's image, and onto a card, or onto a board that runs: the device enrols itself."""
    from fleet.flashing.join_check import check_source, numbered, read_join_files
    from fleet.flashing.programs import require_programs

    files = [Path(text) for text in numbered(join, count, "--join")]
    joins = read_join_files(files, now=time.time())
    word = check_source(source)
    if ssh is not None:
        if len(files) != 1 or any(given is not None for given in (image, out, device, settings, manifest)):
            raise SettingsError("--ssh takes one --join, --bundle and --source, and nothing of an image")
        _on_board(ssh, files[0], joins[0], bundle, word)
        return
    if image is None or (out is None and device is None):
        raise SettingsError(
            "say what is made: --image BASE.img with --out CARD.img, with --device /dev/sdX, or both; or --ssh user@host"
        )
    outs = [Path(text) for text in numbered([out], count, "--out")] if out is not None else []
    if out is not None and len(outs) != len(files):
        raise SettingsError(
            f"{len(files)} join files make {len(files)} cards: name them with --count and {{}} in --out"
        )
    _check_places(outs, image, manifest)
    require_programs()
    wishes = _Wishes.read(settings, [made.device for made in joins])
    with _unpacked(bundle) as (found, tree, paths):
        from fleet.flashing.cards import Card

        made: dict[Path, tuple[str, BaseImage]] = {}
        for number, (file, its_join) in enumerate(zip(files, joins, strict=True)):
            card = Card(
                bundle=found,
                tree=tree,
                paths=paths,
                join_file=file,
                join=its_join,
                source=word,
                wanted=wishes.of(its_join),
            )
            kept = outs[number] if outs else None
            base = _one_card(image, kept, device, card, rest=len(files) - number - 1)
            if kept is not None:
                made[kept] = (its_join.device, base)
    if manifest is not None:
        from fleet.flashing.imager_manifest import imager_manifest
        from runtime.durable_files import write_durably

        write_durably(manifest, imager_manifest(made, datetime.now(UTC).date()))
        say(
            f"{manifest}: for Raspberry Pi Imager 2; it writes {len(made)} finished images and customises none"
        )


def _on_board(place: str, file: Path, join: JoinFile, bundle: Path, source: Source) -> None:
    from fleet.device_bundle.archive import read_bundle
    from fleet.flashing.board_shell import BoardShell
    from fleet.flashing.running_board import Boarding, install_on_board

    boarding = Boarding(bundle=read_bundle(bundle), join_file=file, device=join.device, source=source)
    with BoardShell(place) as shell:
        install_on_board(shell, boarding, say)


def _check_places(outs: list[Path], image: Path, manifest: Path | None) -> None:
    from fleet.flashing.imager_manifest import SUFFIX

    if not image.is_file():
        raise SettingsError(f"--image {image}: there is no such file")
    for path in outs:
        if not path.absolute().parent.is_dir():
            raise SettingsError(f"--out {path}: there is no folder {path.absolute().parent}")
        if path.exists() and (not path.is_file() or path.samefile(image)):
            raise SettingsError(
                f"--out {path} is {'the base image itself' if path.is_file() else 'no file (a disk takes --device)'}"
            )
    if manifest is not None and (not outs or manifest.suffix != SUFFIX):
        raise SettingsError(
            f"--manifest {manifest}: it lists images that --out names, in a file that ends in {SUFFIX}"
        )


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[DeviceBundle, Path, list[str]]]:
    """A bundle, unpacked once for all cards."""
    from fleet.device_bundle.archive import read_bundle, unpack_bundle

    found = read_bundle(path)
    with tempfile.TemporaryDirectory(prefix="fedge-agent-") as folder:
        yield found, Path(folder), unpack_bundle(found, Path(folder))


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    """card.toml, read once, with what it names."""

    common: dict[str, Any] = field(default_factory=dict)
    host_name: str | None = None

    @classmethod
    def read(cls, file: Path | None, devices: list[str]) -> _Wishes:
        """Raises SettingsError."""
        if file is None:
            return cls()
        from fleet.flashing.card_settings import CardSettings
        from runtime.settings import read_settings
        from service.secret_files import read_secret

        found = read_settings(file, CardSettings)
        if found.hostname is not None and len(devices) > 1:
            raise SettingsError(
                f"{file}: hostname is one name for {len(devices)} devices: leave it out, and each is called as it is"
            )
        try:
            keys = tuple(found.ssh_keys())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file}: ssh_key_files: {error}") from None
        wifi = found.wifi
        password = read_secret(wifi.password_file, "wifi.password_file") if wifi is not None else ""
        if wifi is not None and not 8 <= len(password) <= 63:
            raise SettingsError(f"{file}: wifi.password_file: {len(password)} characters; WPA takes 8 to 63")
        radio = None if wifi is None else (wifi.ssid, password, wifi.country)
        common = {"user": found.user, "ssh_keys": keys, "timezone": found.timezone, "wifi": radio}
        return cls(common=common, host_name=found.hostname)

    def of(self, join: JoinFile) -> Wanted:
        """For one device; raises SettingsError where its name is no machine's."""
        from fleet.flashing.card_settings import host_name
        from fleet.flashing.first_boot import Wanted

        try:
            return Wanted(host_name=self.host_name or host_name(join.device), **self.common)
        except ValueError as error:
            raise SettingsError(str(error)) from None


def _one_card(image: Path, out: Path | None, device: Path | None, card: Card, *, rest: int) -> BaseImage:
    from fleet.flashing.cards import make_card

    began = time.monotonic()
    disk = None if device is None else _asked_for(device, image, card, rest)
    with tempfile.TemporaryDirectory(prefix="fedge-image-") as folder:
        path = out or Path(folder) / "card.img"
        base = make_card(image, path, card)
        nobody = "" if card.wanted.user else "; nobody may log in (no user in --settings)"
        where = f"{path}: " if out is not None else ""
        say(
            f"{where}{base.name} for {card.join.device} by {base.first_boot}, in {time.monotonic() - began:.1f} s{nobody}"
        )
        if disk is not None:
            write_card(path, disk)
    return base


def _asked_for(device: Path, image: Path, card: Card, rest: int) -> Disk:
    """The disk, once a person has typed its name."""
    from fleet.flashing.disks import look_at_disk
    from service.confirmation import ask_for_name

    more = f" ({rest} more cards follow)" if rest else ""
    if rest or not sys.stdin.isatty():
        print(f"the card for {card.join.device}{more}", file=sys.stderr)
    disk = look_at_disk(device)
    _check_room(image, disk)
    print(disk, file=sys.stderr)
    try:
        ask_for_name(disk.name, f"Writing over all of {disk.path}", yes=False)
    except ClientError:
        raise ClientError(f"nothing was written: {disk.name!r} was not typed") from None
    return disk


def _check_room(image: Path, disk: Disk) -> None:
    size = image.stat().st_size
    if size > disk.size_bytes:
        raise SettingsError(
            f"the image is {size / 1e9:.1f} GB, and {disk.path} holds {disk.size_bytes / 1e9:.1f} GB: nothing was written"
        )


def write_card(path: Path, disk: Disk) -> None:
    """Write an image to a disk that a person has named; raises SettingsError where that must not be, with nothing written, and FlashError."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from fleet.flashing.disks import look_at_disk
    from fleet.flashing.media import DiskMedium, write_and_verify

    _check_room(path, disk)
    size = path.stat().st_size
    if (
        look_at_disk(disk.path) != disk
    ):  # it may have been mounted since, or another one have come in its place
        raise SettingsError(
            f"{disk.path} is another disk by now than the one that was named, {disk}: nothing was written"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        DiskMedium(disk.path) as medium,
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("writing", total=size)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        blocks = write_and_verify(path, medium, str(disk.path), progress)
    say(f"{disk.path}: {size / 1e9:.1f} GB written and read back, {blocks} blocks, each as it should be")
