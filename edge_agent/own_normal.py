"""What this device calls normal: its threshold, its drift reference, and whose word it has for either.

A release brings a threshold; a device moves it to its own rows, and fits a drift reference on them, when the release is
committed: those rows are what the model was trained on. Rows of an alarm, or of a drift that no person has looked into,
are never among them (`edge_agent.kept_rows`); a release that is committed while such a drift goes on owes its reference
until the drift is accepted or over, because one of older rows would only find the same drift once more.

::

    adopted ─► settle ─┬─ on trial, or known: the threshold alone
                       └─ else: commit ─► threshold, and reference unless a drift is under investigation
    accepted ─► rows may be learnt ─► the reference that was owed

Invariants: a model on trial changes nothing that is remembered; the threshold in force is that of the release that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.commissioning import StandardisedRow
from edge_agent.detection_memory import DetectionMemory
from edge_agent.kept_rows import KeptRows
from edge_agent.settings import DetectionSettings
from models.drift.bootstrap import fit_calibrated_reference
from models.drift.monitor import DriftMonitor, DriftSettings, DriftVerdict
from models.int8_model import WindowModel
from models.sensors import SensorView
from models.thresholds import PersonalThreshold, personal_threshold
from protocol.manifest import Manifest, ThresholdSpec
from protocol.messages.payloads import NormalAcceptance

__all__ = ["OwnNormal", "RunningRelease", "calm_rows", "fit_monitor", "fit_threshold", "score_rows"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
Scores = NDArray[np.float64]

FEWEST_ROWS: Final = 20
"""Fewer cannot fill the ten bins of a drift reference."""


@dataclass(frozen=True, kw_only=True)
class RunningRelease:
    """The release that judges windows now, by `name` too; `is_trial`: it still has to prove itself."""

    name: str
    manifest: Manifest
    model: WindowModel
    bundle_sha256: str
    is_trial: bool


class OwnNormal:
    """Threshold and drift of one device. One thread.

    Args:
        sensors: what a row speaks of.
        settings: limits.
        memory: what survives a restart.
        rows: the rows that may be learnt.
        wall: Unix seconds.

    Attributes:
        threshold: the one in force; None while there is no model to have one.
        is_drifted: the last drift verdict.
    """

    def __init__(
        self,
        sensors: SensorView,
        settings: DetectionSettings,
        memory: DetectionMemory,
        rows: KeptRows,
        wall: Callable[[], float],
    ) -> None:
        self._sensors, self._settings, self._memory = sensors, settings, memory
        self._rows, self._wall = rows, wall
        self._drift_settings = DriftSettings(run_length=settings.drift_run_length)
        self._drift = memory.load_drift(sensors.watched, self._drift_settings)
        self.is_drifted = self._drift is not None and self._drift.verdict().drifted
        self.threshold: PersonalThreshold | None = None
        self._note_accepted()

    @property
    def is_investigating(self) -> bool:
        """Is there drift that no person has called normal?"""
        return self.is_drifted and not self._memory.remembered.is_drift_accepted

    def drift_score(self) -> float:
        """Largest statistic ÷ threshold over all detectors; 0 without a reference."""
        return self._drift.verdict().score if self._drift is not None else 0.0

    def misfit(self, release: RunningRelease) -> str:
        """One sentence if most of this machine's windows were anomalies to the release when it was committed; else empty."""
        known, threshold = self._memory.remembered, self.threshold
        if threshold is None or known.bundle_sha256 != release.bundle_sha256:
            return ""
        if 2 * threshold.fitted_on >= known.scored:
            return ""
        name = release.manifest.release
        return f"{name} does not fit this machine: {threshold.fitted_on} of {known.scored} windows usable"

    def settle(self, release: RunningRelease) -> DriftVerdict | None:
        """Find the threshold for a release just adopted, and a reference where it is committed but has none yet.

        Returns:
            As `commit`.
        """
        known = self._memory.remembered
        is_known = known.bundle_sha256 == release.bundle_sha256
        if is_known and known.threshold is not None and (release.is_trial or self._drift is not None):
            self.threshold = known.threshold
        elif release.is_trial:
            self.threshold = self._fit_threshold(release, score_rows(release.model, self.recent_rows()))
        else:
            return self.commit(release)
        return None

    def commit(self, release: RunningRelease) -> DriftVerdict | None:
        """The release has proved itself: its normal becomes this device's normal.

        Returns:
            The verdict of the renewed monitor if drift was reported before: it has ended.
        """
        rows = self.recent_rows()
        scores = score_rows(release.model, rows)
        self.threshold = self._fit_threshold(release, scores)
        is_owed = self.is_investigating
        self._memory.remember(
            bundle_sha256=release.bundle_sha256,
            threshold=self.threshold,
            scored=len(scores) if self._settings.personal_threshold else 0,
            is_reference_owed=is_owed,
        )
        if is_owed:
            return None
        calm = calm_rows(release.manifest.threshold, scores)
        monitor = fit_monitor(self._sensors, rows[calm], scores[calm], self._drift_settings)
        if monitor is None:  # the old reference, if any, stays
            return None
        self._drift = monitor
        self._memory.save_drift(monitor)
        if not self.is_drifted:
            return None
        self._note_drift(is_drifted=False)
        return monitor.verdict()

    def accept(self, acceptance: NormalAcceptance, release: RunningRelease | None) -> DriftVerdict | None:
        """Windows set aside until then are normal, says a person: they may be learnt.

        Returns:
            As `commit`, where one had to wait for this word.
        """
        known = self._memory.remembered
        if acceptance.counter <= known.accepted:
            return None
        # Remembered first: after a power cut `KeptRows` finishes what was begun.
        self._memory.remember(
            accepted=acceptance.counter,
            accepting_until_s=acceptance.until_s,
            is_drift_accepted=known.is_drift_accepted
            or (self.is_drifted and known.drift_since_s <= acceptance.until_s),
        )
        moved = self._rows.accept(acceptance.until_s)
        self._note_accepted()
        log.info("normal_accepted counter=%d windows=%d", acceptance.counter, moved)
        is_due = known.is_reference_owed and not self.is_investigating
        return self.commit(release) if is_due and release is not None and not release.is_trial else None

    def begin_anew(self, rows: list[StandardisedRow], release: RunningRelease | None) -> None:
        """The scale is another: what was learnt in the one before means nothing; these rows, oldest first, are normal."""
        self._rows.restart(rows)
        # If drift was reported, the monitor that begins now says with its first window that it has ended.
        was_drifted, self.is_drifted, self._drift = self.is_drifted, False, None
        self._memory.remember(drift_since_s=0.0, is_drift_accepted=False)
        if release is not None and release.is_trial:
            self.threshold = self._fit_threshold(release, score_rows(release.model, self.recent_rows()))
        elif release is not None:
            self.commit(release)
        self.is_drifted = was_drifted and self._drift is not None

    def watch(self, columns: Float, score: float, release: RunningRelease) -> DriftVerdict | None:
        """Look for drift in one window's watched columns, scored by `release`; the verdict if drift began or ended with it.

        A reference that a release owes since drift stood in its way is paid when that ends by itself: a sensor was mended.
        """
        if self._drift is None:
            return None
        self._drift.update(columns, score)
        if self._drift.drifted == self.is_drifted:
            return None
        self._note_drift(is_drifted=self._drift.drifted)
        verdict = self._drift.verdict()
        if not verdict.drifted and self._memory.remembered.is_reference_owed:
            self.commit(release)
        return verdict

    def save(self) -> None:
        """Let the drift monitor's state survive a restart."""
        if self._drift is not None:
            self._memory.save_drift(self._drift)

    def recent_rows(self) -> Float:
        """The newest rows (n, F) that may be learnt, as many as make a reference."""
        return self._rows.newest(self._settings.reference_windows)

    def _note_drift(self, *, is_drifted: bool) -> None:
        self.is_drifted = is_drifted
        self._memory.remember(drift_since_s=self._wall() if is_drifted else 0.0, is_drift_accepted=False)

    def _note_accepted(self) -> None:
        if not self._rows.is_accepting:
            self._memory.remember(accepting_until_s=0.0)

    def _fit_threshold(self, release: RunningRelease, scores: Scores) -> PersonalThreshold:
        spec = release.manifest.threshold
        return fit_threshold(spec, scores, is_personal=self._settings.personal_threshold)


