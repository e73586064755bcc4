"""Runs `machine_results` here and elsewhere, and prints one table of the differences.

exchange folder   larger training models ──► here.npz, <elsewhere>.npz ──► machine_comparison.table
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from edge_packages import ROOT
from machine_comparison import compare, table
from numpy.typing import NDArray

__all__ = ["RESULTS", "compare_with_this_environment"]

RESULTS: Final = "tests/edge_environment/machine_results.py"


def compare_with_this_environment(
    exchange: Path,
    elsewhere: Mapping[str, Callable[[str], str]],
    say: Callable[[str], None],
    *,
    left_out: str | None = None,
) -> bool:
    """Compute here and in each other place; True when every difference is within its bound.

    Args:
        exchange: an empty folder that all places see.
        elsewhere: by name, what runs `machine_results` there for a file name in `exchange` and returns what it printed.
        say: takes the lines of the table.
        left_out: a kind of result that is allowed to differ.

    Raises:
        subprocess.CalledProcessError: one of the programs failed.
        ValueError: the places computed different things.
    """
    _export_larger_models(exchange)
    command = [sys.executable, RESULTS, str(exchange / "here.npz"), str(exchange)]
    say(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip())
    here = _read(exchange / "here.npz")
    rows = {}
    for name, compute in elsewhere.items():
        say(f"{name}: {compute(f'{name}.npz').strip()}")
        rows[name] = compare(here, _read(exchange / f"{name}.npz"), left_out=left_out)
    for line in table(rows):
        say("  " + line)
    return all(row.holds for column in rows.values() for row in column)


def _export_larger_models(folder: Path) -> None:
    from machine_results import LARGER, file_name

    # Only here: the folder is used on devices too, which have no TensorFlow.
    from models.export.isolated import export_training_model

    for architecture in LARGER:
        (folder / file_name(architecture)).write_bytes(export_training_model(architecture))


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path) as content:
        return {name: content[name] for name in content.files}
