"""The tree of a device bundle: a virtual environment that is complete but for Python itself, out of a board's wheels.

::

    bin/fedge-agent, bin/fedge     start it, wherever the tree lies
    bin/python, bin/python3 ─────► /usr/bin/python3.13, of the device
    pyvenv.cfg                     makes that Python see this tree and nothing else
    lib/python3.13/site-packages/  every wheel, unpacked
    bundle.json                    for which board, which version
    LICENCES.txt, sbom.cdx.json    what it is made of

Of our own wheel only what runs on a device is taken; of others everything but their tests, type stubs and C sources. Nothing is compiled
here: the device's Python does that, so that a bundle for one board is made on any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.device_bundle.boards import Board
from fleet.device_bundle.licences import licence_of
from fleet.device_bundle.wheels import Wheel

__all__ = ["DESCRIPTION", "OURS", "TreeFile", "build_tree"]

DESCRIPTION: Final = "bundle.json"
OURS: Final = "fedge"
_OUR_PACKAGES: Final = ("runtime", "protocol", "models", "edge_agent", "fedge")
_LEFT_OUT: Final = re.compile(r"(^|/)(tests|SelfTest)/|\.(pyi|pxd|pyx|h|hpp|c|cc|cpp|a)$|^models/export/")
_START: Final = '#!/bin/sh\nexec "${0%/*}/python" -P -m MODULE "$@"\n'


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """One file of the tree, or a link (`link` is where to); `origin` is the wheel that it came in, None: made here."""

    path: str
    content: bytes = b""
    link: str | None = None
    is_program: bool = False
    origin: Wheel | None = None


def build_tree(wheels: Sequence[Wheel], board: Board) -> list[TreeFile]:
    """Every file of the tree but the list of them, sorted by path."""
    files = [
        TreeFile(path=f"{board.site}/{name}", content=content, is_program=".so" in name, origin=wheel)
        for wheel in wheels
        for name, content in wheel.files()
        if not _LEFT_OUT.search(name) and (wheel.name != OURS or _is_of_a_device(name))
    ]
    python = f"/usr/bin/python{board.python}"
    version = next((wheel.version for wheel in wheels if wheel.name == OURS), "")
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {board.python}\nexecutable = {python}\n"
    described = {
        "fedge_device_bundle": 1,
        "version": version,
        "arch": board.arch.value,
        "python": board.python,
    }
    files += [
        TreeFile(path="bin/python", link=python),
        TreeFile(path="bin/python3", link="python"),
        TreeFile(path="bin/fedge-agent", content=_starter("edge_agent"), is_program=True),
        TreeFile(path="bin/fedge", content=_starter("fedge"), is_program=True),
        TreeFile(path="pyvenv.cfg", content=settings.encode()),
        TreeFile(path=DESCRIPTION, content=json.dumps(described, indent=2).encode() + b"\n"),
        TreeFile(path="LICENCES.txt", content=_licences(wheels, board).encode()),
    ]
    return sorted(files, key=lambda file: file.path)


def _starter(module: str) -> bytes:
    return _START.replace("MODULE", module).encode()


def _is_of_a_device(name: str) -> bool:
    top = name.split("/", maxsplit=1)[0]
    return top in _OUR_PACKAGES or top.endswith(".dist-info")


def _licences(wheels: Sequence[Wheel], board: Board) -> str:
    lines = [
        "What this bundle is made of, under which licence, and where in it the licence's text lies (none: the package brings none).",
        "",
    ]
    for wheel in wheels:
        texts = [
            f"{board.site}/{name}"
            for name, _ in wheel.files()
            if re.search(
                r"\.dist-info/(licenses/.+|[^/]*(LICEN[CS]E|COPYING|NOTICE)[^/]*)$", name, re.IGNORECASE
            )
        ]
        lines.append(f"{wheel.name} {wheel.version}: {licence_of(wheel.metadata)}")
        lines += [f"    {text}" for text in texts or ["none"]]
    return "\n".join(lines) + "\n"
