"""Tests that say they run on a device import there: what only the dev extra has would be seen by `make prove` alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_packages import ROOT, edge_tests

ON_A_DEVICE: Final = {
    "ai_edge_litert",
    "cryptography",
    "flwr",
    "hypothesis",
    "httpx",
    "msgspec",
    "numpy",
    "paho",
    "pytest",
    "securesystemslib",
    "tuf",
    "typer",
}
OURS: Final = {"benchmarks", "edge_agent", "learning_tables", "models", "protocol", "runtime", "simulations"}
HELPERS: Final = {path.stem: path for path in (ROOT / "tests").rglob("*.py")}


def imported(file: Path) -> Iterator[str]:
    """Top-level names that a module imports when it is imported itself."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def reached(file: Path, seen: set[Path]) -> Iterator[str]:
    """The same over the helpers of tests/ that it imports."""
    seen.add(file)
    for name in imported(file):
        helper = HELPERS.get(name)
        if helper is None:
            yield name
        elif helper not in seen:
            yield from reached(helper, seen)


def test_edge_tests_import_nothing_that_a_device_lacks() -> None:
    allowed = ON_A_DEVICE | OURS | set(sys.stdlib_module_names)
    files = edge_tests()
    assert len(files) > 50
    missing = {file: sorted(set(reached(ROOT / file, set())) - allowed) for file in files}
    assert {file: names for file, names in missing.items() if names} == {}
