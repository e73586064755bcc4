"""Making a device bundle: from the locked list to the file, written whole or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from fleet.device_bundle.archive import MOST_BYTES, pack
from fleet.device_bundle.boards import Board
from fleet.device_bundle.sbom import SBOM, bill_of_materials
from fleet.device_bundle.tree import OURS, TreeFile, build_tree
from fleet.device_bundle.wheels import fetch_wheels
from fleet.plant.agent_requirements import RequirementsError
from runtime.durable_files import write_durably

__all__ = ["MadeBundle", "make_bundle"]


@dataclass(frozen=True, kw_only=True)
class MadeBundle:
    """What was written; sizes in bytes."""

    path: Path
    board: Board
    packages: int
    files: int
    size_bytes: int
    unpacked_bytes: int


def make_bundle(requirements: Path, board: Board, out: Path, *, most_bytes: int = MOST_BYTES) -> MadeBundle:
    """Make `out` for `board` out of the list `requirements` and the wheels beside it.

    Raises:
        RequirementsError: a wheel cannot be had, or the whole is larger than `most_bytes`.
        SettingsError: the list cannot be used.
        StorageError: `out` cannot be written; what was there is untouched.
    """
    with tempfile.TemporaryDirectory(prefix="fedge-bundle-") as folder:
        wheels = fetch_wheels(requirements, board, Path(folder))
        if OURS not in {wheel.name for wheel in wheels}:
            raise RequirementsError(
                f"{requirements} does not list {OURS} itself: `fedge device requirements` does"
            )
        files = build_tree(wheels, board)
        sbom = TreeFile(path=SBOM, content=bill_of_materials(files, wheels, board))
        content = pack([*files, sbom])
    if len(content) > most_bytes:
        raise RequirementsError(
            f"the bundle for {board} is {len(content) / 1e6:.1f} MB; at most {most_bytes / 1e6:.0f} MB are carried to a device"
        )
    write_durably(out, content)
    unpacked = sum(len(file.content) for file in [*files, sbom])
    return MadeBundle(
        path=out,
        board=board,
        packages=len(wheels),
        files=len(files) + 1,
        size_bytes=len(content),
        unpacked_bytes=unpacked,
    )
