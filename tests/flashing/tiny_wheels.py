"""Wheels of some lines each, and the list that locks them: what a device bundle is made of where no index is."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def tiny_wheel(folder: Path, name: str, files: dict[str, bytes], *, tag: str = "py3-none-any") -> str:
    """Write ``NAME-1.0-TAG.whl``; returns the line that locks it."""
    path = folder / f"{name.replace('-', '_')}-1.0-{tag}.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT\n"
    kept = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        f"{info}/licenses/LICENSE": b"do as you like\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in kept.items():
            archive.writestr(inside, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in [*kept, f"{info}/RECORD"]))
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def tiny_list(folder: Path) -> Path:
    """A list with an agent of one module, a package for each processor, and one that this Python does not need."""
    folder.mkdir(parents=True, exist_ok=True)
    agent = {
        "edge_agent/__init__.py": b"",
        "edge_agent/__main__.py": b"import sys, board_part\nprint('agent', board_part.WHERE, *sys.argv[1:])\n",
        "fleet/app.py": b"import sqlalchemy\n",
        "models/export/graph.py": b"import tensorflow\n",
    }
    lines = [tiny_wheel(folder, "fedge", agent)]
    for machine in ("aarch64", "x86_64"):
        part = {
            "board_part.py": f"WHERE = {machine!r}\n".encode(),
            "board_part.pyi": b"WHERE: str\n",
            "tests/test_part.py": b"",
            "board_part-1.0.data/scripts/part": b"#!/bin/sh\n",
            "board_part-1.0.data/purelib/beside.py": b"",
        }
        lines.append(tiny_wheel(folder, "board-part", part, tag=f"py3-none-manylinux_2_28_{machine}"))
    (first, second) = lines[1:]
    hashes = f"{first} {second.partition(' ')[2]}"
    old = tiny_wheel(folder, "only-old", {"only_old.py": b""})
    marked = old.replace("==1.0", "==1.0 ; python_full_version < '3.12'")
    path = folder / "agent-requirements.txt"
    ours = lines[0].replace("fedge==1.0", "./fedge-1.0-py3-none-any.whl")
    path.write_text(f"# a list\n{ours}\n{hashes}\n{marked}\n")
    return path
