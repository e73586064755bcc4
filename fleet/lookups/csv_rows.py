"""Devices as lines of a CSV file, which a spreadsheet shows and never runs.

A cell that begins as a formula does (``=``, ``+``, ``-``, ``@``, a tab, a line's end) has an apostrophe before it: what a device
calls itself must not become a call to somebody's server in the program of whoever opens the file.

Source: OWASP, "CSV Injection"; RFC 4180.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from fleet.device_query import device_filter
from fleet.lookups.devices import list_devices
from fleet.storage.base import Database
from fleet.views.devices import DeviceView

__all__ = ["device_lines"]

AT_ONCE: Final = 500

_COLUMNS: Final = (
    *("id", "family", "site", "hardware", "state", "online", "agent_state", "release", "desired_release"),
    *("agent_version", "drifted", "drift_score", "open_alarms", "outstanding_commands", "last_seen"),
    *("last_health_at", "enrolled_at", "certificate_ends_at", "identity_conflict"),
)
_OF_HEALTH: Final = (
    *("windows", "unjudged_windows", "sight", "clipped_share", "set_aside_windows", "restarts", "crashes"),
    *("promised_per_1000", "realised_low_per_1000", "realised_high_per_1000", "problems"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def device_lines(database: Database, query: str, families: Collection[str] | None) -> Iterator[str]:
    """The lines of all devices that `query` selects, some hundred at a time: each part is a snapshot of its own.

    Raises:
        QuerySyntaxError: the query does not parse; before the first line.
    """
    device_filter(query)
    return _lines(database, query, families)


def _lines(database: Database, query: str, families: Collection[str] | None) -> Iterator[str]:
    yield _line([*_COLUMNS, *_OF_HEALTH, "labels"])
    after: str | None = None
    while True:
        with database.read() as session:
            page = list_devices(session, query, families=families, after=after, limit=AT_ONCE)
        yield "".join(_line(_cells(view)) for view in page.items)
        after = page.next_cursor
        if after is None:
            return


def _cells(view: DeviceView) -> list[Any]:
    health = view.last_health or {}
    labels = "; ".join(f"{name}={value}" for name, value in sorted(view.labels.items()))
    return [*(getattr(view, name) for name in _COLUMNS), *(health.get(name) for name in _OF_HEALTH), labels]


def _line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(value: Any) -> str:
    """What stands in a cell.

    >>> _cell("=HYPERLINK(1)"), _cell(-1.5), _cell(["a", "b"]), _cell(None), _cell(True)
    ("'=HYPERLINK(1)", '-1.5', 'a; b', '', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = text.replace("\0", "")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
