"""A virtual environment made for a proof: built anew when what it follows from changed, closed to packages from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_packages import ROOT

__all__ = ["VirtualEnvironment"]

_HIDDEN: Final = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})


class VirtualEnvironment:
    """The environment in `folder`, made with the Python that runs this."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.python: Final = folder / "bin" / "python"
        self._stamp: Final = folder / "built-from"

    def build(
        self,
        wanted: str,
        install: Callable[[VirtualEnvironment], None],
        say: Callable[[str], None],
        *,
        is_fresh: bool,
    ) -> None:
        """Make it and `install` into it, unless it was made for the same `wanted`; raises CalledProcessError."""
        if not is_fresh and self._stamp.is_file() and self._stamp.read_text(encoding="utf-8") == wanted:
            return
        say(f"building {self.folder.name} (once; a few minutes on a slow line)")
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "venv", self.folder], check=True, capture_output=True, text=True
        )
        install(self)
        packages = self.run("-m", "pip", "list", "--format=freeze").count("==")
        size_bytes = sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file())
        say(f"{packages} packages, {size_bytes / 1e6:.0f} MB")
        self._stamp.write_text(wanted, encoding="utf-8")

    def install(self, *arguments: str) -> None:
        """``pip install`` inside, quietly; raises CalledProcessError."""
        self.run("-m", "pip", "-q", "--disable-pip-version-check", "install", *arguments)

    def run(self, *arguments: str, folder: Path = ROOT) -> str:
        """Run its Python in `folder` and return what it printed; raises CalledProcessError."""
        command = [self.python, *arguments]
        return subprocess.run(
            command, cwd=folder, env=_clean(), check=True, capture_output=True, text=True
        ).stdout

    def test(self, *arguments: str) -> bool:
        """Run pytest in the checkout, its output passed on; True when everything passed."""
        command = [self.python, "-m", "pytest", "-q", "-m", "edge", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=ROOT, env=_clean(), check=False).returncode == 0


def _clean() -> dict[str, str]:
    """The caller's environment without anything that would let packages from elsewhere in."""
    return {name: value for name, value in os.environ.items() if name not in _HIDDEN}
