"""The systemd unit of a device that joined as root: written, enabled, started; the agent runs as a user of its own.

The unit is that of deploy/systemd/fedge-agent.service with this device's folder and Python in it; a test holds the two together.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.joining.folder import JoinedFolder
from runtime.durable_files import write_durably
from runtime.errors import StorageError

__all__ = ["Systemd", "hindrance", "unit_text"]

USER: Final = "fedge"
STATE: Final = Path("/var/lib/fedge")
"""Where devices' folders lie that a unit watches."""
_PATIENCE_S: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Systemd:
    """The machine's own; the paths are other ones in a test alone."""

    running: Path = Path("/run/systemd/system")
    units: Path = Path("/etc/systemd/system")

    @property
    def is_there(self) -> bool:
        """Whether systemd runs this machine, and we may speak to it."""
        return os.geteuid() == 0 and self.running.is_dir()

    def install(self, folder: JoinedFolder, device: str) -> str:
        """Write the unit of `device`, enable and start it; returns its name. Again: the same, and a changed one is taken up.

        Raises:
            StorageError: a file cannot be written, or systemd or useradd refuses; says what it said.
        """
        name = f"fedge-agent-{device}.service"
        _own(folder)
        write_durably(self.units / name, unit_text(folder, device).encode())
        _do("systemctl", "daemon-reload")
        _do("systemctl", "enable", name)
        _do("systemctl", "restart", name)
        return name


def unit_text(folder: JoinedFolder, device: str) -> str:
    """The unit's file."""
    return f"""# Written by `fedge-agent join`: the agent of {device}, in {folder.path}.
[Unit]
Description=Fedge edge agent of {device}
After=network.target
StartLimitIntervalSec=0

[Service]
User={USER}
SupplementaryGroups=dialout
Type=notify
NotifyAccess=main
WatchdogSec=180
TimeoutStartSec=300
TimeoutStopSec=60
ExecStart={sys.executable} -m edge_agent run --config {folder.config}
Restart=always
RestartSec=5
MemoryMax=256M
OOMPolicy=continue
OOMScoreAdjust=-500
TasksMax=128
LogRateLimitIntervalSec=30
LogRateLimitBurst=200
NoNewPrivileges=true
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
ReadWritePaths={folder.path}
Environment=FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

[Install]
WantedBy=multi-user.target
"""


def hindrance(folder: JoinedFolder, python: Path = Path(sys.executable)) -> str:
    """Why a unit would not work here, with the remedy; empty where it would."""
    for what, path in (("Python", python.absolute()), ("Python", python.resolve()), ("folder", folder.path)):
        if closed := _closed_to_others(path):
            return (
                f"this {what} lies below {closed}, where the unit's user {USER} may not look: install into /opt/fedge (python3 -m venv"
                " /opt/fedge), or give --state a folder below /var/lib"
            )
    if " " in f"{folder.path}{sys.executable}" or "%" in f"{folder.path}{sys.executable}":
        return f"{folder.path} holds a blank or %, which systemd reads otherwise: give --state another folder"
    return ""


def _closed_to_others(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not enter, or that a unit does not see."""
    for folder in (*reversed(path.parents), path):
        if folder in {Path("/home"), Path("/root"), Path("/run/user")}:
            return folder
        if folder != path and folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _own(folder: JoinedFolder) -> None:
    """The unit's user, made where it is missing, gets the folder."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        _do("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER)
    try:
        for path in (folder.path, *folder.path.rglob("*")):
            if not path.is_symlink():
                shutil.chown(path, USER, USER)
    except (OSError, LookupError) as error:
        raise StorageError(f"cannot give {folder.path} to user {USER}: {error}") from None


def _do(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(f"{' '.join(words)}: {error}") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise StorageError(f"{' '.join(words)} ended with {done.returncode}: {said}")
