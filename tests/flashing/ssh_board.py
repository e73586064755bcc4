"""A board that runs: OpenSSH's own server on loopback, in a tree where an ordinary user has a home and may write nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from card_world import HOST_READ_ONLY
from free_ports import free_port
from waiting import died, wait_until

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "sshd"


@dataclass(frozen=True, kw_only=True)
class Board:
    """`home` is /home/tester there; `bin`: a folder with an ssh that knows the way, to be first on the PATH."""

    home: Path
    bin: Path
    log: Path
    place: str


@contextlib.contextmanager
def ssh_board(
    folder: Path, *, python: str | None = sys.executable, hidden: tuple[str, ...] = ()
) -> Iterator[Board]:
    """The board, until the block ends; `python` is what it has of our version, `hidden` are folders of this machine that it lacks."""
    home, keys = folder / "home", folder / "ssh"
    for made in (home / ".local" / "bin", keys, folder / "bin"):
        made.mkdir(parents=True)
    if python is not None:
        real = subprocess.run(
            [python, "-c", "import sys; print(sys._base_executable)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (home / ".local" / "bin" / PYTHON).symlink_to(real)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    shutil.copy(keys / "user.pub", keys / "authorized")
    port = free_port()
    config = keys / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/authorized\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nPidFile none\nUseDNS no\n"
    )
    (folder / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000::/home/tester:/bin/sh\n"
    )
    (folder / "group").write_text("tester:x:1000:\n")
    inside = [
        *HOST_READ_ONLY,
        "--tmpfs",
        "/home",
        "--bind",
        home,
        "/home/tester",
    ]
    inside += ["--ro-bind", folder / "passwd", "/etc/passwd", "--ro-bind", folder / "group", "/etc/group"]
    for place in hidden:
        inside += ["--tmpfs", place]
    inside += [
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--unshare-pid",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    ]
    log = folder / "sshd.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [*inside, SSHD, "-D", "-e", "-f", config], stdout=file, stderr=file, start_new_session=True
        )
    known = f"[127.0.0.1]:{port} {(keys / 'host.pub').read_text()}"
    (keys / "known").write_text(known)
    (keys / "config").write_text(
        f"Host *\n  IdentityFile {keys}/user\n  UserKnownHostsFile {keys}/known\n  BatchMode yes\n  IdentitiesOnly yes\n"
    )
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {keys}/config "$@"\n')
    ssh.chmod(0o755)
    try:
        wait_until(
            lambda: b"listening" in log.read_bytes(), "sshd to listen", unless=lambda: died(child, log)
        )
        yield Board(home=home, bin=folder / "bin", log=log, place=f"ssh://tester@127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
