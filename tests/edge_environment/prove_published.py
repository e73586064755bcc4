"""Proves that what would be published installs and runs where no checkout is: on each Python it names, and in an empty Debian.

    python tests/edge_environment/prove_published.py [--python 3.13] [--no-root | --only-root]

For each supported Python that this machine has (on the PATH, from pyenv, or that uv finds): an environment with the wheel and
its `sim` extra, every module imported, a study of made-up recordings, and the quick simulation. Then the same in a root that
mmdebstrap has unpacked, with Python, nothing else of ours and no broker (as root, with apt's archive in reach). Exit code 0
means proved.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from edge_packages import CONSTRAINTS, ROOT, last_words

sys.path.insert(0, str(ROOT / "tests"))
from published import publish

PYTHONS: Final = ("3.11", "3.12", "3.13")
DEBIAN: Final = (
    "bookworm",
    "3.11",
    "base-files",
    "dash",
    "coreutils",
    "python3",
    "libstdc++6",
    "media-types",
)
HIDDEN: Final = frozenset({"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"})
OF_OTHER_EXTRAS: Final = "torch opacus pkcs11 pyarrow confluent_kafka mlflow asyncua pymodbus"
PACKAGES: Final = "runtime protocol models service edge_agent aggregator fleet simulations fedge"

IMPORT_ALL: Final = """
import importlib, pkgutil, sys
extras, names = sys.argv[1].split(), sys.argv[2:]
count, left_out = 0, []
for name in names:
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if not module.name.endswith("__main__") and ".migrations.env" not in module.name and ".versions" not in module.name:
            try:
                importlib.import_module(module.name)
                count += 1
            except ModuleNotFoundError as error:
                if error.name.split(".")[0] not in extras:
                    raise
                left_out.append(module.name)
print(f"{count} modules imported on Python {sys.version.split()[0]}, {len(left_out)} wait for another extra")
"""

MADE_UP: Final = """
import csv, math, pathlib, random
pathlib.Path("recordings").mkdir()
for machine in range(3):
    draw = random.Random(machine)
    with open(f"recordings/pump-{machine}.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time_s", "pressure", "flow", "current", "temperature"])
        for n in range(4000):
            load = 1 + 0.3 * math.sin(n / 40) + draw.gauss(0, 0.05)
            rows.writerow([n, 4 * load + draw.gauss(0, 0.1), 12 * load + draw.gauss(0, 0.3), 6 * load + draw.gauss(0, 0.1),
                           40 + 5 * load + draw.gauss(0, 0.2)])
