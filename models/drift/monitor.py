"""One device's drift monitor: all detectors over all sensors, one verdict, told once when it turns.

::

    update(x, score) ─► 8 windows, or 2 where something builds up ─► charts, stuck ──┐
                     └─► 16 windows ─► histograms, range ─────────────────────────────┴► max statistic ÷ threshold
                                                                                           ≥ 1 → drifted
                                                                      < 0.7 for 25 windows → recovered

Windows are evaluated in blocks: a row then costs a fraction of a microsecond per sensor. While the largest ratio is
low nothing can be missed by looking rarely, so the blocks are long; from `closer_above` on, until it is drift, they
are short, and what is lost to them is half a window of delay. The monitor decides nothing about what a device does: it
reports, and the fleet decides to learn.

Invariants: the verdict changes only when a block is evaluated; a saved state continues exactly where it was saved, and
is refused for another reference.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.detectors import DETECTORS, Detectors
from models.drift.reference import DriftReference
from models.drift.state_file import decode_state, encode_state
from models.errors import DriftStateError
from protocol.messages.payloads import DetectorFinding

__all__ = ["DriftMonitor", "DriftSettings", "DriftVerdict", "make_detectors"]

_MOST_FINDINGS = 12
"""Findings in one verdict; a report must fit one message, and the worst ones tell the story."""
_SMALLEST_SCORE = 1e-12
_COUNTED_TOGETHER = 16
"""Windows that the histograms see at a time."""


class DriftSettings(Struct, frozen=True, kw_only=True):
    """How sensitive a monitor is.

    `run_length` is the wanted number of windows between false drift reports of the whole device; `stuck_windows` (at
    the earliest: a sensor that repeats itself in the reference is given longer) the run that counts as stuck,
    `range_windows` the one that counts as out of range, or as missing; `recovered_below` and `recover_windows` the hysteresis; `block` how many windows are
    evaluated together, `closer_block` while the largest ratio is between `closer_above` and 1 (16 at most);
    `threshold_factor` multiplies every statistical threshold, beside the reference's own (`models.drift.bootstrap`).
    """

    run_length: float = 20_000.0
    stuck_windows: int = 3
    range_windows: int = 12
    recovered_below: float = 0.7
    recover_windows: int = 25
    block: int = 8
    closer_block: int = 2
    closer_above: float = 0.6
    threshold_factor: float = 1.0


class DriftVerdict(Struct, frozen=True, kw_only=True):
    """`score` is the largest statistic ÷ threshold (≥ 1: drift seen now), `drifted` the state with hysteresis.

    `findings` are the statistics over their thresholds, worst first; `windows` were evaluated since the reset.
    """

    score: float
    drifted: bool
    findings: tuple[DetectorFinding, ...]
    windows: int


def make_detectors(reference: DriftReference, settings: DriftSettings) -> Detectors:
    """The detectors that together keep the settings' run length: every sensor, and the score, has an equal share."""
    return Detectors(
        reference,
        run_length=settings.run_length * (reference.sensors + 1),
        factor=settings.threshold_factor * reference.threshold_factor,
        shortest_stuck=settings.stuck_windows,
        range_windows=settings.range_windows,
    )


class DriftMonitor:
    """Watches F sensors and the anomaly score.

    Args:
        reference: what is normal.
        settings: how sensitive to be.
        sensors: names for findings, F of them; indices where empty.

    Attributes:
        reference: what is normal at the moment.
        drifted: that of the verdict, at no cost.
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
        self._rows = np.empty((_COUNTED_TOGETHER, reference.sensors + 1), np.float32)
        self._filled = self._watched = self._calm = self._windows = 0
        self._due = self._settings.block
        self._score = 0.0
        self.drifted = False
        self._verdict: DriftVerdict | None = None

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
                drifted=self.drifted,
                findings=self._findings() if self._score >= 1.0 else (),
                windows=self._windows,
            )
        return self._verdict

    def state(self) -> bytes:
        """Everything needed to go on after a restart, bound to the reference."""
        arrays = self._detectors.state() | {"pending": self._rows[: self._filled]}
        counters = {
            "calm": self._calm,
            "windows": self._windows,
            "drifted": int(self.drifted),
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
        pending = arrays["pending"]
        self._filled = len(pending)
        self._rows[: self._filled] = pending
        self._calm, self._windows = counters["calm"], counters["windows"]
        self._watched = min(counters["watched"], self._filled)
        self._due = min(counters["due"], _COUNTED_TOGETHER)
        self._judge(float(self._detectors.ratios.max()), drifted=bool(counters["drifted"]))

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
        ratios = self._detectors.ratios
        self._detectors.watch(rows)
        self._watched = self._filled
        if self._filled == _COUNTED_TOGETHER:
            self._detectors.count(self._rows)
            self._filled = self._watched = 0
        score = ratios.item(int(ratios.argmax()))
        settings = self._settings
        # Once it is drift there is nothing to be quick about.
        block = settings.closer_block if settings.closer_above <= score < 1.0 else settings.block
        self._due = min(self._filled + block, _COUNTED_TOGETHER)
        self._windows += fresh
        drifted = self.drifted
        if score >= 1.0:
            drifted, self._calm = True, 0
        elif drifted:
            self._calm = self._calm + fresh if score < settings.recovered_below else 0
            drifted = self._calm < settings.recover_windows
        self._judge(score, drifted=drifted)

    def _judge(self, score: float, *, drifted: bool) -> None:
        # What a verdict says beyond this is put together only when it is asked for: a dead sensor is drift for months.
        self._score, self.drifted, self._verdict = score, drifted, None

    def _findings(self) -> tuple[DetectorFinding, ...]:
        """Everything over its threshold, worst first."""
        ratios, thresholds = self._detectors.ratios, self._detectors.thresholds
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
