"""One device's drift monitor: all detectors over all sensors, one phase, told when it turns.

::

    update(x, score) ─► 8 windows, or 6 where something builds up ─► charts, stuck ──┐
                     └─► 16 windows ─► histogram ─────────────────────────────────────┴► max statistic ÷ threshold

    HOME ── ≥ 1: "drifted" ──► DRIFTING ── 64 windows later ──► SETTLED, elsewhere: `models.drift.anchor`
     ▲ ▲                         │  ▲                             │  │
     │ └─ back by then ──────────┘  └── ≥ 1: "changed" ───────────┘  │
     └──────────── < 0.7 of the reference's for 25 windows: "recovered" ┘

In drift is a machine while it moves. Once its new level is known that is no news any more: `is_away` says that it is not
where its reference was taken, `severity` how far from it, and only a further change is drift again. What of a sensor was
over its threshold when the level was measured is muted until the machine is back; a dead sensor is one report.

Windows are evaluated in blocks: a row then costs a fraction of a microsecond per sensor. While the largest ratio is
low nothing can be missed by looking rarely, so the blocks are long; from `closer_above` on, until it is drift, they
are short, and what is lost to them is half a window of delay. The monitor decides nothing about what a device does: it
reports, and the fleet decides to learn.

Invariants: the phase changes only when a block is evaluated; a saved state continues exactly where it was saved, and
is refused for another reference.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.anchor import Anchor, Homecoming
from models.drift.cusum import MEANS
from models.drift.detectors import DETECTORS, Detectors
from models.drift.reference import DriftReference
from models.drift.shapes import sensor_shapes
from models.drift.state_file import decode_state, encode_state
from models.errors import DriftStateError
from protocol.messages.payloads import DetectorFinding, SensorShape

__all__ = ["DriftMonitor", "DriftPhase", "DriftSettings", "DriftVerdict", "make_detectors"]

_MOST_FINDINGS = 12
"""Findings in one verdict; a report must fit one message, and the worst ones tell the story."""
_MOST_SHAPES = 64
_SMALLEST_SCORE = 1e-12
_COUNTED_TOGETHER = 16
"""Windows that the histograms see at a time."""


class DriftSettings(Struct, frozen=True, kw_only=True):
    """How sensitive a monitor is.

    `run_length` is the wanted number of windows between false drift reports of the whole device; `stuck_windows` (at
    the earliest: a sensor that repeats itself in the reference is given longer) the run that counts as stuck,
    `missing_windows` the one without a value that counts as missing; `recovered_below` and `recover_windows` the
    hysteresis; `block` how many windows are evaluated together, `closer_block` while the largest ratio is between
    `closer_above` and 1 (16 at most); `threshold_factor` multiplies every statistical threshold.
    """

    run_length: float = 20_000.0
    stuck_windows: int = 3
    missing_windows: int = 12
    recovered_below: float = 0.7
    recover_windows: int = 25
    block: int = 8
    closer_block: int = 6
    closer_above: float = 0.6
    threshold_factor: float = 1.0


class DriftPhase(StrEnum):
    """Where a machine is: at its reference, on the move, or at rest elsewhere."""

    HOME = "home"
    DRIFTING = "drifting"
    SETTLED = "settled"


class DriftVerdict(Struct, frozen=True, kw_only=True):
    """`score` is the largest statistic ÷ threshold that is news (≥ 1: a change seen now); `phase` has hysteresis.

    `findings` are the statistics over their thresholds, worst first; `windows` were evaluated since the reset and
    `reports` counts the changes found in them. `severity` is how far the sensor that has moved most lies from the
    reference, in its standard deviations; None at home, and while it is not measured. `is_further`: the machine was
    away when it began to move.
    """

    score: float
    phase: DriftPhase
    findings: tuple[DetectorFinding, ...]
    windows: int
    reports: int = 0
    severity: float | None = None
    is_further: bool = False

    @property
    def drifted(self) -> bool:
        """Is the machine in drift: has it moved, and not come to rest yet?"""
        return self.phase is DriftPhase.DRIFTING


_PHASES = tuple(DriftPhase)


def run_length_of_a_column(reference: DriftReference, settings: DriftSettings) -> float:
    """Every sensor, and the score, has an equal share of the device's false alarms."""
    return settings.run_length * (reference.sensors + 1)


def make_detectors(reference: DriftReference, settings: DriftSettings) -> Detectors:
    """The detectors that together keep the settings' run length."""
    return Detectors(
        reference,
        run_length=run_length_of_a_column(reference, settings),
        factor=settings.threshold_factor,
        shortest_stuck=settings.stuck_windows,
        missing_windows=settings.missing_windows,
    )


