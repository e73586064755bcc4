"""A machine as the study knows it: its windows in the order of time, of which the first part is learnt from and the rest is held back.

::

    rows of a machine (`models.recordings.reading`) ─► windows, none across a gap ─► learning time ──► held-back time
                                                                                    what a fleet is    what is judged
                                                                                    made of

The cut is a share of the windows and nothing else: labels say afterwards what an alarm was worth, and move no cut, threshold or choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features import make_extractor
from models.recordings.suggestions import Suggestion
from protocol.manifest import FeatureSpec

__all__ = ["Subject", "TooShort", "cut_windows", "learning_features", "most_missing"]

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TooShort:
    """A machine of which too little is there: `said` is a sentence for a person."""

    name: str
    windows: int
    needed: int
    what: str = "windows"

    @property
    def said(self) -> str:
        """How many it has, and how many it needs."""
        return (
            f"{self.name} has {self.windows:,} {self.what}, and {self.needed:,} are needed: record for longer"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One machine.

    Attributes:
        name: of the machine.
        windows: (n, F) ready features, or (n, samples, channels) raw; NaN where a value is missing.
        times_s: when each window ends (n,), Unix seconds, or seconds since the first where there is no clock.
        labels: of each window (n,): 1 fault, 0 normal, -1 unknown; None: there are none.
        learning: windows that are learnt from; the others are held back.
        has_clock: whether `times_s` come from the recording, or its sample rate.
    """

    name: str
    windows: Rows
    times_s: NDArray[np.float64]
    labels: NDArray[np.int8] | None
    learning: int
    has_clock: bool

    @property
    def held_back(self) -> int:
        """Windows that are held back."""
        return len(self.windows) - self.learning

    @property
    def held_back_s(self) -> float:
        """How long the held-back windows last, gaps left out: as many steps as there are windows, each as long as most are."""
        steps = np.diff(self.times_s[max(self.learning - 1, 0) :])
        return float(np.median(steps)) * self.held_back if len(steps) else 0.0

    @property
    def raw_bytes(self) -> int:
        """What one window is as raw float32."""
        return int(self.windows[0].nbytes)


def cut_windows(
    name: str,
    rows: Rows,
    suggestion: Suggestion,
    *,
    times_s: NDArray[np.float64] | None = None,
    labels: NDArray[np.int8] | None = None,
    pieces: Sequence[slice] = (),
    sample_rate_hz: float | None = None,
) -> Subject | TooShort:
    """The windows of a machine, none of them across a gap between `pieces`.

    Args:
        name: of the machine.
        rows: (n, channels), in the order of time.
        suggestion: how many rows make a window, and which share is learnt from.
        times_s: of each row, Unix seconds.
        labels: of each row; a window is a fault if one of its rows is, and unknown if one of them is and none a fault.
        pieces: stretches without a gap; empty: there is none.
        sample_rate_hz: rows in a second, where there are no times.
    """
    step = suggestion.window_rows
    firsts = np.concatenate(
        [
            np.arange(piece.start or 0, (len(rows) if piece.stop is None else piece.stop) - step + 1, step)
            for piece in (pieces or (slice(0, len(rows)),))
        ]
        or [np.zeros(0, np.int64)]
    ).astype(np.int64)
    if len(firsts) < suggestion.fewest_windows:
        return TooShort(name=name, windows=len(firsts), needed=suggestion.fewest_windows)
    at = firsts[:, None] + np.arange(step)
    windows = rows[at] if step > 1 else rows if len(firsts) == len(rows) else rows[firsts]
    has_clock = times_s is not None or sample_rate_hz is not None
    if times_s is None:
        times_s = np.arange(len(rows)) / (sample_rate_hz or 1.0)
    told = None
    if labels is not None:
        of_window = labels[at]
        is_fault, is_unknown = (of_window == 1).any(axis=1), (of_window == -1).any(axis=1)
        told = np.where(is_fault, 1, np.where(is_unknown, -1, 0)).astype(np.int8)
    return Subject(
        name=name,
        windows=windows,
        times_s=times_s[firsts + step - 1],
        labels=told,
        learning=suggestion.learning_of(len(firsts)),
        has_clock=has_clock,
    )


def learning_features(subject: Subject, spec: FeatureSpec, first: int, most: int) -> Rows:
    """Feature rows (n, F) of the learning time, as a first release takes them: those with a missing value are left out.

    Of more than `first` + `most` the first, which say what is healthy, and the newest.
    """
    windows = subject.windows[: subject.learning]
    if windows.ndim == 2:
        rows = windows
    else:
        extract = make_extractor(spec).extract
        rows = np.stack([extract(window) for window in windows])
    whole = np.isfinite(rows).all(axis=1)
    rows = rows if whole.all() else rows[whole]
    return rows if len(rows) <= first + most else np.concatenate([rows[:first], rows[-most:]])


def most_missing(subject: Subject, sensors: Sequence[str]) -> str:
    """The sensor that is missing most often in the learning time, in words; empty where none is."""
    windows = subject.windows[: subject.learning]
    missing = np.isnan(windows).reshape(-1, windows.shape[-1]).mean(axis=0)
    worst = int(missing.argmax())
    return f"{sensors[worst]!r} is missing in {missing[worst]:.0%} of them" if missing[worst] else ""
