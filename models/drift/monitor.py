"""One device's drift monitor: all detectors over all sensors, one verdict, told once when it turns.

::

    update(x, score) ─► block of 16 windows ─► histograms, CUSUMs, checks ─► max statistic ÷ threshold
                                                                               ≥ 1 → drifted
                                                          < 0.7 for 25 windows → recovered

A block is evaluated as a whole: a row then costs a fraction of a microsecond per sensor, and drift is no matter of
single windows. It decides nothing about what a device does: it reports, and the fleet decides to learn.

Invariants: `drifted` changes only when a block is evaluated; the score is that of the last evaluated block; a saved
state continues exactly where it was saved, and is refused for another reference.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.drift.calibration import (
    HISTOGRAM_RATES,
    bootstrap_rows,
    corrected_run_length,
    cusum_threshold,
    factor_for_run_length,
    histogram_threshold,
)
from models.drift.cusum import Cusum
from models.drift.ewma_histogram import EwmaHistogram
from models.drift.reference import DriftReference, fit_reference, log_score_moments
from models.drift.sensor_checks import SensorChecks
from models.drift.state_file import decode_state, encode_state
from protocol.messages.payloads import DetectorFinding

__all__ = ["DriftMonitor", "DriftSettings", "DriftVerdict", "bootstrap_factor"]

_MOST_FINDINGS = 12
"""Findings in one verdict; a report must fit one message, and the worst ones tell the story."""
_CEILING = 2.0
"""CUSUM sums stop at twice their threshold, so that recovery takes some ten windows, not as long as the drift did."""
_LARGEST_HISTOGRAM_THRESHOLD = 0.6
"""S cannot exceed 0.9; a threshold above that would be a detector switched off."""
_ALLOWANCE_FOR_FIT = 2.5
"""In standard errors of the reference's mean: added to the CUSUM's allowance."""
_SMALLEST_SCORE = 1e-12
_DETECTORS = (
    *(f"histogram λ={rate:g}" for rate in HISTOGRAM_RATES),
    "cusum up",
    "cusum down",
    "stuck",
    "out of range",
)


class DriftSettings(Struct, frozen=True, kw_only=True):
    """How sensitive a monitor is.

    `run_length` is the wanted number of windows between false drift reports of the whole device; `allowance` the
    CUSUM's k; `stuck_windows` and `range_windows` the runs that count as stuck and out of range; `recovered_below`
    and `recover_windows` the hysteresis; `block` how many windows are evaluated together; `threshold_factor`
    multiplies every statistical threshold (see `bootstrap_factor`).
    """

    run_length: float = 20_000.0
    allowance: float = 0.25
    stuck_windows: int = 12
    range_windows: int = 12
    recovered_below: float = 0.7
    recover_windows: int = 25
    block: int = 16
    threshold_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DriftVerdict:
    """`score` is the largest statistic ÷ threshold (≥ 1: drift seen now), `drifted` the state with hysteresis.

    `findings` are the statistics over their thresholds, worst first; `windows` were evaluated since the reset.
    """

    score: float
    drifted: bool
    findings: tuple[DetectorFinding, ...]
    windows: int


class DriftMonitor:
    """Watches F sensors and the anomaly score.

    Args:
        reference: what is normal.
        settings: how sensitive to be.
        sensors: names for findings, F of them; indices where empty.
    """

    def __init__(
        self, reference: DriftReference, settings: DriftSettings | None = None, *, sensors: Sequence[str] = ()
    ) -> None:
        self._settings = settings or DriftSettings()
        self._names = tuple(sensors)
        self.reset(reference)

    @property
    def reference(self) -> DriftReference:
        """What is normal at the moment."""
        return self._reference

    def reset(self, reference: DriftReference) -> None:
        """Start afresh against a new normal, e.g. after a new release went live."""
        names = self._names or tuple(str(i) for i in range(reference.sensors))
        if len(names) != reference.sensors:
            raise ValueError(f"{len(names)} sensor names for a reference of {reference.sensors} sensors")
        self._reference = reference
        self._labels = (*names, "score")
        self._build_detectors(reference)
        self._pending = np.empty((self._settings.block, reference.sensors + 1), np.float32)
        self._filled = self._calm = self._windows = 0
        self._verdict = DriftVerdict(score=0.0, drifted=False, findings=(), windows=0)

    def update(self, x: NDArray[np.floating], score: float) -> None:
        """Add one window: x standardised (F,), `score` ≥ 0. A window that is not finite is skipped."""
        row = self._pending[self._filled]
        row[:-1] = x
        row[-1] = math.log(score + _SMALLEST_SCORE) if score >= 0 else math.nan
        self._filled += 1
        if self._filled == len(self._pending):
            self._filled = 0
            self._evaluate(self._pending)

    def verdict(self) -> DriftVerdict:
        """The verdict over all evaluated blocks; cheap, the same object until the next block is full."""
        return self._verdict

    def state(self) -> bytes:
        """Everything needed to go on after a restart, bound to the reference."""
        arrays: dict[str, NDArray[np.generic]] = {"pending": self._pending[: self._filled]}
        for name, detector in self._detectors().items():
            arrays |= {f"{name}.{key}": value for key, value in detector.state().items()}
        verdict = self._verdict
        counters = {"calm": self._calm, "windows": verdict.windows, "drifted": int(verdict.drifted)}
        return encode_state(self._fingerprint(), counters, arrays)

    def restore(self, state: bytes) -> None:
        """Go on from `state()`; raises DriftStateError (and changes nothing) if it is damaged or of another reference."""
        counters, arrays = decode_state(state, self._fingerprint(), like=self.state())
        for name, detector in self._detectors().items():
            prefix = f"{name}."
            detector.restore({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})
        pending = arrays["pending"]
        self._filled = len(pending)
        self._pending[: self._filled] = pending
        self._calm, self._windows = counters["calm"], counters["windows"]
        self._judge(self._score(), drifted=bool(counters["drifted"]))

    def _build_detectors(self, reference: DriftReference) -> None:
        settings, n, count = self._settings, reference.fitted_on, reference.sensors
        mean, std = np.asarray(reference.mean), np.asarray(reference.std)
        memory = np.asarray(reference.memory or (1.0,) * count)
        score_mean, score_std = log_score_moments(reference)
        edges = np.asarray(reference.edges)
        rates = np.asarray(HISTOGRAM_RATES)
        # One histogram per rate and one CUSUM per sensor, and the score's CUSUM.
        run_length = corrected_run_length(settings.run_length, count * (len(rates) + 1) + 1)
        factor = settings.threshold_factor

        self._histogram = EwmaHistogram(edges, rates)
        per_memory = np.array([histogram_threshold(r, run_length, fitted_on=n) for r in HISTOGRAM_RATES])
        thresholds = per_memory[:, None] * (1.0 + (memory - 1.0) / 2.0) * factor
        # Tied edges (a sensor with few distinct values) make unequal bins; its mean and its checks still watch it.
        tied = (np.diff(edges, axis=1) < 1e-4 * std[:, None]).any(axis=1)
        self._histogram_threshold = np.where(
            tied, np.inf, np.minimum(thresholds, _LARGEST_HISTOGRAM_THRESHOLD)
        )

        all_memory = np.append(memory, reference.score_memory)
        # A mean fitted on n windows is itself off by some 1/√n long-run deviations: not drift, so it is allowed for.
        allowance = settings.allowance + _ALLOWANCE_FOR_FIT / np.sqrt(n)
        self._cusum_threshold = cusum_threshold(run_length, settings.allowance) * factor
        self._cusum = Cusum(
            mean=np.append(mean, score_mean),
            scale=np.append(std, score_std) * np.sqrt(all_memory),
            allowance=np.full(count + 1, allowance),
            ceiling=np.full(count + 1, _CEILING * self._cusum_threshold),
        )
        self._checks = SensorChecks(mean=mean, std=std)
        self._check_threshold = np.array([[settings.stuck_windows], [settings.range_windows]], np.float64)

    def _detectors(self) -> dict[str, EwmaHistogram | Cusum | SensorChecks]:
        return {"histogram": self._histogram, "cusum": self._cusum, "checks": self._checks}

    def _evaluate(self, block: NDArray[np.float32]) -> None:
        if not np.isfinite(block).all():
            block = block[np.isfinite(block).all(axis=1)]
            if not len(block):
                return
        rows = block[:, :-1]
        self._histogram.update(rows)
        self._cusum.update(block)
        self._checks.update(rows)
        self._windows += len(block)
        score = self._score()
        drifted = self._verdict.drifted
        if score >= 1.0:
            drifted, self._calm = True, 0
        elif drifted:
            self._calm = self._calm + len(block) if score < self._settings.recovered_below else 0
            drifted = self._calm < self._settings.recover_windows
        self._judge(score, drifted=drifted)

    def _ratios(self) -> NDArray[np.float64]:
        """Statistic ÷ threshold of each detector (rows) for each label (columns), shape (6, F + 1)."""
        ratios = np.zeros((len(_DETECTORS), len(self._labels)))
        ratios[0:2, :-1] = self._histogram.statistic / self._histogram_threshold
        ratios[2:4] = self._cusum.statistic / self._cusum_threshold
        ratios[4:6, :-1] = self._checks.statistic / self._check_threshold
        # Rising errors are drift; falling ones are a model that got better.
        ratios[3, -1] = 0.0
        return ratios

    def _score(self) -> float:
        return float(self._ratios().max())

    def _judge(self, score: float, *, drifted: bool) -> None:
        findings = self._findings() if score >= 1.0 else ()
        self._verdict = DriftVerdict(score=score, drifted=drifted, findings=findings, windows=self._windows)

    def _findings(self) -> tuple[DetectorFinding, ...]:
        """Everything over its threshold, worst first."""
        ratios = self._ratios()
        worst = np.argsort(ratios, axis=None)[::-1][:_MOST_FINDINGS]
        findings = []
        for detector, column in zip(*np.unravel_index(worst, ratios.shape), strict=True):
            if ratios[detector, column] < 1.0:
                break
            threshold = self._threshold_of(int(detector), int(column))
            findings.append(
                DetectorFinding(
                    detector=_DETECTORS[detector],
                    sensor=self._labels[column],
                    statistic=float(ratios[detector, column] * threshold),
                    threshold=threshold,
                )
            )
        return tuple(findings)

    def _threshold_of(self, detector: int, column: int) -> float:
        if detector < 2:
            return float(self._histogram_threshold[detector, column])
        return float(self._cusum_threshold if detector < 4 else self._check_threshold[detector - 4, 0])

    def _fingerprint(self) -> str:
        content = msgspec.json.encode((self._reference, self._settings))
        return hashlib.sha256(content).hexdigest()


def bootstrap_factor(
    rows: NDArray[np.floating],
    scores: NDArray[np.floating],
    settings: DriftSettings,
    *,
    block: int,
    windows: int,
    chains: int,
    rng: np.random.Generator,
) -> float:
    """The `threshold_factor` that this device's own autocorrelated windows ask for.

    Each chain fits a reference on one block-bootstrap sample of the healthy windows and watches another.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F); n ≥ 10 · `block`.
        scores: their scores, shape (n,).
        settings: whose `run_length` is wanted; its own factor is ignored.
        block: windows that stay together; longer than the autocorrelation.
        windows: length of a chain.
        chains: how many; 50 or more.
        rng: all the randomness.

    Raises:
        ValueError: too few windows for blocks of this length.
    """
    if len(rows) < 10 * block:
        raise ValueError(
            f"a block bootstrap with blocks of {block} needs {10 * block} windows, got {len(rows)}"
        )
    plain = msgspec.structs.replace(settings, threshold_factor=1.0)
    joined = np.column_stack([rows, scores])
    largest = np.empty(chains)
    for chain in range(chains):
        fitted = bootstrap_rows(joined, length=len(rows), block=block, rng=rng)
        monitor = DriftMonitor(fit_reference(fitted[:, :-1], fitted[:, -1]), plain)
        seen = 0.0
        for row in bootstrap_rows(joined, length=windows, block=block, rng=rng):
            monitor.update(row[:-1], float(row[-1]))
            seen = max(seen, monitor.verdict().score)
        largest[chain] = seen
    return factor_for_run_length(largest, windows=windows, run_length=settings.run_length)
