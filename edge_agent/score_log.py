"""scores.csv: every score of this device, for simulations and for people who look closely. Off unless asked for.

Appended, never rewritten, flushed by the caller once a second; a disk that refuses switches it off with one line.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

__all__ = ["ScoreLog"]

log = logging.getLogger(__name__)

HEADER: Final = "wall_s,machine_s,score,threshold,over,release,episode\n"


class ScoreLog:
    """Rows wait in memory until `flush`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[str] = []
        self._is_on = True

    def add(
        self,
        *,
        wall_s: float,
        machine_s: float,
        score: float,
        threshold: float,
        release: str,
        episode: str = "",
    ) -> None:
        """Note one window; times in seconds; `episode` is the name of the anomaly that opened with it, if one did."""
        if self._is_on:
            over = int(not score <= threshold)
            self._rows.append(
                f"{wall_s:.3f},{machine_s:.3f},{score:.6g},{threshold:.6g},{over},{release},{episode}\n"
            )

    def flush(self) -> None:
        """Append the rows to the file."""
        if not self._rows:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                if file.tell() == 0:
                    file.write(HEADER)
                file.writelines(self._rows)
        except OSError as error:
            log.warning("score_log_off path=%s error=%s", self._path, error.strerror or error)
            self._is_on = False
        self._rows.clear()
