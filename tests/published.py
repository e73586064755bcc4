"""The distribution as it would be published: built from what git knows of this checkout, in a folder of its own.

In a checkout a build leaves `build/lib` behind, out of which a file that was removed long ago gets into the next wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A wheel, the sdist it was made from, and the wheel unpacked."""

    wheel: Path
    sdist: Path
    unpacked: Path

    @property
    def metadata(self) -> Message:
        """What a package index shows."""
        (path,) = self.unpacked.glob("*.dist-info/METADATA")
        return BytesParser().parsebytes(path.read_bytes())


def tracked_files() -> list[Path]:
    """What git knows of, or would with the next commit; relative to the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    return [
        path
        for name in listed.stdout.decode().split("\0")
        if name and (ROOT / (path := Path(name))).is_file()
    ]


def publish(folder: Path) -> Published:
    """Build sdist and wheel, the wheel from the sdist, with the setuptools that is installed; unpack the wheel."""
    source = folder / "source"
    for path in tracked_files():
        if path.parts[0] not in {"tests", "benchmarks"}:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")  # noqa: S202 - our own, a second old
    return Published(wheel=wheel, sdist=sdist, unpacked=folder / "unpacked")


def names_in_sdist(sdist: Path) -> set[str]:
    """Its files, without the folder that they all lie in."""
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}
