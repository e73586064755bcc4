"""A list of faults with a start and an end each, and the labels that it gives the rows of machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.recordings.raw_columns import Table
from models.recordings.words import is_device_name, words_of

__all__ = ["Events", "found_events", "labels_of"]

_STARTS: Final = frozenset(["start", "begin", "from", "von", "beginn", "onset", "started", "since"])
_ENDS: Final = frozenset(["end", "stop", "to", "bis", "ende", "until", "finish", "ended", "finished", "till"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """`machines` (n,) names one each, or is None where the list is for all."""

    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    machines: tuple[str, ...] | None


def found_events(table: Table) -> Events | None:
    """The events of a table with one column of starts and one of ends, and no numbers measured beside them."""
    stamps = [c for c in table.columns if c.sort == "stamp" and c.has_date]
    starts = [c for c in stamps if _STARTS & set(words_of(c.name))]
    ends = [c for c in stamps if _ENDS & set(words_of(c.name))]
    if len(stamps) != 2 or len(starts) != 1 or len(ends) != 1:
        return None
    orders = [order for order in starts[0].stamps if order in ends[0].stamps]
    if len(orders) != 1:
        return None
    first, last = starts[0].stamps[orders[0]], ends[0].stamps[orders[0]]
    if not (last >= first)[~np.isnan(first) & ~np.isnan(last)].all():
        return None
    machines = next((c for c in table.columns if is_device_name(c.name)), None)
    names = None
    if machines is not None and machines.sort == "word":
        words = list(machines.vocabulary)
        names = tuple(words[code] if code >= 0 else "" for code in machines.codes.tolist())
    elif machines is not None and machines.sort == "number":
        names = tuple(f"{value:.15g}" for value in machines.values.tolist())
    return Events(starts_s=first, ends_s=last, machines=names)


def labels_of(events: Events, machine: str, times_s: NDArray[np.float64]) -> NDArray[np.int8]:
    """1 for rows within an event of this machine, 0 for the others."""
    labels = np.zeros(len(times_s), np.int8)
    for k, (start, end) in enumerate(zip(events.starts_s, events.ends_s, strict=True)):
        if events.machines is None or events.machines[k].casefold() == machine.casefold():
            labels[(times_s >= start) & (times_s <= end)] = 1
    return labels
