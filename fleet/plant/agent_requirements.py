"""``agent-requirements.txt``: everything that a device installs, to the byte, and our own wheel beside it.

::

    checkout, or what is installed ─► our wheel ─► uv: the closure of its extra `edge`, pinned ─► every file's SHA-256
                                                └► Flower alone, without what its server needs (decision 0002)

A device installs with ``pip install --no-deps --require-hashes -r agent-requirements.txt``: nothing else than these files gets in,
whatever the index says then. The hashes are of all files of each version, so one list serves arm64 and amd64, Python 3.11 to 3.13.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import fleet
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import FedgeError, SettingsError

__all__ = ["EXTRAS", "RequirementsError", "write_agent_requirements"]

EXTRAS: Final = ("opcua", "modbus", "pkcs11", "torch")
"""Of pyproject.toml, what a device may need beside `edge`."""
_HEAD: Final = "# Made by `fedge device add`: "
_OLDEST_PYTHON: Final = "3.11"
_PATIENCE_S: Final = 600.0
_PACKAGES: Final = ("edge_agent", "models", "protocol", "runtime", "fedge")


class RequirementsError(FedgeError):
    """The list cannot be made: no network, no uv, or versions that do not go together; says what to do."""


def write_agent_requirements(path: Path, extras: Sequence[str] = ()) -> bool:
    """Write the list to `path`, and our wheel beside it, where they are not there as they shall be. Returns whether it wrote.

    Raises:
        RequirementsError: see there.
        SettingsError: an extra that a device does not have.
        StorageError: a file cannot be written.
    """
    if unknown := [extra for extra in extras if extra not in EXTRAS]:
        raise SettingsError(f"--extra {unknown[0]!r:.40} is none of a device: {', '.join(EXTRAS)}")
    before = (read_bytes(path) or b"").decode(errors="replace")
    extras = sorted({*extras, *_extras_in(before)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(fleet.__file__).parents[1]
        is_checkout = (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file()
        digest = _digest(root if is_checkout else None, extras)
        if f"{_HEAD}{digest}" in before and all(_is_there(path.parent, line) for line in before.splitlines()):
            return False
        wheel = _built(root, Path(folder)) if is_checkout else _packed(Path(folder))
        pins = (root / "constraints.txt").read_text() if is_checkout else _installed()
        lines = _compiled(wheel, extras, pins, Path(folder))
        content = wheel.read_bytes()
        ours = f"./{wheel.name} --hash=sha256:{hashlib.sha256(content).hexdigest()}"
        write_durably(path.parent / wheel.name, content)
    text = "\n".join(
        [
            f"{_HEAD}{digest}, extras: {' '.join(extras) or 'none'}",
            "# In this folder: pip install --no-deps --require-hashes -r agent-requirements.txt",
            ours,
            *lines,
        ]
    )
    write_durably(path, f"{text}\n".encode())
    return True


def _extras_in(text: str) -> list[str]:
    """What the list was made with: another device may need it still."""
    said = text.partition(", extras: ")[2].partition("\n")[0].split()
    return [extra for extra in said if extra in EXTRAS]


def _is_there(folder: Path, line: str) -> bool:
    """Whether the file that a line of the list names, if it names one, is there as it was."""
    if not line.startswith("./"):
        return True
    name, _, sha256 = line.removeprefix("./").partition(" --hash=sha256:")
    content = read_bytes(folder / name)
    return content is not None and hashlib.sha256(content).hexdigest() == sha256


def _digest(checkout: Path | None, extras: Sequence[str]) -> str:
    """Of all that the list depends on, so that it is made anew when that changes."""
    total = hashlib.sha256(f"{importlib.metadata.version('fedge')} {extras}".encode())
    if checkout is None:
        total.update(_installed().encode())
    else:
        sources = (file for package in _PACKAGES for file in (checkout / package).rglob("*.py"))
        for file in (checkout / "pyproject.toml", checkout / "constraints.txt", *sorted(sources)):
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def _installed() -> str:
    found = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name != "fedge"}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _built(checkout: Path, folder: Path) -> Path:
    _uv("build", "--quiet", "--out-dir", str(folder / "dist"), str(checkout))
    return next((folder / "dist").glob("fedge-*.whl"))


def _packed(folder: Path) -> Path:
    """The wheel that this program was installed from, out of its installed files: RECORD knows them all."""
    dist = importlib.metadata.distribution("fedge")
    path = folder / f"fedge-{dist.version}-py3-none-any.whl"
    rows = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(dist.files or (), key=str):
            name = file.as_posix()
            is_ours = not name.startswith("..") and "__pycache__" not in name
            if not is_ours or file.name in {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}:
                continue
            content = Path(str(file.locate())).read_bytes()
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append((name, f"sha256={digest}", len(content)))
        record = f"fedge-{dist.version}.dist-info/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        archive.writestr(zipfile.ZipInfo(record), text.getvalue())
    return path


def _compiled(wheel: Path, extras: Sequence[str], pins: str, folder: Path) -> list[str]:
    """The closure, a line a requirement with its hashes: of the wheel's extras, and Flower by itself."""
    wanted, pinned = folder / "wanted.in", folder / "pins.txt"
    pinned.write_text(pins)
    wanted.write_text(f"fedge[{','.join(['edge', *extras])}] @ {wheel.as_uri()}\n")
    common = [
        "--quiet",
        "--universal",
        "--generate-hashes",
        "--python-version",
        _OLDEST_PYTHON,
        "--no-header",
    ]
    common += ["--no-annotate", "-c", str(pinned)]
    closure = _uv("pip", "compile", *common, str(wanted))
    wanted.write_text(f"flwr=={_flower_version(wheel)}\n")
    flower = _uv("pip", "compile", "--no-deps", *common, str(wanted))
    whole = closure.replace("\\\n", " ") + flower.replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in whole.splitlines() if line and not line.startswith("#")]
    found = [line for line in lines if not line.startswith("fedge") and "sys_platform == 'win32'" not in line]
    if unsafe := [line.split()[0] for line in found if "--hash=" not in line]:
        raise RequirementsError(f"the index gives no hashes for {', '.join(unsafe[:5])}: use one that does")
    return sorted(found, key=str.lower)