"""

Run = Callable[[Sequence[str]], str]


def main() -> int:
    """Publish, install, run; returns the exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument(
        "--python", action="append", choices=PYTHONS, help="only this one; may be given again"
    )
    options.add_argument("--only-root", action="store_true", help="only the empty Debian")
    options.add_argument("--no-root", action="store_true", help="leave the empty Debian out")
    chosen = options.parse_args()
    started, proved = time.monotonic(), []
    try:
        with tempfile.TemporaryDirectory(prefix="fedge-published-") as folder:
            wheel = publish(Path(folder) / "published").wheel
            say(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
            for version in () if chosen.only_root else chosen.python or PYTHONS:
                if (python := find_python(version)) is None:
                    say(f"no Python {version} is to be had here: not proved for it")
                    continue
                prove_python(python, version, wheel, Path(folder) / version)
                proved.append(version)
            if not chosen.no_root:
                prove_root(wheel, Path(folder) / "root")
                proved.append("an empty Debian")
    except (subprocess.CalledProcessError, AssertionError) as error:
        outputs = [error.stdout, error.stderr] if isinstance(error, subprocess.CalledProcessError) else []
        say("not proved: " + (last_words(outputs) or str(error)))
        return 1
    say(f"proved on {', '.join(proved)} in {time.monotonic() - started:.0f} s")
    return 0 if proved else 1


def find_python(version: str) -> str | None:
    """A Python of this version that really runs, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    found += [path for path in [shutil.which(f"python{version}")] if path]
    if run_quietly(uv(), "python", "find", "--no-python-downloads", version):
        found.append(version)
    for candidate in found:
        if candidate == version or run_quietly(candidate, "-c", "import ssl, sqlite3, venv"):
            return candidate
    return None


def prove_python(python: str, version: str, wheel: Path, folder: Path) -> None:
    """One interpreter; raises AssertionError or CalledProcessError."""
    folder.mkdir()
    outside([uv(), "venv", "--quiet", "--python", python, str(folder / "env")], folder)
    say(f"Python {version}: installing the wheel with its sim extra")
    install(["--python", str(folder / "env/bin/python")], wheel, folder)
    programs = folder / "env" / "bin"
    exercise(lambda words: outside([str(programs / words[0]), *words[1:]], folder), f"Python {version}")


def prove_root(wheel: Path, root: Path) -> None:
    """A Debian that holds Python and what the wheel brings, entered by chroot; raises as `prove_python`."""
    suite, version, *packages = DEBIAN
    if os.geteuid() != 0:
        raise AssertionError("an empty Debian needs root (chroot): run this as root, or with --no-root")
    if shutil.which("mmdebstrap") is None:
        outside(["apt-get", "-qq", "update"], root.parent)
        outside(["apt-get", "-qq", "install", "-y", "--no-install-recommends", "mmdebstrap"], root.parent)
    say(f"unpacking Debian {suite} with {', '.join(packages)}")
    outside(
        ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(packages)}", suite, str(root)],
        root.parent,
    )
    site = root / f"usr/local/lib/python{version}/dist-packages"
    site.mkdir(parents=True, exist_ok=True)
    install(["--target", str(site), "--python-version", version], wheel, root.parent)
    for name, package in (("fedge", "fedge"), ("fedge-sim", "simulations"), ("fedge-agent", "edge_agent")):
        (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/local/bin" / name).write_text(f'#!/bin/dash\nexec /usr/bin/python3 -m {package} "$@"\n')
        (root / "usr/local/bin" / name).chmod(0o755)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/dash\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "work").mkdir()
    mounts = 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; ip link set lo up; root=$1; shift; '
    enter = mounts + (
        'exec chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin'
        ' OPENBLAS_NUM_THREADS=1 /bin/dash -c \'cd /work && exec "$@"\' dash "$@"'
    )
    shell = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-euc",
        enter,
        "sh",
        str(root),
    ]
    exercise(lambda words: outside([*shell, *words], root.parent), "an empty Debian without a network")


def exercise(run: Run, where: str) -> None:
    """What a person would do first."""
    version = run(["fedge", "--version"]).strip()
    assert re.fullmatch(r"fedge \d+\.\d+\.\d+", version), version
    imported = run(["python", "-c", IMPORT_ALL, OF_OTHER_EXTRAS, *PACKAGES.split()]).strip().splitlines()[-1]
    say(f"{where}: {version}, {imported}")
    run(["python", "-c", MADE_UP])
    studied = run(["fedge", "study", "recordings", "--out", "report.html", "--json"])
    assert "false" in studied, studied[-500:]
    say(f"{where}: fedge study has studied three machines")
    run(["fedge-sim", "run", "quick", "--json", "quick.json"])
    say(f"{where}: fedge-sim run quick ended well")


def install(where: Sequence[str], wheel: Path, folder: Path) -> None:
    """The wheel and what its extra `sim` needs, in the versions of constraints.txt."""
    outside([uv(), "pip", "install", "--quiet", *where, "-c", str(CONSTRAINTS), f"{wheel}[sim]"], folder)


def outside(command: Sequence[str], folder: Path) -> str:
    """Run a command that sees nothing of this checkout; returns what it printed, raises CalledProcessError."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN} | index_of_pip()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def index_of_pip() -> dict[str, str]:
    """pip's configuration of this machine, handed on to uv, which does not read it."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    options = dict(re.findall(r"^[^=\n]*\.([\w-]+)='(.*)'$", said, re.MULTILINE))
    names = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}
    return {
        name: options[key].replace(" ", ",")
        for key, name in names.items()
        if key in options and name not in os.environ
    }


def uv() -> str:
    """Flower brings it along."""
    return str(Path(sys.executable).with_name("uv"))


def run_quietly(*command: str) -> bool:
    """Whether it ended well."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    """One line for whoever waits."""
    print(f"prove-published: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
