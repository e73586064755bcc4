"""Files as people have them, of many kinds, each made with what it says: the truth that a reader must find, ask about, or refuse.

`KINDS` is a table of makers; each writes into a folder and returns a `Case`. Random numbers come from the caller, so that a fuzz may draw
as many of each kind as it likes.
"""

from __future__ import annotations

import ugly_arrays
import ugly_columns
import ugly_exports
import ugly_formats
import ugly_layouts
import ugly_lines
import ugly_machines
import ugly_names
import ugly_numbers
import ugly_strangers
import ugly_times
from ugly_world import KINDS, Case, answered, outcome

__all__ = ["GROUPS", "KINDS", "Case", "answered", "outcome"]

GROUPS = (
    ugly_strangers,
    ugly_layouts,
    ugly_lines,
    ugly_numbers,
    ugly_columns,
    ugly_exports,
    ugly_formats,
    ugly_times,
    ugly_machines,
    ugly_names,
    ugly_arrays,
)