def _flower_version(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = re.search(r"^Requires-Dist: flwr==([\w.]+)", archive.read(metadata).decode(), re.MULTILINE)
    if found is None:
        raise RequirementsError("our wheel names no version of flwr: is this fedge's own?")
    return found[1]


def _uv(*words: str) -> str:
    try:
        from uv import find_uv_bin  # of Flower; a fleet without an aggregator has none

        program = find_uv_bin()
    except (ImportError, FileNotFoundError):
        raise RequirementsError(
            "listing a device's packages needs uv: pip install uv; then fedge device requirements"
        ) from None
    try:
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
            # a fixed time in our wheel: the same sources, the same bytes, the same hash
            env={"SOURCE_DATE_EPOCH": "315532800", **os.environ, **_index_of_pip(os.environ)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RequirementsError(f"uv {words[0]}: {error}") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split())
    if re.search(
        r"dns error|error sending request|Failed to fetch|connect error|timed out", said, re.IGNORECASE
    ):
        raise RequirementsError(
            f"the package index cannot be reached, so that nobody knows the files' hashes: run `fedge device requirements` with a network ({said[:200]})"
        )
    raise RequirementsError(f"uv {' '.join(words[:2])}: {said[:500]}")


def _index_of_pip(environment: Mapping[str, str]) -> dict[str, str]:
    """What pip is configured to on this machine, as uv takes it, which does not read it."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found = dict(re.findall(r"^[^=\n]*\.([\w-]+)='(.*)'$", done.stdout, re.MULTILINE))
    names = {"UV_DEFAULT_INDEX": "index-url", "UV_FIND_LINKS": "find-links", "SSL_CERT_FILE": "cert"}
    return {
        ours: found[theirs].replace(" ", ",")
        for ours, theirs in names.items()
        if found.get(theirs) and not environment.get(ours)
    }