class DriftMonitor:
    """Watches F sensors and the anomaly score.

    Args:
        reference: what is normal.
        settings: how sensitive to be.
        sensors: names for findings, F of them; indices where empty.

    Attributes:
        reference: what is normal at the moment.
        phase: that of the verdict, at no cost.
        reports: changes found since the reset: a first one, and those after it that were further ones.
    """

    def __init__(
        self, reference: DriftReference, settings: DriftSettings | None = None, *, sensors: Sequence[str] = ()
    ) -> None:
        self._settings = settings or DriftSettings()
        self._names = tuple(sensors)
        self.reset(reference)

    def reset(self, reference: DriftReference) -> None:
        """Start afresh against a new normal, e.g. after a new release went live."""
        names = self._names or tuple(str(i) for i in range(reference.sensors))
        if len(names) != reference.sensors:
            raise DriftStateError(f"{len(names)} sensor names for a reference of {reference.sensors} sensors")
        self.reference = reference
        self._labels = (*names, "score")
        self._detectors = make_detectors(reference, self._settings)
        self._news = self._detectors.ratios
        self._anchor = Anchor(
            reference,
            run_length=run_length_of_a_column(reference, self._settings),
            factor=self._settings.threshold_factor,
            muted=np.zeros(self._news.shape, np.bool_),
        )
        self._rows = np.empty((_COUNTED_TOGETHER, reference.sensors + 1), np.float32)
        self._filled = self._watched = self._calm = self._windows = self.reports = 0
        self._due = self._settings.block
        self._score = 0.0
        self.phase = DriftPhase.HOME
        self._verdict: DriftVerdict | None = None

    @property
    def drifted(self) -> bool:
        """Is the machine in drift: has it moved, and not come to rest yet?"""
        return self.phase is DriftPhase.DRIFTING

    @property
    def is_away(self) -> bool:
        """Is the machine not where its reference was taken: in drift, or settled elsewhere?"""
        return self.phase is not DriftPhase.HOME

    def update(self, x: NDArray[np.floating], score: float) -> None:
        """Add one window: x standardised (F,), NaN where a sensor is missing, `score` ≥ 0; without one it is skipped."""
        row = self._rows[self._filled]
        row[:-1] = x
        row[-1] = math.log(score + _SMALLEST_SCORE) if score >= 0 else math.nan
        self._filled += 1
        if self._filled >= self._due:
            self._evaluate()

    def verdict(self) -> DriftVerdict:
        """The verdict over all evaluated blocks; the same object until the next block is full."""
        if self._verdict is None:
            self._verdict = DriftVerdict(
                score=self._score,
                phase=self.phase,
                findings=self._findings() if self._score >= 1.0 else (),
                windows=self._windows,
                reports=self.reports,
                severity=self._severity(),
                is_further=self.drifted and bool(self._anchor.muted.any()),
            )
        return self._verdict

    def shapes(self, most: int = _MOST_SHAPES) -> tuple[SensorShape, ...]:
        """How far the distributions of the sensors that differ most are from the reference, that one first."""
        return sensor_shapes(
            self._detectors.histograms, self.reference, self._labels[:-1], windows=self._windows, most=most
        )

    def state(self) -> bytes:
        """Everything needed to go on after a restart, bound to the reference."""
        anchor = {f"anchor.{name}": array for name, array in self._anchor.state().items()}
        arrays = self._detectors.state() | anchor | {"pending": self._rows[: self._filled]}
        counters = {
            "calm": self._calm,
            "windows": self._windows,
            "reports": self.reports,
            "phase": _PHASES.index(self.phase),
            "watched": self._watched,
            "due": self._due,
        }
        return encode_state(self._fingerprint(), counters, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from `state()`; raises DriftStateError (and changes nothing) if it is damaged or of another reference."""
        counters, arrays = decode_state(
            state, self._fingerprint(), like=self.state(), most_pending=_COUNTED_TOGETHER - 1
        )
        self._detectors.restore(arrays)
        prefix = "anchor."
        anchored = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        self._anchor.restore(anchored, self._detectors.wander)
        pending = arrays["pending"]
        self._filled = len(pending)
        self._rows[: self._filled] = pending
        self._calm, self._windows, self.reports = counters["calm"], counters["windows"], counters["reports"]
        self.phase = _PHASES[min(counters["phase"], len(_PHASES) - 1)]
        self._watched = min(counters["watched"], self._filled)
        self._due = min(counters["due"], _COUNTED_TOGETHER)
        self._look(self._rows[:0])

    def _evaluate(self) -> None:
        rows = self._rows[self._watched : self._filled]
        flat = rows.ravel()
        if not math.isfinite(flat.dot(flat)):
            scored = rows[np.isfinite(rows[:, -1])]
            self._filled = self._watched + len(scored)
            self._rows[self._watched : self._filled] = scored
            if self._filled < self._due:
                return
            rows = self._rows[self._watched : self._filled]
            self._detectors.fill(rows, self._windows)
        elif self._detectors.is_any_missing:
            self._detectors.fill(rows, self._windows)
        fresh = self._filled - self._watched
        self._detectors.watch(rows)
        self._watched = self._filled
        if self._filled == _COUNTED_TOGETHER:
            self._detectors.count(self._rows)
            self._filled = self._watched = 0
        self._windows += fresh
        score = self._look(rows)
        self._due = min(self._filled + self._block(score), _COUNTED_TOGETHER)
        self._turn(rows, score)

    def _block(self, score: float) -> int:
        """Windows until the next look. Once the machine is away there is nothing to be quick about."""
        settings = self._settings
        if self.is_away:
            return _COUNTED_TOGETHER
        return settings.closer_block if settings.closer_above <= score < 1.0 else settings.block

    def _look(self, rows: NDArray[np.float32]) -> float:
        """The largest ratio that is news after these windows (k, F + 1), which the detectors have seen."""
        detectors = self._detectors
        match self.phase:
            case DriftPhase.SETTLED:
                self._news = self._anchor.news(detectors.ratios, rows, detectors.wander)
            case DriftPhase.DRIFTING if self._anchor.muted.any():
                self._news = np.where(self._anchor.muted, np.float32(0.0), detectors.ratios)
            case _:
                self._news = detectors.ratios
        # What a verdict says beyond this is put together only when it is asked for.
        self._score, self._verdict = self._news.item(int(self._news.argmax())), None
        return self._score

    def _turn(self, rows: NDArray[np.float32], score: float) -> None:
        """What the windows (k, F + 1) make of the phase."""
        detectors, settings = self._detectors, self._settings
        if self.phase is DriftPhase.DRIFTING:
            self._anchor.measure(rows)
            if self._anchor.is_measured:
                self._arrive(
                    self._anchor.settle(
                        detectors.ratios, detectors.stuck, home_below=settings.recovered_below
                    )
                )
                self._calm = 0
                # What has just been muted is no news any more, and no score either.
                self._news = np.where(self._anchor.muted, np.float32(0.0), detectors.ratios)
                self._score = float(self._news.max())
                self.phase = DriftPhase.SETTLED if self._anchor.muted.any() else DriftPhase.HOME
        elif score >= 1.0:
            self._anchor.begin(self._news >= 1.0, rows, detectors.wander)
            self.reports += 1
            self.phase = DriftPhase.DRIFTING
        elif self.phase is DriftPhase.SETTLED:
            is_back = detectors.ratios[self._anchor.muted].max(initial=0.0) < settings.recovered_below
            self._calm = self._calm + len(rows) if is_back else 0
            if self._calm >= settings.recover_windows:
                self._arrive(self._anchor.come_home())
                self.phase = DriftPhase.HOME

    def _arrive(self, home: Homecoming) -> None:
        self._detectors.allow(home.shifts, home.runs)

    def _severity(self) -> float | None:
        if self.phase is not DriftPhase.SETTLED:
            return None
        return float(np.abs(self._anchor.shifts).max())

    def _findings(self) -> tuple[DetectorFinding, ...]:
        """Everything over its threshold, worst first."""
        ratios, thresholds = self._news, self._detectors.thresholds.copy()
        muted = self._anchor.muted[MEANS]
        thresholds[MEANS] = np.where(muted, self._anchor.thresholds, thresholds[MEANS])
        worst = np.argsort(-ratios, axis=None, kind="stable")[:_MOST_FINDINGS]
        return tuple(
            DetectorFinding(
                detector=DETECTORS[detector],
                sensor=self._labels[column],
                statistic=float(ratios[detector, column] * thresholds[detector, column]),
                threshold=float(thresholds[detector, column]),
            )
            for detector, column in zip(*np.unravel_index(worst, ratios.shape), strict=True)
            if ratios[detector, column] >= 1.0
        )

    def _fingerprint(self) -> str:
        content = msgspec.json.encode((self.reference, self._settings))
        return hashlib.sha256(content).hexdigest()
