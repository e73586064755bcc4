"""The programs that read and write file systems inside an image, without root, mounts or loop devices.

mtools for FAT, e2fsprogs for ext4, sfdisk for partition tables, dosfstools to check: each well kept, and in every distribution.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from runtime.errors import FedgeError, SettingsError

__all__ = ["FlashError", "call", "require_programs"]

_PACKAGES: Final = {
    "sfdisk": "fdisk",
    "mcopy": "mtools",
    "debugfs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "fsck.fat": "dosfstools",
}
_PLACES: Final = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where ordinary users' PATH often does not lead."""
_PATIENCE_S: Final = 1800.0


class FlashError(FedgeError):
    """A card, an image or a board did not take what was written; says what is left there."""


def require_programs(environment: dict[str, str] | None = None) -> None:
    """Raise SettingsError, with the line that installs them, where a program is missing."""
    path = _path(environment)
    missing = [program for program in _PACKAGES if shutil.which(program, path=path) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES[program] for program in missing}))
        raise SettingsError(f"flashing needs {', '.join(missing)}: sudo apt-get install {packages}")


def call(program: str, *words: str, accepted: Sequence[int] = (0,)) -> subprocess.CompletedProcess[bytes]:
    """Run one of them to its end; raises FlashError where it ends with a status that is not `accepted`."""
    environment = {
        **os.environ,
        "PATH": _path(None),
        "LC_ALL": "C",
        "MTOOLSRC": "/dev/null",
        "MTOOLS_SKIP_CHECK": "1",
    }
    environment["DEBUGFS_PAGER"] = "__none__"
    try:
        done = subprocess.run(
            [shutil.which(program, path=_path(None)) or program, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlashError(f"{program}: {error}") from None
    if done.returncode not in accepted:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise FlashError(f"{program} ended with {done.returncode}: {said[-300:]}")
    return done


def _path(environment: dict[str, str] | None) -> str:
    return f"{(os.environ if environment is None else environment).get('PATH', '')}:{_PLACES}"
