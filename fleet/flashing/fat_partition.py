"""A FAT file system inside an image, read and written through mtools."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.flashing.programs import FlashError, call

__all__ = ["FatPartition"]

_CHUNK: Final = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class FatPartition:
    """It begins at byte `offset` of the file `image` and is `size_bytes` long."""

    image: Path
    offset: int
    size_bytes: int

    def names(self) -> set[str]:
        """What lies in its root folder, in small letters."""
        listed = call("mdir", "-i", self._drive, "-b", "::/", accepted=(0, 1)).stdout.decode(errors="replace")
        return {
            line.strip().removeprefix("::/").rstrip("/").lower()
            for line in listed.splitlines()
            if line.strip()
        }

    def read(self, name: str) -> bytes:
        """The content of a file in its root folder; raises FlashError."""
        return call("mcopy", "-n", "-i", self._drive, f"::/{name}", "-").stdout

    def write(self, name: str, content: bytes) -> None:
        """Write a file into its root folder, over one of that name, and read it again; raises FlashError."""
        with tempfile.TemporaryDirectory(prefix="fedge-fat-") as folder:
            source = Path(folder) / "content"
            source.write_bytes(content)
            call("mcopy", "-o", "-i", self._drive, str(source), f"::/{name}")
        if self.read(name) != content:
            raise FlashError(f"{name} on the boot partition of {self.image} is not what was written")

    def check(self) -> None:
        """Have fsck look at the whole file system; raises FlashError where it finds something."""
        with tempfile.NamedTemporaryFile(prefix="fedge-fat-") as copy, self.image.open("rb") as image:
            image.seek(self.offset)
            left = self.size_bytes
            while left > 0 and (chunk := image.read(min(_CHUNK, left))):
                left -= len(chunk)
                if chunk.count(0) == len(chunk):
                    copy.seek(len(chunk), os.SEEK_CUR)  # stays a hole
                else:
                    copy.write(chunk)
            copy.truncate(self.size_bytes)
            copy.flush()
            call("fsck.fat", "-n", copy.name)

    @property
    def _drive(self) -> str:
        return f"{self.image}@@{self.offset}"
