"""One picture of a running world: the terminal's view as an SVG, taken when a rollout has reached half of the devices.

Self-contained: no font and no script of another host.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

from rich.console import Console

from simulations.record import Record
from simulations.screen import draw_world

__all__ = ["draw_picture", "is_worth_a_picture", "take_picture"]

COLUMNS: Final = 116
ROWS: Final = 44

_FONTS: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""What rich would have a viewer load from a network."""


def is_worth_a_picture(record: Record) -> bool:
    """Whether a release that was learned together has reached half of the devices, and not yet all."""
    learned = {run.release for run in record.trainings.values() if run.release}
    on_it = sum(seen.release in learned for seen in record.devices.values())
    return len(record.devices) <= 2 * on_it < 2 * len(record.devices)


def draw_picture(record: Record) -> str:
    """The view of the world as it stands, as SVG text."""
    console = Console(record=True, width=COLUMNS, height=ROWS, file=io.StringIO(), force_terminal=True)
    console.print(draw_world(record, ROWS))
    return _FONTS.sub("", console.export_svg(title="fedge-sim run demo", unique_id="fedge"))


def take_picture(record: Record, path: Path) -> None:
    """Write the picture unless it was taken before, or this is not the moment."""
    if not path.exists() and is_worth_a_picture(record):
        path.write_text(draw_picture(record), encoding="utf-8")
