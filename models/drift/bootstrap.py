"""What a device's own healthy windows ask of its drift thresholds: a block bootstrap, run once for each reference.

The table in `models.drift.calibration` knows how long a reference is and how long its sensors remember, and takes the
windows for an autoregression seen through normal scores. Real windows are neither quite that nor independent between
sensors, so the whole set of detectors is played on resampled blocks of the device's own windows:

    healthy windows ─┬─► blocks, shuffled ─► a reference ──┐
                     └─► other blocks, shuffled ───────────┴─► largest ratio of a chain ─► Gumbel ─► factor

The factor only ever makes thresholds larger: a bootstrap of few windows is optimistic, it cannot show what the windows
never did. It takes some tenths of a second for 24 sensors (`benchmarks/drift.py` prints it), when a device has just been
commissioned or a release was committed.

Source: H. R. Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17
(1989).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.drift.monitor import DriftSettings, make_detectors
from models.drift.reference import DriftReference, fit_reference
from models.errors import InputError

__all__ = ["bootstrap_factor", "bootstrap_rows", "factor_for_run_length", "fit_calibrated_reference"]

CHAINS: Final = 24
"""The factor's standard error is then some 0.07; twice as many would make it 0.05, for twice the time."""

CHAIN_WINDOWS: Final = 480
FEWEST_WINDOWS: Final = 80
"""Below this no ten blocks of eight: the table's thresholds stand."""

LARGEST_FACTOR: Final = 3.0
"""Beyond it the detectors would be switched off; a device that asks for more is not stationary, and should be heard."""

_SHORTEST_BLOCK: Final = 8
_MEMORIES_IN_A_BLOCK: Final = 3.0


def fit_calibrated_reference(
    rows: NDArray[np.floating],
    scores: NDArray[np.floating],
    settings: DriftSettings,
    *,
    rng: np.random.Generator,
) -> DriftReference:
    """Learn what normal looks like, and by how much the thresholds must grow for it.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F), n ≥ 20.
        scores: their anomaly scores, shape (n,), not negative.
        settings: whose run length is wanted.
        rng: all the randomness.

    Raises:
        ValueError: as `fit_reference`.
    """
    reference = fit_reference(rows, scores)
    if len(rows) < FEWEST_WINDOWS:
        return reference
    longest = max(*reference.memory, reference.score_memory)
    block = min(max(_SHORTEST_BLOCK, int(_MEMORIES_IN_A_BLOCK * longest)), len(rows) // 10)
    factor = bootstrap_factor(
        rows, scores, settings, block=block, windows=CHAIN_WINDOWS, chains=CHAINS, rng=rng
    )
    return msgspec.structs.replace(reference, threshold_factor=min(factor, LARGEST_FACTOR))


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
    """The factor on thresholds that this device's own autocorrelated windows ask for, ≥ 1.

    Each chain fits a reference on one block-bootstrap sample of the healthy windows and watches another.

    Args:
        rows: standardised healthy windows in the order of time, shape (n, F); n ≥ 10 · `block`.
        scores: their scores, shape (n,).
        settings: whose `run_length` is wanted; its own factor is ignored.
        block: windows that stay together; longer than the autocorrelation.
        windows: length of a chain.
        chains: how many; 20 or more.
        rng: all the randomness.

    Raises:
        InputError: too few windows for blocks of this length.
    """
    if len(rows) < 10 * block:
        raise InputError(
            f"a block bootstrap with blocks of {block} needs {10 * block} windows, got {len(rows)}"
        )
    plain = msgspec.structs.replace(settings, threshold_factor=1.0)
    joined = np.column_stack([rows, scores])
    largest = np.empty(chains)
    for chain in range(chains):
        fitted = bootstrap_rows(joined, length=len(rows), block=block, rng=rng)
        detectors = make_detectors(fit_reference(fitted[:, :-1], fitted[:, -1]), plain)
        watched = bootstrap_rows(joined, length=windows, block=block, rng=rng)
        watched[:, -1] = np.log(np.maximum(watched[:, -1], 1e-12))
        largest[chain] = detectors.largest_ratio(watched.astype(np.float32))
    return factor_for_run_length(largest, windows=windows, run_length=settings.run_length)


def bootstrap_rows(
    rows: NDArray[np.floating], *, length: int, block: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """`length` windows put together from random blocks of `block` successive rows (n, F), in a circle."""
    starts = rng.integers(0, len(rows), size=-(-length // block))
    index = (starts[:, None] + np.arange(block)) % len(rows)
    return np.asarray(rows[index.ravel()[:length]])


def factor_for_run_length(largest: NDArray[np.float64], *, windows: int, run_length: float) -> float:
    """By how much thresholds must grow, given each chain's largest statistic ÷ threshold over `windows` windows.

    Run lengths are taken as exponential, maxima as Gumbel; never below 1, for a bootstrap of few windows is optimistic.
    """
    scale = float(largest.std()) * 6**0.5 / np.pi
    location = float(largest.mean()) - 0.5772 * scale
    return max(1.0, location + scale * float(np.log(run_length / windows)))
