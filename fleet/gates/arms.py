"""The evidence of one look: what the canaries and the controls showed, before and after, as arrays.

One row is one device, never a minute: minutes of one machine are no replicates. What a device did not tell is NaN, or no windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arms", "Placebos", "Shown"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What n devices showed in one span; every array has shape (n,).

    Attributes:
        hours: that their health covers; 0 where nothing was heard.
        windows: that a model was asked about.
        judged: of them, those that got a score; the others are unjudged.
        over: of the judged ones, those over the threshold.
        log_latency: mean of log inference p99 (µs) over messages with judged windows; NaN without one.
        log_drift: mean of log(drift score + 0.01); NaN without one.
        memory_slope: of log PSS, per hour (least squares); NaN with fewer than three messages.
        sight: mean share of disturbed windows that were seen; NaN where none was told.
        restarts: starts, crashes and silences in the span (a silence: no health for longer than a device counts as online).
        first_event_hours: hours from the start of the span to the first of these, 0 where a device fell silent while it warmed
            up; NaN where there was none.
        true_alarms: anomalies of the span that a person called real.
        false_alarms: anomalies of the span that a person called false.
    """

    hours: Floats
    windows: Floats
    judged: Floats
    over: Floats
    log_latency: Floats
    log_drift: Floats
    memory_slope: Floats
    sight: Floats
    restarts: Floats
    first_event_hours: Floats
    true_alarms: Floats
    false_alarms: Floats

    def __len__(self) -> int:
        """How many devices."""
        return len(self.hours)

    @property
    def unjudged(self) -> Floats:
        """Windows that got no score, (n,)."""
        return self.windows - self.judged


@dataclass(frozen=True, kw_only=True)
class Placebos:
    """Pretended canaries: devices in past spans of the fleet, none of them on the release. For one or two canaries.

    `block` (k,) int says which past span a row is of; `before` and `after` have k rows. The rows are of the same lengths as the arms'.
    """

    block: NDArray[np.int64]
    before: Shown
    after: Shown


@dataclass(frozen=True, kw_only=True)
class Arms:
    """One look at one group, or at all that were given the release so far.

    Attributes:
        devices: names, in the order of the rows: canaries and controls mixed.
        is_canary: (n,) bool, who was given the release: the arm in which the lot put them.
        stratum: (n,) int, hardware and site; canaries were drawn within it.
        before: over `baseline_s` before the group began, n rows; no hours for a device that ran no release of the family.
        after: since each committed and warmed up, but not before the present group began (controls: since the group
            began and warmed up), n rows. The spans of both arms are about as long, or one arm is noisier than the other.
        placebos: None where there are canaries enough.
        hazard_events: restarts, crashes and silences of the fleet's devices in the past that was read.
        hazard_hours: device hours of that past.
        steps_aside: (n,) bool, canaries that do not run it: they put it off, or could not install it. None: nobody. They stay in their
            arm, for who steps aside is no chance: the busy and the hot do, and there are as many of those among the controls.
        ran_before: whether a canary is known to have run a release before, though of its past nothing may be left.
    """

    devices: tuple[str, ...]
    is_canary: NDArray[np.bool_]
    stratum: NDArray[np.int64]
    before: Shown
    after: Shown
    placebos: Placebos | None
    hazard_events: float
    hazard_hours: float
    steps_aside: NDArray[np.bool_] | None = None
    ran_before: bool = False

    @property
    def runs_it(self) -> NDArray[np.bool_]:
        """(n,) bool, who runs the release: whatever it does, it does to these."""
        return self.is_canary if self.steps_aside is None else self.is_canary & ~self.steps_aside
