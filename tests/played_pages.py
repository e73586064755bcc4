"""Pages whose shell blocks are run, in order, as a person would paste them; what a block printed is the text block after it.

    ```sh            run by bash, in one folder; the first command that fails ends it
    ```text          directly below: what it printed. Numbers, times, sizes and how lines are broken may be others each time, as may
                     rows of tables and warnings; every other word is the same.

``FEDGE_WRITE_PAGES=1`` writes what was seen into the page instead of comparing it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Block", "check_shown", "play", "read_blocks"]

ROOT: Final = Path(__file__).resolve().parents[1]
_BLOCK: Final = re.compile(
    r"^```sh\n(?P<script>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
_VARYING: Final = re.compile(r"\d[\d.,:]*\d|\d|[0-9a-f]{8,}")
_OF_ONE_RUN: Final = ("│", "┃", "┏", "┡", "├", "└", "warning:")
"""What a line begins with whose words, too, are of this run alone."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A shell block of a page, and what the page shows that it prints; None: nothing is shown."""

    heading: str
    script: str
    shown: str | None


def read_blocks(page: Path) -> list[Block]:
    """The shell blocks of a page, each under its nearest heading of level two."""
    text = page.read_text(encoding="utf-8")
    headings = [(match.start(), match[1]) for match in re.finditer(r"^## (.+)$", text, re.MULTILINE)]
    found = []
    for match in _BLOCK.finditer(text):
        above = [title for start, title in headings if start < match.start()]
        found.append(Block(heading=above[-1] if above else "", script=match["script"], shown=match["shown"]))
    return found


def play(block: Block, folder: Path, environment: Mapping[str, str]) -> str:
    """Run it in `folder` and return what it printed; raises AssertionError with that where a command of it fails."""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", block.script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.script}\nended with {done.returncode}:\n{done.stdout[-3000:]}"
    return done.stdout


def check_shown(
    page: Path, block: Block, printed: str, *, tidy: Callable[[str], str] = lambda text: text
) -> None:
    """See that the page shows what the block printed, words and layout, or write it there; raises AssertionError."""
    if block.shown is None:
        return
    seen = "\n".join(line.rstrip() for line in tidy(printed).splitlines()) + "\n"
    if os.environ.get("FEDGE_WRITE_PAGES"):
        text = page.read_text(encoding="utf-8")
        whole = f"```sh\n{block.script}```\n\n```text\n"
        assert text.count(whole + block.shown) == 1
        page.write_text(text.replace(whole + block.shown, whole + seen), encoding="utf-8")
        return
    assert _constant(seen) == _constant(block.shown), (
        f"{page.name} shows something else; FEDGE_WRITE_PAGES=1 writes it"
    )


def _constant(text: str) -> str:
    """What two runs have in common."""
    lines = [line for line in text.splitlines() if not line.startswith(_OF_ONE_RUN)]
    return " ".join(_VARYING.sub("#", "\n".join(lines)).split())
