"""What a device's environment consists of, and which tests run on one: shared by the three proofs of this folder.

It installs nothing and starts nothing. `prove` builds an x86 environment of it, `prove_arm64` an aarch64 root,
`prove_tflite_runtime` the one of an older device image.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CONSTRAINTS: Final = ROOT / "constraints.txt"
FLOWER: Final = "flwr==1.42.0"
"""Installed without its declared dependencies, which are the server's: docs/decisions/0002."""
TEST_TOOLS: Final = ("pytest", "pytest-timeout", "hypothesis")


def edge_requirements(pyproject: str) -> list[str]:
    """What a device installs according to the text of a pyproject.toml: the project's own needs and the edge extra."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["edge"]]


def edge_tests(*patterns: str) -> list[str]:
    """Test files of tests/ that say they run on a device, relative to the checkout; default: all.

    The others may not even be importable there.
    """
    files = {file for pattern in patterns or ("**/test_*.py",) for file in (ROOT / "tests").glob(pattern)}
    return [
        file.relative_to(ROOT).as_posix()
        for file in sorted(files)
        if "pytest.mark.edge" in file.read_text(encoding="utf-8")
    ]


def fingerprint(*parts: str) -> str:
    """SHA-256 of what an environment follows from: pyproject.toml, constraints.txt and `parts`."""
    files = [path.read_bytes() for path in (ROOT / "pyproject.toml", CONSTRAINTS)]
    return hashlib.sha256(b"\0".join([*files, *(part.encode() for part in parts)])).hexdigest()


def last_words(texts: Iterable[str | None], lines: int = 15) -> str:
    """The end of what a failed command printed, indented for a report."""
    said = "\n".join(text for text in texts if text).strip().splitlines()
    return "\n  ".join(said[-lines:])
