"""``bundle``: the agent for one kind of board, in one file that is unpacked on a device without a network."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fleet.commands.connection import JsonOption
from fleet.commands.printing import print_json, say
from runtime.errors import SettingsError
from service.plant import PlantOption, look_for_plant

__all__ = ["bundle"]


def bundle(
    arch: Annotated[str, typer.Option(help="arm64 or amd64")],
    python: Annotated[str, typer.Option(help="Of the device: 3.11, 3.12 or 3.13")],
    out: Annotated[Path, typer.Option(help="The new file, e.g. agent-arm64.tar.xz")],
    requirements: Annotated[
        Path | None,
        typer.Option(help="What is in it  [default: the plant's, else the newest of this Fedge]"),
    ] = None,
    plant: PlantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a device bundle: the agent and all its packages, locked, unpacked, with their bill of materials and licences."""
    from fleet.device_bundle.boards import PYTHONS, Arch, Board
    from fleet.device_bundle.making import make_bundle
    from fleet.plant.agent_requirements import write_agent_requirements

    if arch not in list(Arch):
        raise SettingsError(
            f"--arch {arch!r:.40} is none that an agent runs on: arm64 or amd64 (armv7 has no LiteRT)"
        )
    if python not in PYTHONS:
        raise SettingsError(f"--python {python!r:.40} is none that an agent runs on: {', '.join(PYTHONS)}")
    if not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: there is no folder {out.absolute().parent}")
    with tempfile.TemporaryDirectory(prefix="fedge-list-") as folder:
        found = None if requirements is not None else look_for_plant(plant)
        listed = requirements or (
            found.agent_requirements if found else Path(folder) / "agent-requirements.txt"
        )
        if sys.stderr.isatty():
            print("fetches, unpacks and packs what a device runs: a minute or two …", file=sys.stderr)
        if requirements is None:
            write_agent_requirements(listed)
        made = make_bundle(listed, Board(arch=Arch(arch), python=python), out)
    sha256 = hashlib.sha256(out.read_bytes()).hexdigest()
    if as_json:
        told = {"file": str(out), "arch": arch, "python": python, "sha256": sha256, "bytes": made.size_bytes}
        print_json(
            {**told, "unpacked_bytes": made.unpacked_bytes, "files": made.files, "packages": made.packages}
        )
        return
    say(
        f"{out}: the agent for {made.board}, {made.packages} packages, {made.files} files, {made.size_bytes / 1e6:.1f} MB"
        f" ({made.unpacked_bytes / 1e6:.0f} MB on the device)"
    )
    say(f"  SHA-256 {sha256}")
    say(f"next:  fedge-fleet flash --bundle {out} --join NAME.join --image BASE.img --out CARD.img")