def score_rows(model: WindowModel, rows: Float) -> Scores:
    """The score (n,) of each standardised row (n, F)."""
    return np.array([model.infer_and_score(row)[1] for row in rows], np.float64)


def fit_threshold(spec: ThresholdSpec, scores: Scores, *, is_personal: bool) -> PersonalThreshold:
    """The release's threshold, moved to this device's own scores (n,) where `is_personal`."""
    usable = scores[np.isfinite(scores) & (scores <= spec.score * spec.personal_maximum)]
    return personal_threshold(spec, usable if is_personal else usable[:0])


def calm_rows(spec: ThresholdSpec, scores: Scores) -> NDArray[np.bool_]:
    """Which rows (n,) may become this device's normal: not those that are anomalies under the new model itself."""
    calm = scores <= spec.score * spec.personal_maximum
    if np.count_nonzero(calm) < max(FEWEST_ROWS, len(scores) // 2):
        calm = np.isfinite(scores)
    return np.asarray(calm)


def fit_monitor(
    sensors: SensorView, rows: Float, scores: Scores, settings: DriftSettings
) -> DriftMonitor | None:
    """A drift monitor whose normal are rows (n, F) with their scores; None where they are too few."""
    if len(rows) < FEWEST_ROWS:
        return None
    # A fixed seed: the same windows give the same thresholds, on every device and after a restart.
    random = np.random.default_rng(0)
    reference = fit_calibrated_reference(sensors.watch(rows), scores, settings, rng=random)
    return DriftMonitor(reference, settings, sensors=sensors.watched)
