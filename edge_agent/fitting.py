"""From a release and the rows that may be learnt to who judges, and to what drift is compared with.

Deterministic: the same rows give the same judge, on every device and after a restart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.detection_memory import DetectionMemory
from edge_agent.judges import Judge, MixtureJudge, NetworkJudge
from edge_agent.live_context import Healthy
from edge_agent.settings import DetectionSettings
from models.detection.detector import FEWEST_ROWS, fit_detector
from models.detection.prior import FleetPrior
from models.drift.monitor import DriftMonitor, DriftSettings
from models.drift.replay import fit_calibrated_reference
from models.errors import InputError
from models.int8_model import WindowModel
from models.sensors import SensorView
from models.thresholds import PersonalThreshold, personal_threshold
from protocol.manifest import Manifest, ThresholdSpec

__all__ = [
    "FEWEST_ROWS",
    "MOST_ROWS",
    "Fit",
    "RunningRelease",
    "fit_judge",
    "fit_monitor",
    "kept_judge",
    "network_judge",
]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]
Scores = NDArray[np.float64]

MOST_ROWS: Final = 4096
"""The newest that a detector is fitted on: some .5 s of one core at 46 sensors; at a horizon no window is judged meanwhile."""


@dataclass(frozen=True, kw_only=True)
class RunningRelease:
    """The release that judges windows now, by `name` too; `is_trial`: it still has to prove itself.

    `prior` is what its fleet knows, where the mixture judges.
    """

    name: str
    manifest: Manifest
    model: WindowModel
    bundle_sha256: str
    is_trial: bool
    prior: FleetPrior | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A judge, and the newest rows (n, F) with the score (n,) of each by a judge that had not seen it; `is_calm` (n,): no anomaly.

    `scored` is out of how many rows the threshold was found, where rows were left out as anomalies. `monitor` is the drift monitor
    of these rows, where it was fitted beside the loop.
    """

    judge: Judge
    rows: Float
    scores: Scores
    is_calm: NDArray[np.bool_]
    scored: int = 0
    monitor: DriftMonitor | None = None


def fit_judge(release: RunningRelease, healthy: Healthy, settings: DetectionSettings) -> Fit:
    """Fit whom the release asks for.

    Args:
        release: with a prior: the mixture; without one, or with too few rows: its network.
        healthy: rows that may be learnt.
        settings: limits; as many of the newest rows as make a reference are given back.
    """
    if release.prior is not None:
        try:
            return _fit_mixture(release.prior, healthy, settings)
        except InputError as error:
            log.warning("mixture_not_fitted release=%s error=%s: its network judges", release.name, error)
    return _fit_network(release, healthy.kept.rows[-_reference(healthy, settings) :], settings)


def _reference(healthy: Healthy, settings: DetectionSettings) -> int:
    """How many of the newest rows (≤ n) make a reference: a period of the machine's, where one is known; all, where regimes are."""
    when = healthy.kept.machine_s
    if healthy.context is not None:
        return len(when)
    period_s = settings.period_s
    of_a_period = np.count_nonzero(when > when.max() - period_s) if period_s is not None and len(when) else 0
    return max(settings.reference_windows, int(of_a_period))


def _fit_mixture(prior: FleetPrior, healthy: Healthy, settings: DetectionSettings) -> Fit:
    rows, reference = healthy.seen, _reference(healthy, settings)
    detector = fit_detector(rows, healthy.unit, prior, settings.budget, settings.alarm_rules)
    form, promise = detector.form, detector.promise
    log.info(
        "detector_fitted windows=%d own_weight=%.2f threshold=%.4g provisional=%s profile=%s regimes=%d",
        promise.fitted_on,
        form.own_weight,
        promise.threshold,
        promise.is_provisional,
        healthy.context is not None and healthy.context.profile is not None,
        len(healthy.context.regimes.centres) if healthy.context and healthy.context.regimes else 1,
    )
    newest, furthest = (each[-reference:] for each in (form.held_out, form.held_out_furthest))
    return Fit(
        judge=MixtureJudge(detector, healthy.context),
        rows=rows[-reference:],
        scores=newest / form.typical**2,
        is_calm=_calm(np.maximum(newest / form.units[0], furthest / form.units[-1]), promise.threshold),
    )


def _fit_network(release: RunningRelease, rows: Float, settings: DetectionSettings) -> Fit:
    scores = np.array([release.model.infer_and_score(row)[1] for row in rows], np.float64)
    spec = release.manifest.threshold
    threshold = _fit_threshold(spec, scores, is_personal=settings.personal_threshold)
    return Fit(
        judge=network_judge(release, threshold, settings),
        rows=rows,
        scores=scores,
        is_calm=_calm(scores, spec.score * spec.personal_maximum),
        scored=len(scores) if settings.personal_threshold else 0,
    )


def network_judge(
    release: RunningRelease, threshold: PersonalThreshold, settings: DetectionSettings
) -> NetworkJudge:
    """The release's own model with a threshold that is known."""
    return NetworkJudge(release.model, threshold, opens_after_windows=settings.opens_after_windows)


def kept_judge(release: RunningRelease, memory: DetectionMemory, settings: DetectionSettings) -> Judge | None:
    """The judge of a release that was committed here, as it was; None: fit one."""
    known = memory.remembered
    if known.bundle_sha256 != release.bundle_sha256 or known.threshold is None:
        return None
    if known.detector_sha256:
        return memory.load_detector(release.bundle_sha256, settings)
    return network_judge(release, known.threshold, settings)


def _fit_threshold(spec: ThresholdSpec, scores: Scores, *, is_personal: bool) -> PersonalThreshold:
    """The release's threshold, moved to this device's own scores (n,) where `is_personal`."""
    usable = scores[np.isfinite(scores) & (scores <= spec.score * spec.personal_maximum)]
    return personal_threshold(spec, usable if is_personal else usable[:0])


def _calm(scores: Scores, highest: float) -> NDArray[np.bool_]:
    """Which rows (n,) may become this device's normal: not those that are anomalies under the new judge itself."""
    calm = scores <= highest
    if np.count_nonzero(calm) < max(FEWEST_ROWS, len(scores) // 2):
        calm = np.isfinite(scores)
    return np.asarray(calm)


def fit_monitor(sensors: SensorView, fit: Fit, settings: DriftSettings) -> DriftMonitor | None:
    """A drift monitor whose normal are the calm rows of a fit; None where they are too few to fill its ten bins."""
    rows, scores = fit.rows[fit.is_calm], fit.scores[fit.is_calm]
    if len(rows) < FEWEST_ROWS:
        return None
    reference = fit_calibrated_reference(sensors.watch(rows), scores, settings)
    return DriftMonitor(reference, settings, sensors=sensors.watched)
