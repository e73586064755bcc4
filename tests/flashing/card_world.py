"""Join files, bundles and a person's wishes, as cards are made of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from command_line import run_command

from protocol.join_file import JoinFile, write_join_file

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKw ann@laptop"
LATER = 4_000_000_000.0
HOST_READ_ONLY = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
"""A box in which this machine's files are there, and none can be changed."""


def join_file(
    folder: Path, device: str = "valve-1", *, claim: str | None = None, ends_s: float = LATER
) -> Path:
    """As `fedge device add` makes it."""
    join = JoinFile(
        tenant="acme",
        device=device,
        family="valve",
        fleet_url="https://plant:8443",
        broker_url="mqtts://plant:8883",
        ca=PEM,
        root="{}",
        claim=claim or f"claim-of-{device}",
        claim_ends_s=ends_s,
    )
    path = folder / f"{device}.join"
    path.touch(mode=0o600)
    path.write_bytes(write_join_file(join, None, bytes))
    return path


def card_toml(folder: Path, *more: str) -> Path:
    """Everything that a person may want."""
    (folder / "ann.pub").write_text(f"# mine\n{KEY}\n")
    password = folder / "wifi.secret"
    password.touch(mode=0o600)
    password.write_text('pass "word" $HOME\'s\n')
    path = folder / "card.toml"
    lines = ['user = "ann"', 'ssh_key_files = ["ann.pub"]', 'timezone = "Europe/Berlin"', *more]
    wifi = ["[wifi]", 'ssid = "Hall 2: \\"north\\""', 'country = "DE"', 'password_file = "wifi.secret"']
    path.write_text("\n".join([*lines, *wifi]) + "\n")
    return path


def flash(
    folder: Path, *words: str, base: Path, bundle: Path, source: str = "/dev/ttyUSB0"
) -> subprocess.CompletedProcess[str]:
    join = join_file(folder)
    given = [
        "--image",
        str(base),
        "--out",
        str(folder / "card.img"),
        "--bundle",
        str(bundle),
        "--source",
        source,
    ]
    return run_command("fleet", "flash", "--join", str(join), *given, *words)
