"""A short soak, as `make soak` runs it: everything holds, and the last line says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def test_a_minute_of_disturbances_loses_and_doubles_nothing(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "soak.py"
    world = tmp_path / "world"
    done = subprocess.run(
        [
            sys.executable,
            program,
            "--seconds",
            "60",
            "--devices",
            "3",
            "--seed",
            "1",
            "--json",
            "--keep",
            world,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    figures = json.loads(done.stdout)
    assert figures["violations"] == []
    assert done.returncode == 0
    assert figures["opened"] > 10
    assert sum(figures["done"].values()) > 20
