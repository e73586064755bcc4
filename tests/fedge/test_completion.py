"""Completion and versions: the words of ``fedge``, and what their owners complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedge.cli import COMMANDS
from fedge.completion import SCRIPTS

PROGRAMS = {"fedge": "fedge", "fedge-fleet": "fleet", "fedge-aggregator": "aggregator", "fedge-agent": "edge_agent", "fedge-sim": "simulations"}  # fmt: skip


FEDGE = str(Path(sys.executable).parent / "fedge")
"""The console script: under ``python -m`` a program has another name, and a shell completes none of that."""


def asked(typed: str, at: int, shell: str = "bash") -> str:
    environment = {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(at),
        "_TYPER_COMPLETE_ARGS": typed,
        "_FEDGE_COMPLETE": f"complete_{shell}",
    }
    done = subprocess.run(
        [FEDGE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_our_own_words_are_completed() -> None:
    assert asked("fedge ro", 1).split() == ["rollouts"]
    assert asked("fedge ", 1).split() == list(COMMANDS)
    assert asked("fedge nothing", 1).split() == []
    assert "devices" in asked("fedge dev", 1, "zsh")


def test_what_follows_is_completed_by_its_owner() -> None:
    assert asked("fedge rollouts sh", 2).split() == ["show", "shadows"]
    assert asked("fedge agent stat", 2).split() == ["status"]
    assert '"retry-failed"' in asked("fedge rollouts re", 2, "zsh")
    assert asked("fedge nothing a", 2).split() == []


def test_bash_takes_the_script() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = f"{SCRIPTS['bash']}COMP_WORDS=(fedge rollouts st); COMP_CWORD=2; _fedge_completion {FEDGE}; echo ${{COMPREPLY[@]}}"
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("start", "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_its_version(program: str) -> None:
    from fedge import __version__

    done = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n")
