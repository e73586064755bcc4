"""A machine of its own, where the steps of deploy/README.md may be done as root and nothing of the real one changes.

Its /etc, /var/lib, /var/log, /run, /opt and /srv are folders of the test, mounted over the real ones in a private mount
namespace; /etc is a copy, with Mosquitto as Debian's package leaves it. It has a loopback of its own, so every port is free and the
files of deploy/ are used as they are. `systemctl` is ours: it reads the unit files and starts what they say.

Steps begin in /srv/checkout, which holds a copy of deploy/. Our programs are in /opt/fedge/bin and run the code under test.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import pytest
from waiting import died, wait_until

__all__ = ["DebianMachine", "StepFailed", "Unit", "read_unit"]

ROOT: Final = Path(__file__).resolve().parents[2]
PRIVATE: Final = {
    "etc": "/etc",
    "lib": "/var/lib",
    "log": "/var/log",
    "run": "/run",
    "opt": "/opt",
    "srv": "/srv",
}
PROGRAMS: Final = {
    "fedge": "fedge",
    "fedge-agent": "edge_agent",
    "fedge-aggregator": "aggregator",
    "fedge-fleet": "fleet",
}
NAMES: Final = "127.0.0.1 localhost plant.example.com\n"
ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/nonexistent",
    "PYTHONPATH": str(ROOT),  # what a plant's units start is the interpreter, and the code that is under test
}

Unit = dict[str, list[str]]
"""What a unit file says: key → its values, in order."""


class StepFailed(Exception):  # noqa: N818 - said of a step, not of our code
    """A documented step, or what it started, did not do what it should."""


class DebianMachine:
    """One machine; `close` ends everything that was started on it."""

    def __init__(
        self, folder: Path, *, snapshot: Path | None = None, beside: DebianMachine | None = None
    ) -> None:
        """Make it.

        Args:
            folder: where its files lie.
            snapshot: of another machine's `save`; None makes a machine on which nobody has done anything.
            beside: a machine whose network it shares.
        """
        if os.geteuid() != 0 or shutil.which("nsenter") is None:
            pytest.skip("a machine of its own needs root and util-linux: run this test as root")
        self.folder = folder
        if snapshot is None:
            self._install_debian()
        else:
            _copy(snapshot, folder)
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        network = ["--net"] if beside is None else []
        enter = [] if beside is None else ["nsenter", f"--net=/proc/{beside.process.pid}/ns/net"]
        self.process = subprocess.Popen(
            [
                *enter,
                "unshare",
                "--mount",
                *network,
                "--propagation",
                "private",
                "sh",
                "-euc",
                self._mounts(beside is None),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().decode()
        if said != "ready\n":
            pytest.skip(f"no mount namespace can be made here: {said.strip()}")

    def _install_debian(self) -> None:
        for name in PRIVATE:
            (self.folder / name).mkdir(parents=True)
        _copy(Path("/etc"), self.folder / "etc")
        for path in (self.folder / "etc/mosquitto/conf.d").glob("*.conf"):
            path.unlink()
        (self.folder / "etc/hosts").write_text(NAMES)
        subprocess.run(
            ["install", "-d", "-o", "mosquitto", "-g", "root", "-m", "755", self.folder / "lib/mosquitto"],
            check=True,
        )
        programs = self.folder / "opt/fedge/bin"
        programs.mkdir(parents=True)
        for name, package in PROGRAMS.items():
            (programs / name).write_text(
                f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m {package} "$@"\n'
            )
            (programs / name).chmod(0o755)
        shutil.copytree(ROOT / "deploy", self.folder / "srv/checkout/deploy")

    def _mounts(self, own_network: bool) -> str:
        lines = [
            f"mount --bind {shlex.quote(str(self.folder / name))} {path}" for name, path in PRIVATE.items()
        ]
        lines += _opened(self.folder / "opened", Path(sys.base_prefix), Path(sys.prefix), ROOT)
        if own_network:
            lines.append("ip link set lo up")
        # It ends when this process does, however that ends: then its pipe is closed.
        return "\n".join([*lines, "echo ready", "exec cat"])

    def run(self, step: str) -> str:
        """Do one step as root and return what it printed; raises StepFailed with what it complained about."""
        words = shlex.split(step) if step.startswith("systemctl ") else []
        if words:
            for unit in (word for word in words[2:] if word.endswith(".service")):
                self.stop_service(unit)
                self.start_service(unit)
            return ""
        done = subprocess.run(
            [*self._inside(), "bash", "-euo", "pipefail", "-c", f"umask 022; cd /srv/checkout\n{step}"],
            capture_output=True,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        if done.returncode:
            raise StepFailed(f"{step}\n{done.stdout}{done.stderr}")
        return done.stdout

    def path(self, absolute: str) -> Path:
        """Where a file of the machine lies."""
        for name, mounted in PRIVATE.items():
            if absolute.startswith(f"{mounted}/"):
                return self.folder / name / absolute.removeprefix(f"{mounted}/")
        return Path(absolute)

    def start_service(self, name: str) -> None:
        """Start a unit as systemd would; raises StepFailed where there is no such unit."""
        found = [p for p in map(self.path, _unit_paths(name)) if p.exists()]
        if not found:
            raise StepFailed(f"Unit {name} not found.")
        unit = read_unit(found[0])
        user = unit.get("User", ["root"])[0]
        commands = [
            f"install -d -o {user} -g {user} -m 755 /var/lib/{d}" for d in unit.get("StateDirectory", [])
        ]
        before = [
            f"setpriv --reuid={user} --regid={user} --init-groups -- {c}"
            for c in unit.get("ExecStartPre", [])
        ]
        for command in [*commands, *before]:
            self.run(command)
        given = dict(pair.split("=", 1) for line in unit.get("Environment", []) for pair in shlex.split(line))
        as_user = (
            [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        )
        if unit.get("ProtectSystem") == ["strict"]:
            writable = [p for line in unit.get("ReadWritePaths", []) for p in line.split()]
            sealed = "; ".join(
                [f"mount --bind {p} {p}; mount -o remount,bind,ro {p}" for p in ("/etc", "/opt", "/srv")]
                + [
                    f"mount --bind {p} {p}; mount -o remount,bind,rw {p}"
                    for p in writable
                    if p.startswith("/srv")
                ]
            )
            as_user = [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-euc",
                f'{sealed}; exec "$@"',
                "sh",
                *as_user,
            ]
        with self.journal(name).open("ab") as journal:
            self._services[name] = subprocess.Popen(
                [*self._inside(), *as_user, *shlex.split(unit["ExecStart"][0])],
                stdout=journal,
                stderr=journal,
                env=ENVIRONMENT | given,
                cwd="/",
            )

    def stop_service(self, name: str) -> None:
        """End a service, if it runs."""
        if child := self._services.pop(name, None):
            child.terminate()
            child.wait()

    def journal(self, name: str) -> Path:
        """What a service printed."""
        return self.folder / f"{name}.journal"

    def wait_for(
        self, name: str, said: str, *, in_file: str | None = None, unless: str | None = None
    ) -> None:
        """Wait until a service has said something; raises StepFailed once it died, or said `unless`."""
        if name not in self._services:
            raise StepFailed(f"nobody has started {name}")
        child, log = self._services[name], self.path(in_file) if in_file else self.journal(name)

        def words() -> str:
            return log.read_text(errors="replace") if log.exists() else ""

        def failed() -> bool:
            return child.poll() is not None or (unless is not None and unless in words())

        wait_until(lambda: said in words() or failed(), f"{name} to say {said!r}")
        if failed():
            raise StepFailed(f"{name}: {died(child, self.journal(name)) or words()[-2000:]}")

    def save(self, folder: Path) -> Path:
        """Copy the machine's files, for a machine that goes another way from here."""
        for name in PRIVATE:
            _copy(self.folder / name, folder / name)
        return folder

    def close(self) -> None:
        """End what was started, by its id."""
        for name in list(self._services):
            self.stop_service(name)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "--wd=/"]


def read_unit(path: Path) -> Unit:
    """Read a unit file; a key may stand in it more than once."""
    unit: Unit = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";", "[")):
            unit.setdefault(key.strip(), []).append(value.strip())
    return unit


def _unit_paths(name: str) -> list[str]:
    return [f"/etc/systemd/system/{name}", f"/lib/systemd/system/{name}", f"/usr/lib/systemd/system/{name}"]


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


def _opened(folder: Path, *needed: Path) -> list[str]:
    """Mount commands that let every user reach `needed`, also where a folder above is its owner's alone (/root)."""
    lines, closed = [], {}
    for path in map(Path.resolve, needed):
        above = [p for p in path.parents if p.stat().st_mode & 0o001 == 0]
        if above:
            closed.setdefault(above[-1], set()).add(path)
    for number, (closed_one, inside) in enumerate(closed.items()):
        stand_in = folder / str(number)
        for path in inside:
            (stand_in / path.relative_to(closed_one)).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {path} {stand_in / path.relative_to(closed_one)}")
        lines.append(f"mount --rbind {stand_in} {closed_one}")
    return lines
